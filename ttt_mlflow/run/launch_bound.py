"""Whether a step waits for kernel launches rather than for memory or arithmetic: such runs feel a busy host most.

The rule is written down in docs/sweep.md, and only orders the runs of a sweep. It changes nothing of a measurement.
"""

from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, known_ceilings
from ttt_mlflow.measurement.roofline import floor_ms
from ttt_mlflow.run.plan import Plan

# Of ttt-1b at batch 1 on an H200: 1.515 ms a step, of which 0.59 ms are the roofline time of its 171 stages. The rest
# is 5.4 µs a stage: a stage with less work than about that takes longer to start and to end than to do its work.
LAUNCH_US = 5.0
# Where the GPU's ceilings or the model's work are not known. Up to this batch, a step of ttt-1b takes as long as with
# one sequence (1.60 and 1.52 ms); at batch 128 it takes 1.3 times as long.
FEW_TOKENS = 16


def launch_bound(plan: Plan) -> str | None:
    """Why a step of ``plan`` (in prefill mode, its prompt) counts as launch-bound, in words; None if it does not."""
    if (us := _us_per_stage(plan)) is not None:
        return f"{us:.2g} µs of work in a stage, under {LAUNCH_US:g}" if us < LAUNCH_US else None
    timed = plan.workload
    tokens = timed.batch * (timed.promptlen if timed.mode == "prefill" else 1)
    return (
        f"{tokens} token{'s' if tokens > 1 else ''} in a step, at most {FEW_TOKENS}" if tokens <= FEW_TOKENS else None
    )


def _us_per_stage(plan: Plan) -> float | None:
    """The mean roofline time of a stage, each execution counted; None where the ceilings or the work are not known."""
    if plan.entry.work is None or plan.device.type != "cuda":
        return None
    try:
        ceilings = known_ceilings(plan.device)
    except CeilingsUnknown:
        return None
    stages = plan.stages("the work of a step") or []
    count = sum(stage.count for stage in stages)
    return 1e3 * floor_ms(stages, ceilings) / count if count else None
