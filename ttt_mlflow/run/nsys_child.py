"""The process that Nsight Systems records: it runs a few steps of a measured configuration.

``python -m ttt_mlflow.run.nsys_child JSON``, with a RunConfig in which all values are chosen. The model is built,
compiled and captured before the recording begins. Each step is an NVTX range; in eager steps, layers and parts are too.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext

from ttt_mlflow.config import RunConfig
from ttt_mlflow.profilers.process import end_with_the_run, recorded
from ttt_mlflow.run.plan import Plan, make_plan
from ttt_mlflow.run.prepare import Prepared, build, clock_warmup_steps, make_ready, to_mean_position, warm_clocks
from ttt_mlflow.workload import STEP, named_by, nvtx, profiled_steps


def main(text: str) -> None:
    plan = make_plan(RunConfig.model_validate_json(text))
    used, device = plan.used, plan.device
    model, prompt = build(plan)
    decoder = make_ready(plan, model, prompt)
    step: Callable[[], object] = decoder.step
    if used.mode == "prefill":
        step = lambda: decoder.prefill(prompt)  # noqa: E731
    else:
        decoder.prefill(prompt)
    warm_clocks(step, clock_warmup_steps(used, device), device)
    to_mean_position(plan, Prepared(prompt, decoder, model), steps(plan))
    on_gpu = device.type == "cuda"
    with recorded(on_gpu), named_by(nvtx) if on_gpu else nullcontext():
        for index in range(steps(plan)):
            with nvtx(f"{STEP}{index}") if on_gpu else nullcontext():
                step()
    print(f"ran {steps(plan)} of {used.run_name}")


def steps(plan: Plan) -> int:
    """How many steps (in prefill mode, prompts) are recorded."""
    return 1 if plan.used.mode == "prefill" else profiled_steps(plan.entry.period)


if __name__ == "__main__":
    end_with_the_run()
    main(sys.argv[1])
