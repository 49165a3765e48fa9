"""Checks of the places for records."""

import shutil
import tempfile
from pathlib import Path

from ttt_mlflow.app.doctor.finding import Asked, Wrong
from ttt_mlflow.redaction import without_secrets

FREE_GB = 1.0  # enough for profiler reports and samples of many runs
WRITTEN_BYTES = 1 << 20


def check_folder(folder: Path, purpose: str) -> str:
    """Check that ``folder``, or the folder in which it would be made, is writable and has free space."""
    if reason := _write_fault(folder):
        raise Wrong(f"{folder} {reason}", f"free some space or choose another folder; it is for {purpose}", "failed")
    free_gb = shutil.disk_usage(_existing(folder)).free / 1e9
    if free_gb < FREE_GB:
        raise Wrong(f"{folder}: {free_gb:.2f} GB free", f"free some space: {FREE_GB:g} GB or more for {purpose}")
    return f"{folder}: {free_gb:,.0f} GB free"


def _existing(folder: Path) -> Path:
    """``folder``, or its nearest parent that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _write_fault(folder: Path) -> str | None:
    """Why ``folder`` is not writable, or None if it is. The check writes a file and removes it at once."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
    except OSError as error:
        return f"is not writable ({error.strerror or error})"
    return None


def check_tracking(asked: Asked) -> str:
    from ttt_mlflow.tracking.probe import check_writing
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    uri = resolve_tracking_uri(asked.tracking_uri)
    place = without_secrets(uri)
    if reason := check_writing(uri, asked.experiment_name):
        remedy = "runs stay on disk until `ttt-mlflow sync`; set MLFLOW_TRACKING_URI to a store that can be reached"
        raise Wrong(f"{place}: {reason}", remedy, "failed")
    return f"{place} accepts records"
