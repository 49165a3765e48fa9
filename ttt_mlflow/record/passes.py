"""The timed passes of a decode or prefill run, read from its record."""

from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import ARTIFACT_PASSES
from ttt_mlflow.record.recorded_run import RecordedRun, read_object


def throughputs(run: RecordedRun) -> list[float]:
    """The tokens/s of each complete pass of a run, in the order of time. Raises BadInput if there is none."""
    config = run.settings
    passes = read_object(run, ARTIFACT_PASSES)
    try:
        tokens = passes.get("tokens_per_pass")
        if tokens is None:  # an older record, or a run that ended before its passes
            tokens = config["batch"] * (config["genlen"] if config["mode"] == "decode" else config["promptlen"])
        timed = zip(passes.get("repeat_total_ms", []), passes.get("repeat_complete", []), strict=True)
        rates = [1e3 * tokens / ms for ms, complete in timed if complete]
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
