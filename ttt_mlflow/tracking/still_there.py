"""Whether a run in MLflow has all that its record has."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from posixpath import join
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.run_values import record_id
from ttt_mlflow.tracking.store import client_for_reading, clipped, explain, known_errors, resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Stores:
    """Stores that are asked, each opened once. ``opened`` closes them."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened
        self._clients: dict[str, MlflowClient] = {}

    def lacks(self, uri: str, journal: Journal, run_id: str) -> str | None:
        """What the run lacks in the store ``uri``, in words; None if it has all. Not answering is lacking it."""
        try:
            if uri not in self._clients:
                self._clients[uri] = self._opened.enter_context(client_for_reading(resolve_tracking_uri(uri)))
            return lacks(self._clients[uri], journal, run_id)
        except known_errors() as error:
            return f"cannot be asked ({explain(error)})"


@contextmanager
def open_stores() -> Iterator[Stores]:
    with ExitStack() as opened:
        yield Stores(opened)


def lacks(client: "MlflowClient", journal: Journal, run_id: str) -> str | None:
    """What the run ``run_id`` lacks of the record, in words; None if it has all: values, and artifacts by their size.

    Raises what MLflow raises if the store does not answer.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return f"has no run {run_id}"
        raise
    if run.data.tags.get(names.TAG_JOURNAL_ID.name) != record_id(journal):
        return f"has a run {run_id} of something else"
    if run.info.lifecycle_stage != "active" or run.info.status == "RUNNING":
        return f"has the run {run_id} as {'running' if run.info.lifecycle_stage == 'active' else 'deleted'}"
    params = {name: clipped(value, MAX_PARAM_VAL_LENGTH) for name, value in journal.params.items()}
    missing = [name for name, value in params.items() if run.data.params.get(name) != value]
    missing += [name for name, value in journal.metrics.items() if not _equal(run.data.metrics.get(name), value)]
    missing += [name for name, points in journal.series.items() if points and name not in run.data.metrics]
    if not missing:
        sizes = _sizes(client, run_id)
        wanted = {name: (journal.artifacts / name).stat().st_size for name in journal.artifact_files()}
        missing = [name for name, size in wanted.items() if sizes.get(name) != size]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"lacks {missing[0]}{more} of the run {run_id}"
    return None


def _equal(there: float | None, here: float) -> bool:
    return there is not None and math.isclose(there, here, rel_tol=1e-12)


def _sizes(client: "MlflowClient", run_id: str, folder: str = "") -> dict[str, int]:
    """The artifacts of the run, by path, with their sizes."""
    found: dict[str, int] = {}
    for item in client.list_artifacts(run_id, folder or None):
        if item.is_dir:
            found |= _sizes(client, run_id, join(folder, item.path) if not item.path.startswith(folder) else item.path)
        elif item.file_size is not None:
            found[item.path] = item.file_size
    return found
