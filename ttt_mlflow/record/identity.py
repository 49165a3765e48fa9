"""By what recorded runs are paired: the configuration that was measured."""

import json
from collections.abc import Iterable

from ttt_mlflow.config import CONFIG_ID_LENGTH, CONFIGURATIONS
from ttt_mlflow.names import TAG_CONFIG_ID
from ttt_mlflow.record.recorded_run import RecordedRun

PairingKeys = dict[str, str]  # id of a run -> its key


def pairing_keys(runs: Iterable[RecordedRun]) -> PairingKeys:
    """A key for each run; runs with equal keys measured the same configuration.

    The key is ``ttt.config_id``. The ids of version 0.1 follow another rule. If there is such a run among ``runs``, all
    are paired by the parameters that the ids cover, and a checkpoint by its path.
    """
    runs = list(runs)
    ids = {run.id: run.tags.get(TAG_CONFIG_ID.name, "") for run in runs}
    if all(len(config_id) == CONFIG_ID_LENGTH for config_id in ids.values()):
        return ids
    return {run.id: _parameters(run) for run in runs}


def identity_of(run: RecordedRun) -> dict[str, object]:
    """The fields of the configuration that its id covers, with the values used."""
    kind = CONFIGURATIONS[run.entry_point]
    settings = run.settings
    covered = {name: settings.get(name) for name in kind.identity}
    return covered | {
        name: settings[name] for name, before in kind.added.items() if settings.get(name, before[0]) not in before
    }


def known_settings(run: RecordedRun) -> dict[str, object]:
    """The fields that can be in the id, for people. None: there is none, as of a model without inner nets.

    A field whose value is not known is absent.
    """
    kind = CONFIGURATIONS[run.entry_point]
    settings = run.settings
    if settings.get("device") is None:  # each run chooses one: this one ended before, and None is what it had to choose
        settings = {name: value for name, value in settings.items() if value is not None}
    known = {name: before[0] for name, before in kind.added.items() if len(before) == 1} | settings
    return {name: known[name] for name in (*kind.identity, *kind.added) if name in known}


def _parameters(run: RecordedRun) -> str:
    return json.dumps(identity_of(run), sort_keys=True, default=list)
