"""Sweeps in this process, published in this process: what is tested there is not about processes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.inline import InlinePublisher
from tests.project import QUICK, new_store
from tests.tracking.conftest import server_folder, server_uri
from ttt_mlflow.app import publishing
from ttt_mlflow.cli import cli
from ttt_mlflow.models import registry
from ttt_mlflow.models.entry import ModelEntry, ModelRequest

__all__ = ["server_folder", "server_uri"]

Sweep = Callable[..., Result]
QUICKLY = [f"--{name}={value}" for name, value in QUICK.items() if name not in ("batch", "model_name")]
BROKEN = "broken"  # a model that cannot be built


@pytest.fixture(autouse=True)
def _own_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY":
            monkeypatch.delenv(name)
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def sweep() -> Sweep:
    """``ttt-mlflow sweep`` of a tiny model, in this process."""

    def run(*words: str) -> Result:
        out, err = sys.stdout, sys.stderr
        try:
            model = [] if any(word.startswith(("--model", "--grid")) for word in words) else ["--model-name=ttt-tiny"]
            return CliRunner().invoke(cli, ["sweep", "--executor=inline", *QUICKLY, *model, *words])
        finally:
            sys.stdout, sys.stderr = out, err

    return run


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """A model that fails when it is built, until ``repaired`` is put into the environment."""

    def build(request: ModelRequest) -> object:
        if "REPAIRED" not in os.environ:
            raise RuntimeError("it does not build")
        return registry.find_model("ttt-tiny").factory(ModelRequest(**{**vars(request), "name": "ttt-tiny"}))

    own = registry._load_own()
    entry = ModelEntry(BROKEN, build, "broken", inner_nets=("mlp_1_dual",))  # type: ignore[arg-type]
    monkeypatch.setitem(registry._registered, BROKEN, entry)
    monkeypatch.setattr(registry, "_load_own", lambda: (*own, BROKEN))
    return entry


class Stored:
    """What a store has of the sweeps in an experiment."""

    def __init__(self, uri: str, experiment: str = "ttt-mlflow") -> None:
        self.client = MlflowClient(uri)
        self._experiment = experiment

    @property
    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self._experiment)
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]))

    @property
    def parents(self) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("ttt.kind") == "sweep"]

    @property
    def parent(self) -> Run:
        (only,) = self.parents
        return only

    @property
    def children(self) -> list[Run]:
        """Those of the only parent; all other runs of the experiment must be."""
        parent = self.parent
        children = [run for run in self.runs if run.info.run_id != parent.info.run_id]
        assert all(run.data.tags.get("mlflow.parentRunId") == parent.info.run_id for run in children)
        return children

    def names(self, *statuses: str) -> list[str]:
        """The names of the children, sorted, with one of the statuses; without any: of all."""
        found = [run for run in self.children if not statuses or run.data.tags["ttt.status"] in statuses]
        return sorted(str(run.info.run_name) for run in found)
