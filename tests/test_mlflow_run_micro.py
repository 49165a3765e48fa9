"""``mlflow run -e micro`` as a person types it, and what MLflow's client reads back."""

import json
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.catalog import ARTIFACT_PATHS, KERNEL_METRIC_NAMES, TAG_NAMES
from tests.project import ROOT, copy_project, environment, new_store, run, started, wait_until
from ttt_mlflow.config import MicroConfig

pytestmark = (
    pytest.mark.long
)  # the tests of the same run in a process of its own are quick: tests/micro/test_micro_run.py
QUICK = {"kernels": "mlp_1_dual,mlp_2_dual", "batches": "1,2", "heads": "2", "seconds": "0.01", "device": "cpu"}


def mlflow_run_micro(parameters: dict[str, str], project: Path = ROOT) -> list[str]:
    given = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
    return ["mlflow", "run", str(project), "-e", "micro", "--env-manager=local", *given]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def client(project: Path) -> MlflowClient:
    """Of the store that a run in ``project``, against MLflow's default, has left."""
    result = run(mlflow_run_micro(QUICK, project), environment(), project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "mlp_2_dual" in result.stdout
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


@pytest.fixture(scope="module")
def recorded(client: MlflowClient) -> Run:
    (only,) = client.search_runs(["0"], "tags.`ttt.status` = 'ok'")
    return only


def artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    found = set()
    for entry in client.list_artifacts(run_id, folder):
        found |= artifacts(client, run_id, entry.path) if entry.is_dir else {entry.path}
    return found


def test_run_is_finished_and_named(recorded: Run) -> None:
    assert recorded.info.status == "FINISHED"
    assert recorded.info.run_name == "2 kernels b1,2 h2x64 cpu mlp_1_dual,mlp_2_dual"
    assert recorded.data.tags["ttt.entry_point"] == recorded.data.tags["mlflow.project.entryPoint"] == "micro"
    assert {name for name in recorded.data.tags if name.startswith("ttt.")} <= TAG_NAMES
    assert "| kernel | batch |" in recorded.data.tags["mlflow.note.content"]


def test_parameters_are_those_really_used(recorded: Run) -> None:
    params = recorded.data.params
    assert set(MicroConfig.model_fields) - {"nsys_args"} <= set(params)
    assert (params["kernels"], params["batches"], params["heads"]) == ("mlp_1_dual,mlp_2_dual", "1,2", "2")
    assert (params["head_dim"], params["dtype"], params["profile"]) == ("64", "float16", "none")


def test_a_metric_a_kernel_with_the_batch_as_its_step(client: MlflowClient, recorded: Run) -> None:
    kernel_metrics = {name for name in recorded.data.metrics if "/" in name}
    assert {name.partition("/")[0] for name in kernel_metrics} <= KERNEL_METRIC_NAMES
    for kernel in ("mlp_1_dual", "mlp_2_dual"):
        history = client.get_metric_history(recorded.info.run_id, f"kernel_us/{kernel}")
        assert [point.step for point in history] == [1, 2]
        assert all(point.value > 0 for point in history)
        assert recorded.data.metrics[f"kernel_error/{kernel}"] < 1e-3
    assert not any(name.startswith(("card_", "kernel_read_ceiling")) for name in recorded.data.metrics)


def test_artifacts_come_back(client: MlflowClient, recorded: Run, tmp_path: Path) -> None:
    paths = artifacts(client, recorded.info.run_id)
    assert paths <= ARTIFACT_PATHS
    assert {
        f"micro/{name}" for name in ("table.csv", "table.md", "kernels.png", "kernels.html", "samples.json")
    } <= paths
    samples = client.download_artifacts(recorded.info.run_id, "micro/samples.json", str(tmp_path))
    assert len(json.loads(Path(samples).read_text())["cells"]) == 4


def test_rejected_parameters_say_why_in_mlflow(client: MlflowClient, project: Path) -> None:
    result = run(mlflow_run_micro({"batches": "a", "batch": "1"}, project), environment(), project)
    assert result.returncode != 0
    assert "Error: batch=1: no such parameter; the parameters are kernels, batches, promptlen" in result.stderr
    assert "Traceback" not in result.stderr
    (rejected,) = client.search_runs(["0"], "tags.`ttt.status` = 'error'")
    assert rejected.info.status == "FAILED"
    assert "batches=a: not allowed" in rejected.data.tags["ttt.message"]


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    logdir = tmp_path / "runs"
    # the second batch takes seconds
    long = {**QUICK, "batches": "1,4096", "logdir": str(logdir)}

    def timed_one() -> bool:
        return any('"kernel_us/mlp_1_dual"' in path.read_text() for path in logdir.glob("*/series.json"))

    with started(mlflow_run_micro(long), environment(store)) as process:
        process.wait_for(timed_one)
        process.press_ctrl_c()
        assert process.wait() != 0
    (journal,) = logdir.iterdir()
    assert json.loads((journal / "status.json").read_text())["status"] == "killed"
    client = MlflowClient(store)

    def found() -> Run:
        (only,) = client.search_runs(["0"])
        return only

    wait_until(lambda: found().info.status == "KILLED")
    assert [point.step for point in client.get_metric_history(found().info.run_id, "kernel_us/mlp_1_dual")] == [1]
    assert signal.Signals.SIGINT.name in found().data.tags["ttt.message"]
    assert (journal / "artifacts/micro/table.csv").exists()
