"""``ttt-mlflow rerun``: the configuration of a recorded run again, and its comparison with that run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ttt_mlflow
from tests import compared
from tests.inline import InlinePublisher
from tests.record.conftest import MakeJournal
from tests.tracking.conftest import _own_folder_and_environment, make_journal, sqlite_uri
from ttt_mlflow.app import measure, publishing
from ttt_mlflow.cli import cli
from ttt_mlflow.config import CompareConfig
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import publish

__all__ = ["_own_folder_and_environment", "make_journal", "sqlite_uri"]

TINY = ttt_mlflow.RunConfig(
    model_name="ttt-tiny", device="cpu", batch=2, genlen=3, warmup=1, repeats=3, seed=7, max_seconds=2
)
MICRO = ttt_mlflow.MicroConfig(
    device="cpu", kernels=("mlp_1_dual",), heads=2, head_dim=16, batches=(1, 2), seconds=0.001
)
Rerun = Callable[..., Result]


@pytest.fixture
def rerun(
    sqlite_uri: str, make_journal: MakeJournal, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Rerun:
    """The command in this process; its runs go to an experiment of the test, in which there is another run."""
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)
    places = ["--tracking-uri", sqlite_uri, "--experiment-name", request.node.name]
    publish(make_journal(), sqlite_uri, experiment_name=request.node.name)
    Path("ttt_runs").mkdir()
    return lambda *arguments: CliRunner().invoke(cli, ["rerun", *places, *arguments])


def newest() -> Journal:
    return find_journals("ttt_runs").journals[-1]


def test_a_local_record(rerun: Rerun) -> None:
    old = ttt_mlflow.measure(TINY).record
    result = rerun(str(old.path))
    assert result.exit_code == 0, result.output
    new = newest()
    assert new.journal_id != old.journal_id
    assert new.settings == old.settings, "the random seed and the length of the measurement too"
    assert new.published
    assert "imports_s" not in new.metrics, "this process did something else before"
    assert f"Measuring {old.run_name} again, as run {old.journal_id} of 20" in result.stdout
    assert f"Baseline:  {old.path}, run {old.journal_id}" in result.stdout
    assert "cannot tell" in result.stdout, "one run a side on a CPU says nothing"
    assert rerun(old.journal_id, "--fail-above", "2%").exit_code == 5


def test_a_run_of_the_store_by_its_name(rerun: Rerun, sqlite_uri: str) -> None:
    old = ttt_mlflow.measure(TINY)
    experiment = "test_a_run_of_the_store_by_its_name"
    run = ttt_mlflow.publish(old, tracking_uri=sqlite_uri, experiment_name=experiment)
    result = rerun(old.record.run_name)
    assert result.exit_code == 0, result.output
    assert f"run {run.run_id}" in result.stdout
    assert newest().settings == old.record.settings
    again = rerun(old.record.run_name)
    assert again.exit_code == 2, "two runs have that name now"
    assert "the name of several runs" in again.stderr
    assert run.run_id in again.stderr


def test_a_micro_run(rerun: Rerun) -> None:
    old = ttt_mlflow.measure(MICRO).record
    result = rerun(str(old.path))
    assert result.exit_code == 0, result.output
    assert newest().settings == old.settings
    assert "mlp_1_dual b1" in result.stdout
    assert "mlp_1_dual b2" in result.stdout


def test_what_is_not_possible_here(rerun: Rerun, tmp_path: Path) -> None:
    recorded = compared.recorded(tmp_path / "elsewhere", [1e3, 1e3])
    before = find_journals("ttt_runs").journals
    result = rerun(str(recorded.journal.path))
    assert result.exit_code == 2
    assert "cuda" in result.stderr
    assert "Traceback" not in result.output
    assert len(find_journals("ttt_runs").journals) == len(before), "nothing was recorded"


def test_an_unknown_run_and_a_comparison(rerun: Rerun) -> None:
    result = rerun("none-such")
    assert result.exit_code == 2
    assert "run=none-such: " in result.stderr
    comparison = Journal.create(Path("ttt_runs"), CompareConfig().model_dump(mode="json"), CompareConfig.entry_point)
    comparison.set_status("ok")
    result = rerun(str(comparison.path))
    assert result.exit_code == 2
    assert comparison.journal_id in result.stderr


@pytest.mark.parametrize(("gate", "code"), [((), 1), (("--fail-above", "2"), 5)])
def test_a_run_that_fails(rerun: Rerun, gate: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gate, 1 means slower and nothing else."""
    old = ttt_mlflow.measure(TINY).record

    def conduct(run: object, record: Journal, *others: object) -> RunFailed:
        record.set_status("error", "it broke", 1)
        return RunFailed("it broke")

    monkeypatch.setattr(measure, "conduct", conduct)
    result = rerun(str(old.path), *gate)
    assert result.exit_code == code, result.output
    assert "Error: it broke" in result.stderr
