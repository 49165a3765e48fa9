"""The process that Nsight Systems records: a few steps of a configuration that was measured.

``python -m ttt_mlflow.run.nsys_child JSON``, with a RunConfig in which nothing is left open. The model is built,
compiled and captured before the recording begins. Each step is an NVTX range; in eager steps layers and parts are, too.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.profilers.process import end_with_the_run
from ttt_mlflow.run.plan import resolve
from ttt_mlflow.run.prepare import make_prompt, make_ready, profiled_steps, settle, settling_steps
from ttt_mlflow.workload import STEP, named_by, nvtx


def main(text: str) -> None:
    resolved = resolve(RunConfig.model_validate_json(text))
    used, device = resolved.used, resolved.request.device
    model = resolved.entry.factory(resolved.request)
    prompt = make_prompt(used, model.vocab_size, device)
    decoder = make_ready(used, model, prompt, resolved.entry.period)
    step: Callable[[], object] = decoder.step
    count = profiled_steps(resolved.entry.period)
    if used.mode == "prefill":
        step, count = (lambda: decoder.prefill(prompt)), 1
    else:
        decoder.prefill(prompt)
    settle(step, settling_steps(used, device), device)
    on_gpu = device.type == "cuda"
    with _recording(on_gpu), named_by(nvtx) if on_gpu else nullcontext():
        for index in range(count):
            with nvtx(f"{STEP}{index}") if on_gpu else nullcontext():
                step()
    print(f"ran {count} of {used.run_name}")


@contextmanager
def _recording(on_gpu: bool) -> Iterator[None]:
    """What Nsight Systems keeps: all that the GPU does for the block."""
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
    yield
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    end_with_the_run()
    main(sys.argv[1])
