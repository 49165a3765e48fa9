"""Which run `mlflow run` and the environment lead to: exactly one, and never somebody else's."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests.project import QUICK, ROOT, environment, mlflow_run, new_store, run, ttt_mlflow_run

TINY = {name: QUICK[name] for name in ("model_name", "genlen", "warmup", "repeats", "device")}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return new_store(tmp_path)


def all_runs(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    ids = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(ids, run_view_type=ViewType.ALL))


@pytest.mark.long
def test_the_mission_leaves_exactly_one_run(store: str, tmp_path: Path) -> None:
    """Declared parameters, one that is not declared, and a value that a shell would divide."""
    asked = {"batch": "2", "inner_net": "mlp_2_dual", **TINY, "thresholds": "section_s=0,half_width_pct=1000"}
    done = run(mlflow_run({**asked, "logdir": str(tmp_path / "a folder")}), environment(store))
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = all_runs(store)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "ttt-tiny mlp_2_dual b2 g3 cpu")
    assert found.data.tags["mlflow.source.type"] == "PROJECT"
    (record,) = (tmp_path / "a folder").iterdir()
    assert found.data.tags["ttt.journal_id"] == record.name


@pytest.mark.long
@pytest.mark.parametrize("refused", [{"batch": "0"}, {"foo": "1"}, {"experiment_name": "x"}])
def test_a_refused_one_too(refused: dict[str, str], store: str, tmp_path: Path) -> None:
    done = run(mlflow_run({**TINY, **refused, "logdir": str(tmp_path / "runs")}), environment(store))
    assert done.returncode != 0
    (found,) = all_runs(store)
    assert found.info.status == "FAILED"
    ((name, value),) = refused.items()
    assert found.data.tags["ttt.message"].startswith(f"{name}={value}: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
@pytest.mark.parametrize("batch", ["2", "0"])
def test_somebody_elses_run_stays_as_it_is(batch: str, store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    training = client.create_run("0", run_name="somebody's training").info.run_id
    client.log_param(training, "batch", batch)
    client.log_metric(training, "loss", 1.0)
    before = client.get_run(training).to_dictionary()
    command = ttt_mlflow_run({**QUICK, "batch": batch, "logdir": str(tmp_path / "runs")})
    done = run(command, {**environment(store), "MLFLOW_RUN_ID": training}, ROOT)
    assert client.get_run(training).to_dictionary() == before
    others = [one for one in all_runs(store) if one.info.run_id != training]
    if batch == "0":
        assert (done.returncode, others) == (2, [])
        return
    assert done.returncode == 0, done.stderr
    (own,) = others
    assert own.info.status == "FINISHED"
    told = f"Note: MLFLOW_RUN_ID={training}: left as it is (`mlflow run` did not make it); this run gets one of its own"
    assert told in done.stderr.splitlines()
