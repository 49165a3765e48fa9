"""The timed passes of a decode or prefill run, read from its record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import ARTIFACT_PASSES
from ttt_mlflow.record.recorded_run import RecordedRun, read_object

# of a pass, generously: a nanosecond and thirty years. Other numbers are no measurement, and a comparison computes with
# their logarithms and squares
SHORTEST_MS, LONGEST_MS, MOST_TOKENS = 1e-6, 1e12, 1e18


@dataclass(frozen=True)
class TimedPass:
    """A complete pass: when it began and ended, in ms since 1970 by the host's clock, and its tokens/s."""

    began_ms: float
    ended_ms: float
    rate: float


def throughputs(run: RecordedRun) -> list[float]:
    """The tokens/s of each complete pass of a run, in the order of time. Raises BadInput if there is none."""
    passes = read_object(run, ARTIFACT_PASSES)
    return [rate for rate, _ in _complete(run, passes)]


def timed_passes(run: RecordedRun) -> list[TimedPass]:
    """The complete passes of a run with their times, in the order of time.

    Raises BadInput if there is none, and for a record of a version that did not keep the times.
    """
    passes = read_object(run, ARTIFACT_PASSES)
    rates = _complete(run, passes)
    ended, walls = passes.get("repeat_ended_ms"), passes.get("repeat_wall_ms")
    if not (isinstance(ended, list) and isinstance(walls, list) and len(ended) == len(walls) > rates[-1][1]):
        raise BadInput(f"{run.id}: {ARTIFACT_PASSES.path} does not say when its passes ended; measure it again")
    return [TimedPass(ended[place] - walls[place], ended[place], rate) for rate, place in rates]


def _complete(run: RecordedRun, passes: dict[str, Any]) -> list[tuple[float, int]]:
    """The tokens/s of each complete pass, with its place among all passes. Raises BadInput if there is none."""
    try:
        rates = list(_rates(run, passes))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadInput(
            f"{run.id}: {ARTIFACT_PASSES.path} does not hold the passes of a run ({type(error).__name__}: {error}); "
            "choose another run"
        ) from None
    if not rates:
        todo = "choose another run"
        if run.status == "running":
            todo = "wait for its end; if it was killed, `ttt-mlflow sync` records the passes that it had"
        raise BadInput(f"{run.id}: the run has no complete pass to compare (status {run.status}); {todo}")
    return rates


def _rates(run: RecordedRun, passes: dict[str, Any]) -> Iterator[tuple[float, int]]:
    config = run.settings
    tokens = passes.get("tokens_per_pass")
    if tokens is None:  # an older record, or a run that ended before its passes
        tokens = config["batch"] * (config["genlen"] if config["mode"] == "decode" else config["promptlen"])
    timed = zip(passes.get("repeat_total_ms", []), passes.get("repeat_complete", []), strict=True)
    for place, (ms, complete) in enumerate(timed):
        if complete:
            if not SHORTEST_MS <= ms <= LONGEST_MS or not 0 < tokens <= MOST_TOKENS:
                raise ValueError(f"{tokens} tokens in {ms} ms")
            yield 1e3 * tokens / ms, place
