"""The command `ttt-mlflow doctor`."""

import sys
from pathlib import Path

from ttt_mlflow.app.doctor import diagnosis
from ttt_mlflow.app.doctor.finding import Asked
from ttt_mlflow.app.doctor.gpu import measure_gpus
from ttt_mlflow.app.job import Destination, process_age_s
from ttt_mlflow.app.output import print_text
from ttt_mlflow.tracking.store import resolve_tracking_uri


def run_doctor(destination: Destination, *, as_json: bool, measure: bool) -> int:
    """Print the findings, with ``measure`` after measuring the ceilings of each GPU; return the exit code."""
    seconds = max(diagnosis.LEAST_SECONDS, diagnosis.SECONDS - process_age_s())  # --measure takes its own time
    # with as_json the ceilings are in the JSON, and the lines for people go to standard error
    measured = measure_gpus(lambda text: print(text, file=sys.stderr if as_json else sys.stdout)) if measure else None
    uri = resolve_tracking_uri(destination.tracking_uri)
    findings = diagnosis.diagnose(Asked(Path(destination.logdir), uri, destination.experiment_name), seconds)
    print_text(diagnosis.findings_json(findings, measured) if as_json else diagnosis.findings_text(findings))
    return diagnosis.exit_code(findings)
