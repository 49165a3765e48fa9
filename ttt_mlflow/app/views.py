"""Carries out ``ttt-mlflow views``, and tells where a run is seen in MLflow's UI."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.app.output import print_text, progress_lines
from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import without_secrets

if TYPE_CHECKING:
    from ttt_mlflow.tracking.publish import PublishedRun
    from ttt_mlflow.tracking.view_states import View
    from ttt_mlflow.tracking.views import Prepared

LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens


def write_views(tracking_uri: str | None, experiment_name: str | None, update_runs: bool) -> None:
    """Write the saved views and the description again, and print the links; with ``update_runs`` first update old runs.

    Raises BadInput for an unknown experiment, and for a store that does not answer or refuses.
    """
    from ttt_mlflow.tracking import update_runs as old_runs
    from ttt_mlflow.tracking import views
    from ttt_mlflow.tracking.store import CHECK_STORE, client_for_reading, explain, known_errors, resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri)
    doing = "read"
    try:
        with client_for_reading(uri) as client:
            experiments = views.chosen_experiments(client, uri, experiment_name)
            doing = "written"
            for experiment in experiments:
                if update_runs:
                    updated = old_runs.update_runs(client, experiment.experiment_id, progress_lines())
                    print_text(
                        f"{experiment.name}: {updated.runs} runs, {updated.changed} updated; "
                        f"the mark of the best changed in {updated.marked}"
                    )
                _print_views(without_secrets(uri), views.prepare_experiment(client, experiment))
    except known_errors() as error:
        why = f"cannot be {doing} ({explain(error, uri)}); {CHECK_STORE}"
        raise BadInput(f"tracking_uri={without_secrets(uri)}: {why}") from None


def _print_views(place: str, done: "Prepared") -> None:
    from ttt_mlflow.tracking.view_states import VIEWS
    from ttt_mlflow.tracking.views import older_runs_note

    print_text(f"{done.experiment_name}: written: {', '.join(done.written) or 'nothing, all is up to date'}")
    if done.kept:
        print_text(f"{done.experiment_name}: kept, because a person changed it: {', '.join(done.kept)}")
    if done.shared:
        print_text(f"{done.experiment_name}: no description, because other runs are in the experiment too")
    if done.has_older_runs:
        print_text(older_runs_note(done.experiment_name))
    if not _is_server(place):
        print_text(f"MLflow UI: {ui_command(place)}")
    for view in VIEWS:
        for line in _link_lines(view, _base(place), done.experiment_id):
            print_text(line)


def _link_lines(view: "View", base: str, experiment_id: str) -> list[str]:
    """The links of a view: MLflow shows charts, the table and kernels side by side on pages of their own."""
    from ttt_mlflow.tracking.view_states import WORDS, view_link

    return [f"{view.name}, {WORDS[mode]}: {view_link(base, experiment_id, view, mode)}" for mode in view.modes]


def ui_lines(published: "PublishedRun", kind: str) -> list[str]:
    """Where a run and others like it are seen: links, and for a file the command that opens the UI."""
    from ttt_mlflow.tracking.view_states import OF_KIND

    place, base = published.tracking_uri, _base(published.tracking_uri)
    run_url = published.run_url or run_link(published.tracking_uri, published.experiment_id, published.run_id)
    lines = [f"MLflow UI: {published.run_url or ui_command(place)}"]
    if not published.run_url:
        lines.append(f"This run: {run_url}")
    view = OF_KIND.get(kind)
    if view and published.has_views:
        lines += _link_lines(view, base, published.experiment_id)
    return lines


def run_link(place: str, experiment_id: str, run_id: str) -> str:
    """Where a run of the store ``place`` is seen; for a file once `mlflow ui` listens at its usual address."""
    return f"{_base(place).rstrip('/')}/{run_place(experiment_id, run_id)}"


def run_place(experiment_id: str, run_id: str) -> str:
    """The same within MLflow's own pages, wherever those are."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def ui_command(place: str) -> str:
    """The command that opens the UI on the store ``place``. It uses this environment's mlflow, not the shell's."""
    beside = Path(sys.executable).with_name("mlflow")
    mlflow = shlex.quote(str(beside)) if beside.exists() else "mlflow"
    return f"{mlflow} ui --backend-store-uri {shlex.quote(place)}"


def _is_server(place: str) -> bool:
    return urlsplit(place).scheme in ("http", "https")


def _base(place: str) -> str:
    return place if _is_server(place) else LOCAL_UI
