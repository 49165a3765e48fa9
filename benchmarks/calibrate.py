"""How long a step has to wait for a slowdown of a given percentage.

``python -m benchmarks.calibrate ASKED_JSON SLOWDOWN_PCT`` prints the :class:`Calibration` as JSON, last.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.passes import timed_pass
from benchmarks.spin import SpinningModel
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput, TTTError
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prepare import make_prompt, make_ready

SECONDS = 1.5  # of passes, for each look
PASSES_LEAST = 8


@dataclass(frozen=True)
class Calibration:
    """wait_us: what each step waits. seen_pct: how much longer it then took, tried out. step_us: without the wait."""

    wait_us: float
    seen_pct: float
    step_us: float


def calibrate(asked: dict[str, Any], slowdown_pct: float) -> Calibration:
    """What makes a step of ``asked`` take ``slowdown_pct`` longer, the launch of the wait included.

    Raises BadInput where the launch alone takes longer than that.
    """
    plan = make_plan(RunConfig.parse(asked))
    used, device = plan.used, plan.request.device
    wait_us = 0.0
    model = plan.entry.factory(plan.request)
    prompt = make_prompt(used, model.vocab_size, device)
    plain = make_ready(plan, model, prompt)
    if not isinstance(plain, ModelDecoder):
        raise BadInput(f"model={used.model_name}: decodes through its own code, and a wait cannot be put into its step")
    # both decode with one model, whose layers are compiled by now where it compiles them itself
    compiling = bool(used.use_compile) and not hasattr(model, "compile_step")
    as_slowed = used.model_copy(update={"use_compile": compiling})
    slowed = make_ready(replace(plan, used=as_slowed), SpinningModel(model, device, lambda number: wait_us), prompt)
    passes = [timed_pass(decoder, prompt, used.genlen, device) for decoder in (plain, slowed)]

    def look() -> tuple[float, float]:
        plain_ms, slowed_ms = in_turn(passes)
        return 1e3 * plain_ms / used.genlen, 1e3 * slowed_ms / used.genlen

    factor = 1 + slowdown_pct / 100
    base_us, launch_us = look()
    if launch_us >= factor * base_us:
        raise BadInput(
            f"slowdown-pct={slowdown_pct:g}: a step of {base_us:.1f} µs takes {launch_us - base_us:.1f} µs longer "
            "with a wait of 0 already; ask for a larger slowdown, or a larger batch"
        )
    wait_us = factor * base_us - launch_us
    base_us, slowed_us = look()
    wait_us = max(0.0, wait_us + factor * base_us - slowed_us)  # a clock that moves in steps is not hit exactly
    base_us, slowed_us = look()
    plain.close()
    slowed.close()
    return Calibration(wait_us, 100 * (slowed_us / base_us - 1), base_us)


def in_turn(passes: list[Callable[[], float]]) -> list[float]:
    """The median of each, made one after the other for SECONDS; the first quarter warms up and does not count."""
    times: list[list[float]] = []
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS or len(times) < PASSES_LEAST:
        times.append([one_pass() for one_pass in passes])
    return [float(ms) for ms in np.median(times[len(times) // 4 :], axis=0)]


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(calibrate(json.loads(sys.argv[1]), float(sys.argv[2])))))
    except TTTError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
