"""Whether a run can fit into the host's memory at all.

The kernel kills a process that takes more than there is, and nothing of it is recorded. So what is certain not to fit
is told before anything is allocated. Only what the run keeps for certain is counted, and all memory that there is.
"""

from ttt_mlflow.errors import OutOfMemory
from ttt_mlflow.plugins import answer_of
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.telemetry.host_memory import most_memory_bytes
from ttt_mlflow.workload import TOKEN_BYTES

STAMP_BYTES = 8  # of a step's end, in the list of a pass


def least_host_bytes(plan: Plan) -> int:
    """The bytes of host memory that a run needs at least: the prompt, the times of a pass and, on a CPU, the model."""
    used = plan.used
    prompt = used.batch * used.promptlen * TOKEN_BYTES
    stamps = (used.genlen if used.mode == "decode" else 1) * STAMP_BYTES
    kept = plan.entry.kept_bytes
    if kept is None or plan.device.type != "cpu":
        return prompt + stamps
    model = answer_of(plan.package, "the memory of the model", lambda: _as_bytes(kept(plan.request, plan.workload)))
    return prompt + stamps + model


def _as_bytes(answer: float) -> int:
    if answer < 0:
        raise ValueError(f"kept_bytes returns {answer}")
    return int(answer)


def refuse_beyond_memory(what: str, needed: int) -> None:
    """Raise OutOfMemory if the host cannot have ``needed`` bytes, which ``what`` needs at least."""
    there = most_memory_bytes()
    if needed > there:
        raise OutOfMemory(
            f"out of memory: {what} does not fit; it needs at least {needed / 1e9:,.1f} GB of host "
            f"memory, and there are {there / 1e9:,.1f} GB with swap space; nothing was allocated"
        )
