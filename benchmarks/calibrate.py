"""Finds how long a step has to wait for a slowdown of a given percentage.

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

SECONDS = 1.5  # of passes, for each comparison
PASSES_LEAST = 8


@dataclass(frozen=True)
class Calibration:
    """wait_us: the wait in each step. seen_pct: the resulting slowdown, measured. step_us: a step without the wait."""

    wait_us: float
    seen_pct: float
    step_us: float


def calibrate(asked: dict[str, Any], slowdown_pct: float) -> Calibration:
    """Find the wait that makes a step of ``asked`` take ``slowdown_pct`` longer, including the launch of the wait.

    Raises BadInput if the launch alone takes longer than that.
    """
    plan = make_plan(RunConfig.parse(asked))
    used, device = plan.used, plan.request.device
    wait_us = 0.0
    model = plan.entry.factory(plan.request)
    prompt = make_prompt(used, model.vocab_size, device)
    plain = make_ready(plan, model, prompt)
    if not isinstance(plain, ModelDecoder):
        raise BadInput(f"model={used.model_name}: it decodes with its own code, in which no wait can be inserted")
    # both decode with one model; if it compiles its layers itself, they are compiled by now
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
            f"slowdown-pct={slowdown_pct:g}: even a wait of 0 makes a step of {base_us:.1f} µs "
            f"{launch_us - base_us:.1f} µs longer; request a larger slowdown, or a larger batch"
        )
    wait_us = factor * base_us - launch_us
    base_us, slowed_us = look()
    wait_us = max(0.0, wait_us + factor * base_us - slowed_us)  # approximate, because the clock advances in steps
    base_us, slowed_us = look()
    plain.close()
    slowed.close()
    return Calibration(wait_us, 100 * (slowed_us / base_us - 1), base_us)


def in_turn(passes: list[Callable[[], float]]) -> list[float]:
    """The medians of passes that alternate for SECONDS. The first quarter is a warm-up and does not count."""
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
