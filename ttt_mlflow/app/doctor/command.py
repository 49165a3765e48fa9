"""The command `ttt-mlflow doctor`."""

import sys
from pathlib import Path

from ttt_mlflow.app.doctor import diagnosis
from ttt_mlflow.app.doctor.finding import Asked
from ttt_mlflow.app.doctor.gpu import measure_gpus
from ttt_mlflow.app.job import process_age_s
from ttt_mlflow.app.output import print_text
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.errors import BadInput


def run_doctor(destination: Destination, *, as_json: bool, measure: bool, neighbors: bool = False) -> int:
    """Print the findings and return the exit code. ``measure``: measure the ceilings of each GPU first.

    ``neighbors``: instead, measure whether the GPUs of this host change each other's numbers.
    """
    if neighbors and measure:
        raise BadInput("neighbors: measure is given too; one after the other: `ttt-mlflow doctor --measure` first")
    if neighbors:
        from ttt_mlflow.app.neighbors.command import run_neighbors

        return run_neighbors(destination, as_json)
    seconds = max(diagnosis.LEAST_SECONDS, diagnosis.SECONDS - process_age_s())  # --measure is not part of this limit
    # with as_json, the JSON has the ceilings, and progress goes to standard error
    measured = measure_gpus(lambda text: print(text, file=sys.stderr if as_json else sys.stdout)) if measure else None
    asked = Asked(Path(destination.logdir), destination.tracking_uri, destination.experiment_name)
    findings = diagnosis.diagnose(asked, seconds)
    print_text(diagnosis.findings_json(findings, measured) if as_json else diagnosis.findings_text(findings))
    return diagnosis.exit_code(findings)
