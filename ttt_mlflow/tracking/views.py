"""Prepares an experiment in MLflow's UI: its saved views and its description. What a person wrote is kept.

A saved view is one tag of the experiment. Our ids are fixed, so that two runs at once write one set. The tag
``ttt.views`` has a hash of each text that was written. A text that no longer fits its hash was changed by a person.
"""

import base64
import hashlib
import json
import os
import shlex
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttt_mlflow import names
from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.query import MLFLOW_DEFAULT, Store
from ttt_mlflow.tracking.store import DEFAULT_EXPERIMENT, explain, known_errors
from ttt_mlflow.tracking.view_states import VERSION, VIEWS, View, description

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

SHARED_VIEW = "mlflow.sharedViewState."  # followed by the view's id
NOTE = "mlflow.note.content"
# A run without any of these is not ours. A run that `mlflow run` has just started has none of them yet.
OWN = (names.TAG_JOURNAL_ID, names.TAG_ENTRY_POINT, names.TAG_KIND, names.TAG_STATUS)
RUNNING_PROJECT = "mlflow.project.entryPoint"


@dataclass
class Prepared:
    """What was done to an experiment.

    shared: other people's runs are in the experiment, so that it gets no description. has_older_runs: runs of version
    0.1 are in it, which the views do not show. written, kept: names of views, or ``description``. kept: a person has
    changed it.
    """

    experiment_id: str
    experiment_name: str
    shared: bool
    has_older_runs: bool
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def prepare_if_new(client: "MlflowClient", experiment_id: str) -> tuple[bool, tuple[str, ...]]:
    """Prepare the experiment unless this program has done so. Returns whether it has our views, and what to tell.

    One request for an experiment that is prepared already. A store that refuses is told, not raised.
    """
    try:
        experiment = client.get_experiment(experiment_id)
        if names.TAG_VIEWS.name in experiment.tags:
            return True, ()
        done = prepare_experiment(client, experiment)
    except known_errors() as error:
        return False, (
            f"Warning: the saved views of experiment {experiment_id} could not be written ({explain(error)}); "
            "`ttt-mlflow views` writes them later",
        )
    return True, (older_runs_note(done.experiment_name),) if done.has_older_runs else ()


def older_runs_note(experiment_name: str) -> str:
    """How to get runs of version 0.1 into the views."""
    command = f"ttt-mlflow views --update-runs --experiment-name {shlex.quote(experiment_name)}"
    return (
        f"Note: the views do not show older runs in {experiment_name}, which have no tag {names.TAG_KIND.name}; "
        f"this adds it: `{command}`"
    )


def chosen_experiments(client: "MlflowClient", uri: str, name: str | None) -> list["Experiment"]:
    """The experiment that is asked for, by ``name`` or in the environment; else those of the default with our runs.

    Raises BadInput if there is none.
    """
    ids = Store(client, uri, Path()).experiments(name)
    if not (name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID")):
        own = f"tags.`{names.TAG_ENTRY_POINT.name}` IS NOT NULL"
        ids = [one for one in ids if client.search_runs([one], own, max_results=1)]
    if not ids:
        raise BadInput(
            f"{without_secrets(uri)}: no run of ttt-mlflow in the experiments {DEFAULT_EXPERIMENT} and "
            f"{MLFLOW_DEFAULT}; name the experiment with --experiment-name"
        )
    return [client.get_experiment(one) for one in ids]


def prepare_experiment(client: "MlflowClient", experiment: "Experiment") -> Prepared:
    """Write the views that are missing or that are an older version's, and the description if only our runs are here.

    Raises what the store raises.
    """
    experiment_id, now = str(experiment.experiment_id), int(time.time() * 1000)
    shared, older = _is_shared(client, experiment_id), _has_older_runs(client, experiment_id)
    done = Prepared(experiment_id, experiment.name, shared, older)
    # the menu lists the newest view first
    wanted = {SHARED_VIEW + view.id: (view.name, _envelope(view, now - age)) for age, view in enumerate(VIEWS)}
    if not done.shared:
        wanted[NOTE] = ("description", description(experiment_id))
    earlier = _hashes(experiment.tags)
    hashes = dict(earlier)
    for key, (name, value) in wanted.items():
        current = experiment.tags.get(key)
        if current and _hash(current) == _hash(value):
            hashes[key] = _hash(value)
        elif not current or _hash(current) == earlier.get(key):
            _set_tag(client, experiment_id, key, value)
            hashes[key] = _hash(value)
            done.written.append(name)
        else:
            done.kept.append(name)
    marker = json.dumps({"version": VERSION, "written": hashes}, sort_keys=True)
    if experiment.tags.get(names.TAG_VIEWS.name) != marker:
        _set_tag(client, experiment_id, names.TAG_VIEWS.name, marker)
    return done


def _set_tag(client: "MlflowClient", experiment_id: str, key: str, value: str) -> None:
    """Set a tag. If another run sets the same one at this moment, MLflow refuses one of the two, whose work is done."""
    try:
        client.set_experiment_tag(experiment_id, key, value)
    except known_errors():
        current = client.get_experiment(experiment_id).tags.get(key)
        if current is None or _hash(current) != _hash(value):
            raise


def _is_shared(client: "MlflowClient", experiment_id: str) -> bool:
    """Whether runs of something else are in the experiment.

    A project's run that has not ended does not count: `mlflow run` makes it before our process can mark it as ours.
    """
    from mlflow.entities import ViewType

    foreign = " AND ".join(f"tags.`{tag.name}` IS NULL" for tag in OWN)
    for condition in (
        f"{foreign} AND attributes.status != 'RUNNING'",
        f"{foreign} AND tags.`{RUNNING_PROJECT}` IS NULL",
    ):
        if client.search_runs([experiment_id], condition, ViewType.ACTIVE_ONLY, max_results=1):
            return True
    return False


def _has_older_runs(client: "MlflowClient", experiment_id: str) -> bool:
    condition = f"tags.`{names.TAG_ENTRY_POINT.name}` IS NOT NULL AND tags.`{names.TAG_KIND.name}` IS NULL"
    return bool(client.search_runs([experiment_id], condition, max_results=1))


def _envelope(view: View, created_at: int) -> str:
    """The value of a view's tag. created_at: ms since 1970."""
    packed = zlib.compress(json.dumps(view.state()).encode())  # zlib's format, not deflate's, whatever the prefix says
    state = "deflate;" + base64.b64encode(packed).decode()
    return json.dumps({"name": view.name, "createdAt": created_at, "updatedAt": created_at, "state": state})


def _content(value: str) -> Any:
    """What a person sees of a tag's value: a view's name and state, or the text itself."""
    try:
        envelope = json.loads(value)
        state = envelope["state"]
        if state.startswith("deflate;"):
            state = zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))).decode()
        return [envelope["name"], json.loads(state)]
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return value.strip()


def _hash(value: str) -> str:
    return hashlib.sha256(json.dumps(_content(value), sort_keys=True).encode()).hexdigest()[:16]


def _hashes(tags: dict[str, str]) -> dict[str, str]:
    """Hashes of the texts that an earlier preparation wrote, by the key of their tag."""
    try:
        return {str(key): str(one) for key, one in json.loads(tags[names.TAG_VIEWS.name])["written"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
