"""``ttt-mlflow micro`` in this process: bad input, the list, and what happens around a measurement."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from tests.catalog import metrics
from tests.inline import InlinePublisher
from tests.project import free_port, new_store
from tests.record.test_micro_results import make_results
from ttt_mlflow.app import measure, publishing
from ttt_mlflow.cli import cli
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import OutOfMemory, RunFailed, TTTError
from ttt_mlflow.micro.micro_run import MicroRun, series
from ttt_mlflow.micro.registry import OWN
from ttt_mlflow.names import ARTIFACT_MICRO_SAMPLES, IMPORTS_S
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run.reporter import Reporter

FIELDS = ", ".join(MicroConfig.model_fields)
QUICK = ["--kernels", "mlp_1_dual", "--device", "cpu"]


@dataclass
class FakeRunner:
    """Stands where ``conduct`` does: notes what would be measured, and ends as it is told."""

    measured: list[MicroConfig] = field(default_factory=list)
    failure: TTTError | None = None

    def conduct(self, run: MicroRun, journal: Journal, reporter: Reporter, *_: object) -> TTTError | None:
        assert reporter.phases[IMPORTS_S] > 0
        self.measured.append(run.used)
        results = make_results()
        journal.set_used(run.used.model_dump(mode="json"))
        journal.update_params(run.used.model_dump())
        journal.write_artifact(ARTIFACT_MICRO_SAMPLES, results.model_dump_json())
        journal.update_metrics(metrics({"kernel_error/good": 3e-4}))
        journal.set_series(series(results))
        status = {OutOfMemory: "oom", RunFailed: "error"}.get(type(self.failure), "ok")  # type: ignore[arg-type]
        journal.set_status(status, str(self.failure) if self.failure else None, 0)
        return self.failure


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    fake = FakeRunner()
    monkeypatch.setattr(measure, "conduct", fake.conduct)
    return fake


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def invoke(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "TRITON_INTERPRET", "TTT_NSYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli, ["micro", *arguments])


def refused(result: Result, fake: FakeRunner) -> str:
    """The message of bad input: on stderr, exit code 2, nothing measured, nothing recorded."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert fake.measured == []
    assert not Path("ttt_runs").exists()
    return result.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--batches", "0"],
            "batches=0: not allowed; batches takes auto, or whole numbers of at least 1, comma-separated",
        ),
        (["--head_dim", "x"], "head_dim=x: not allowed; head_dim takes a whole number of at least 1"),
        (["--head-dim=x"], "head_dim=x: not allowed; head_dim takes a whole number of at least 1"),
        (["--profile", "torch"], "profile=torch: not allowed; profile takes none or nsys"),
        (["--batch", "1"], f"batch=1: no such parameter; the parameters are {FIELDS}"),
        (["kernels=a"], "kernels=a: not an option; give a parameter as --name value"),
        (
            ["--kernels", "mlp_9"],
            f"kernels=mlp_9: no such kernel; the kernels are {', '.join(one.name for one in OWN)}",
        ),
    ],
)
def test_bad_input(arguments: list[str], message: str, invoke: Callable[..., Result], fake: FakeRunner) -> None:
    assert refused(invoke(*arguments), fake).startswith(f"Error: {message}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "mlp_1_dual_triton"], "Error: kernels=mlp_1_dual_triton: they need a GPU"),
        (["--device", "cuda"], "Error: device=cuda: PyTorch finds no GPU"),
        (["--profile"], "Error: profile=nsys: "),
    ],
)
def test_refused_on_this_machine(
    arguments: list[str], message: str, invoke: Callable[..., Result], fake: FakeRunner
) -> None:
    text = refused(invoke(*arguments), fake)
    assert len(text.splitlines()) == 1
    assert text.startswith(message)


def test_help_names_every_parameter_and_gives_examples(invoke: Callable[..., Result]) -> None:
    text = invoke("--help").output
    for name in (*MicroConfig.model_fields, "list", "logdir", "tracking_uri", "experiment_name"):
        assert f"--{name.replace('_', '-')}" in text
    assert "Examples:" in text


def test_the_list_measures_nothing(invoke: Callable[..., Result], fake: FakeRunner) -> None:
    result = invoke("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()][: len(OWN)] == [one.name for one in OWN]
    assert all(one.description in result.stdout for one in OWN)
    assert fake.measured == []


def test_the_list_and_bad_input_are_quick_because_torch_is_not_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from ttt_mlflow.cli import cli;"
        "CliRunner().invoke(cli, ['micro', '--list']); CliRunner().invoke(cli, ['micro', '--heads', '0']);"
        "print([name for name in ('torch', 'mlflow', 'triton') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Around the measurement


def test_table_record_and_ui_are_shown(invoke: Callable[..., Result], fake: FakeRunner, store: str) -> None:
    result = invoke(*QUICK, "--batches", "128,4096", "--experiment-name", "shown")
    assert result.exit_code == 0, result.output
    assert fake.measured[0].batches == (128, 4096)
    assert "15.4 to 16.6" in result.stdout
    assert f"mlflow ui --backend-store-uri {store}" in result.stdout
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("shown")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "mlp_1_dual b128,4096 cpu"
    assert found.data.tags["ttt.entry_point"] == "micro"
    (point,) = client.get_metric_history(found.info.run_id, "kernel_us/good")
    assert (point.step, point.value) == (128, 16.0)


@pytest.mark.parametrize(("failure", "code"), [(OutOfMemory("too big"), 3), (RunFailed("wrong"), 1)])
def test_failure_is_published_and_has_its_exit_code(
    failure: TTTError, code: int, invoke: Callable[..., Result], fake: FakeRunner, store: str
) -> None:
    fake.failure = failure
    result = invoke(*QUICK, "--experiment-name", f"micro {failure}")
    assert result.exit_code == code
    assert result.stderr.strip() == f"Error: {failure}"
    assert "15.4 to 16.6" in result.stdout, "what was measured is shown all the same"
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(f"micro {failure}")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.tags["ttt.message"] == str(failure)


def test_sync_and_table_know_micro_benchmarks(
    invoke: Callable[..., Result], fake: FakeRunner, store: str, tmp_path: Path
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert invoke(*QUICK, "--tracking-uri", uri, "--experiment-name", "micro later").exit_code == 4
    (journal,) = (tmp_path / "ttt_runs").iterdir()
    sent = CliRunner().invoke(cli, ["sync"])
    assert (sent.exit_code, sent.stdout) == (0, f"{journal.name}: published\n")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("micro later")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["kernel_error/good"] == 3e-4
    table = CliRunner().invoke(cli, ["table"])
    assert table.exit_code == 0
    (row,) = (line.split() for line in table.stdout.splitlines() if journal.name in line)
    assert (row[0], row[3], row[-1]) == (journal.name, "mlp_1_dual", "ok")
