"""Checks of where records go."""

import shutil
import tempfile
from pathlib import Path

from ttt_mlflow.app.doctor.finding import Asked, Wrong

FREE_GB = 1.0  # profiler reports and samples of many runs
WRITTEN_BYTES = 1 << 20


def check_folder(folder: Path, purpose: str) -> str:
    """``folder``, or where it would be made, takes a file and has room."""
    if reason := _write_fault(folder):
        raise Wrong(f"{folder} {reason}", f"make room or choose another one: it is for {purpose}", "failed")
    free_gb = shutil.disk_usage(_existing(folder)).free / 1e9
    if free_gb < FREE_GB:
        raise Wrong(f"{folder}: {free_gb:.2f} GB free", f"make room: {FREE_GB:g} GB or more for {purpose}")
    return f"{folder}: {free_gb:,.0f} GB free"


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _write_fault(folder: Path) -> str | None:
    """Why nothing can be written there, found out with a file that is gone at once; None where it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
    except OSError as error:
        return f"cannot be written to ({error.strerror or error})"
    return None


def check_tracking(asked: Asked) -> str:
    from ttt_mlflow.tracking.probe import check_writing
    from ttt_mlflow.tracking.store import without_password

    place = without_password(asked.tracking_uri)
    if reason := check_writing(asked.tracking_uri, asked.experiment_name):
        remedy = "runs would stay on disk until `ttt-mlflow sync`; set MLFLOW_TRACKING_URI to one that can be reached"
        raise Wrong(f"{place}: {reason}", remedy, "failed")
    return f"{place} takes records"
