"""``mlflow run`` as a person types it, and what MLflow's client reads back."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.catalog import ARTIFACT_PATHS, METRIC_NAMES, TAG_NAMES
from tests.project import QUICK, ROOT, copy_project, environment, free_port, mlflow_run, run, started
from ttt_mlflow.config import RunConfig
from ttt_mlflow.tracking.store import DEFAULT_EXPERIMENT


@dataclass
class Recorded:
    """One ``mlflow run`` and where it recorded."""

    output: str
    uri: str
    client: MlflowClient
    run: Run

    def artifacts(self, folder: str | None = None) -> set[str]:
        found = set()
        for entry in self.client.list_artifacts(self.run.info.run_id, folder):
            found |= self.artifacts(entry.path) if entry.is_dir else {entry.path}
        return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def in_sqlite(project: Path) -> Recorded:
    """Into MLflow's default store, the SQLite file in the project's folder; through scripts/run.sh, from elsewhere.

    With a parameter that MLproject does not declare, whose value a shell would divide.
    """
    parameters = mlflow_run({**QUICK, "thresholds": "section_s=0,half_width_pct=1000"})[4:]
    result = run([str(project / "scripts/run.sh"), *parameters], environment(), project.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    uri = f"sqlite:///{project}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(DEFAULT_EXPERIMENT)
    assert experiment is not None
    (only,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert only.info.experiment_id == experiment.experiment_id
    return Recorded(result.stdout, uri, client, only)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server as the script starts it; the address is the one that it prints for clients."""
    store = tmp_path_factory.mktemp("server")
    script = [str(ROOT / "scripts/server.sh"), "--port", str(free_port()), "--workers", "1"]
    script += ["--database", f"sqlite:///{store}/mlflow.db", "--artifacts", f"{store}/artifacts"]
    with started(script, environment(), store) as process:
        process.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in process.output)
        (line,) = (line for line in process.lines if line.startswith("export MLFLOW_TRACKING_URI="))
        yield line.strip().partition("=")[2]
        process.press_ctrl_c()
        assert process.wait() == 0
        assert "The tracking server has stopped." in process.output


@pytest.fixture(scope="module")
def on_server(server: str, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """From another folder, with nothing but MLFLOW_TRACKING_URI set."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    parameters = {**QUICK, "inner_net": "mlp_2_dual", "profile": "torch", "logdir": str(elsewhere / "runs")}
    result = run(mlflow_run(parameters), environment(server), elsewhere)
    assert result.returncode == 0, result.stdout + result.stderr
    client = MlflowClient(server)
    (only,) = client.search_runs(["0"])
    return Recorded(result.stdout, server, client, only)


@pytest.fixture(params=["in_sqlite", pytest.param("on_server", marks=pytest.mark.long)])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    found: Recorded = request.getfixturevalue(request.param)
    return found


def test_run_is_finished_and_named(recorded: Recorded) -> None:
    net = recorded.run.data.params["inner_net"]
    assert recorded.run.info.status == "FINISHED"
    assert recorded.run.info.run_name == f"ttt-tiny {net} b2 g3 cpu"


def test_parameters_are_those_really_used(recorded: Recorded) -> None:
    params = recorded.run.data.params
    assert set(RunConfig.model_fields) - {"attn_impl", "nsys_args", "checkpoint"} <= set(params)  # not given
    assert params["inner_net"] in ("mlp_1_dual", "mlp_2_dual")  # the first is this machine's default
    assert (params["device"], params["dtype"], params["cuda_graph"]) == ("cpu", "float32", "false")
    assert (params["batch"], params["genlen"], params["repeats"], params["seed"]) == ("2", "3", "2", "0")


def test_it_is_mlflows_own_run_and_that_of_the_record(in_sqlite: Recorded, project: Path) -> None:
    assert in_sqlite.run.data.tags["mlflow.source.type"] == "PROJECT"
    assert (project / "ttt_runs" / in_sqlite.run.data.tags["ttt.journal_id"] / "published.json").exists()


def test_metrics_are_recorded(recorded: Recorded) -> None:
    metrics = recorded.run.data.metrics
    assert {"decode_tokens_per_s", "decode_step_ms_p50", "prefill_ms", "setup_s", "model_parameters"} <= set(metrics)
    assert metrics["decode_tokens_per_s"] > 0
    assert {name for name in metrics if not name.startswith("part_us/")} <= METRIC_NAMES
    assert next(iter(metrics)) == "decode_tokens_per_s"
    assert not any(name.startswith(("sm_clock", "power", "peak_memory")) for name in metrics)  # a CPU has none


def test_tags_are_recorded(recorded: Recorded) -> None:
    tags = recorded.run.data.tags
    assert tags["ttt.status"] == "ok"
    assert {"ttt.host", "ttt.torch", "ttt.config_id", "ttt.journal_id"} <= set(tags)
    assert {name for name in tags if name.startswith("ttt.")} <= TAG_NAMES
    assert "decode" in tags["mlflow.note.content"]


def test_artifacts_come_back(recorded: Recorded, tmp_path: Path) -> None:
    paths = recorded.artifacts()
    assert {"config.json", "summary.md", "log.txt", "timing/steps.csv", "environment/packages.txt"} <= paths
    assert paths <= ARTIFACT_PATHS
    local = recorded.client.download_artifacts(recorded.run.info.run_id, "config.json", str(tmp_path))
    assert json.loads(Path(local).read_text())["used"]["model_name"] == "ttt-tiny"


@pytest.mark.long
def test_artifacts_go_through_the_server(on_server: Recorded) -> None:
    assert on_server.run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert {"profiles/torch/trace.json.gz", "profiles/torch/kernels.csv"} <= on_server.artifacts()


def test_terminal_shows_summary_record_and_ui(recorded: Recorded, project: Path) -> None:
    run_id, output = recorded.run.info.run_id, recorded.output
    assert f"MLflow run {run_id} in {recorded.uri}" in output
    assert "tokens/s" in output
    if recorded.uri.startswith("sqlite"):
        assert f"mlflow ui --backend-store-uri {recorded.uri}" in output
        assert "experiment Default" not in output, "the script names the experiment"
        assert f"{project}/ttt_runs/{recorded.run.data.tags['ttt.journal_id']}" in output
    else:
        assert f"MLflow UI: {recorded.uri}/#/experiments/0/runs/{run_id}" in output
        assert output.count("`mlflow run . --experiment-name ttt-mlflow` puts it into ttt-mlflow") == 1


def test_rejected_parameters_say_why_in_the_terminal_and_in_mlflow(in_sqlite: Recorded, project: Path) -> None:
    result = run(mlflow_run({"batch": "1.5", "foo": "1", "inner_net": "abc"}, project), environment(), project)
    assert result.returncode != 0
    assert "Error: foo=1: no such parameter; the parameters are model_name, mode, batch" in result.stderr
    assert "Error: batch=1.5: not allowed; batch takes a whole number of at least 1" in result.stderr
    assert "Traceback" not in result.stderr
    (rejected,) = in_sqlite.client.search_runs(["0"], "tags.`ttt.status` = 'error'")
    assert rejected.info.status == "FAILED"
    assert "batch=1.5: not allowed" in rejected.data.tags["ttt.message"]
    assert "foo=1: no such parameter" in rejected.data.tags["ttt.message"]
    assert rejected.info.run_name == "refused: foo=1, batch=1.5"
    assert rejected.data.tags["ttt.kind"] == "decode"
    assert len(list(project.glob("ttt_runs/*"))) == 1  # that of the first run


@pytest.mark.long
def test_a_second_server_on_the_port_is_refused(server: str, tmp_path: Path) -> None:
    port = server.rpartition(":")[2]
    result = run([str(ROOT / "scripts/server.sh"), "--port", port], environment(), tmp_path)
    assert result.returncode == 1
    assert f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use" in result.stderr
