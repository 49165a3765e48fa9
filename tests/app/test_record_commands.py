"""The commands about records: list, show, verify, prune."""

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from tests.compared import passes_around, recorded
from tests.project import new_store
from ttt_mlflow.app.record_commands import size_text
from ttt_mlflow.cli import cli
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import publish


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY":
            monkeypatch.delenv(name)


def record(*words: object) -> Result:
    return CliRunner().invoke(cli, ["record", *map(str, words)], catch_exceptions=False)


def made(rate: float = 1000.0, root: str = "ttt_runs") -> Journal:
    return recorded(Path(root), passes_around(rate, count=2)).journal


def damage(journal: Journal) -> Journal:
    (journal.path / "metrics.json").write_text("{}")
    return journal


def older(journal: Journal, days: float) -> Journal:
    """The record as if it had begun that long ago."""
    began = time.strftime("%Y%m%d-%H%M%S", time.localtime(time.time() - days * 86400))
    return Journal(journal.path.rename(journal.path.parent / f"{began}-{journal.path.name[-8:]}"))


def test_list() -> None:
    assert record("list", ".").stdout == "No records in ..\n"
    whole, bad = made(), damage(made())
    done = record("list")
    assert done.exit_code == 4
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert all(word in lines[whole.journal_id] for word in ("ttt-1b", " ok ", " no ", " whole ", "kB"))
    assert " damaged " in lines[bad.journal_id]
    assert f"Error: {bad.path}: metrics.json: not what was written" in done.stderr
    assert whole.journal_id not in done.stderr


def test_show() -> None:
    journal = made()
    for named in (journal.journal_id, journal.path):
        done = record("show", named)
        assert (done.exit_code, done.stderr) == (0, "")
        for text in (journal.journal_id, str(journal.path), "decode", "valid", "tokens/s", "all as they were written"):
            assert text in done.stdout
    damage(journal)
    done = record("show", journal.journal_id)
    assert done.exit_code == 4
    assert "Error: metrics.json: not what was written" in done.stderr


def test_show_of_nothing() -> None:
    done = record("show", "20260101-000000-00000000")
    assert done.exit_code == 2
    assert "no such record" in done.stderr


def test_verify() -> None:
    whole, bad, other = made(), damage(made()), made(root="others")
    assert record("verify", "others").exit_code == 0
    done = record("verify", "ttt_runs", "others")
    assert done.exit_code == 4
    assert done.stdout.splitlines() == [
        f"{whole.journal_id}: whole",
        f"{other.journal_id}: whole",
        "2 of 3 records are whole.",
    ]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {bad.path}: metrics.json: not what was written (2 bytes instead of")
    assert record("verify", "nowhere").exit_code == 2


def test_prune_removes_what_mlflow_has(tmp_path: Path) -> None:
    uri = new_store(tmp_path)
    there, gone, changed, unpublished, bad = (older(made(rate), days=40) for rate in (1000, 2000, 3000, 4000, 5000))
    young = made()
    for journal in (there, gone, changed, bad, young):
        publish(journal, uri)
    client = MlflowClient(uri)
    client.delete_run(gone.published["run_id"])
    artifact = "timing/passes.json"
    stored = client.get_run(changed.published["run_id"]).info.artifact_uri
    assert stored is not None
    Path(stored.removeprefix("file://"), artifact).write_text("shorter")
    damage(bad)
    size = sum(path.stat().st_size for path in there.path.rglob("*") if path.is_file())

    tried = record("prune", "--dry-run")
    assert tried.exit_code == 4
    assert f"{there.journal_id}: would be removed, {size_text(size)}" in tried.stdout
    assert there.path.exists()

    done = record("prune")
    assert done.exit_code == 4
    assert f"{there.journal_id}: removed, {size_text(size)}" in done.stdout
    assert f"Freed {size_text(size)} of 1 records." in done.stdout
    assert not there.path.exists()
    for journal, reason in ((gone, "as deleted"), (changed, f"lacks {artifact}"), (bad, "--damaged removes it")):
        assert journal.path.exists()
        (line,) = (line for line in done.stderr.splitlines() if journal.journal_id in line)
        assert reason in line
    assert unpublished.path.exists()
    assert young.path.exists()
    assert unpublished.journal_id not in done.stderr
    assert "1 newer than 30d" in done.stdout
    assert "1 unpublished" in done.stdout


def test_prune_of_more_only_when_it_is_asked_for() -> None:
    unpublished, bad = older(made(), days=40), damage(older(made(), days=40))
    running = older(Journal.create(Path("ttt_runs"), {}), days=40)
    done = record("prune", "--unpublished", "--older-than", "35d")
    assert done.exit_code == 4
    assert [journal.path.exists() for journal in (unpublished, bad, running)] == [False, True, True]
    done = record("prune", "--damaged")
    assert done.exit_code == 0
    assert [journal.path.exists() for journal in (bad, running)] == [False, True]
    assert "1 running" in done.stdout


def test_prune_asks_no_server_that_only_the_record_names() -> None:
    journal = older(made(), days=40)
    journal.set_published("http://127.0.0.1:1", "1" * 32, "1")
    done = record("prune")
    assert done.exit_code == 4
    assert "ask there with --tracking-uri http://127.0.0.1:1" in done.stderr
    assert journal.path.exists()
    done = record("prune", "--tracking-uri", "http://127.0.0.1:1")
    assert done.exit_code == 4
    assert "cannot be asked" in done.stderr
    assert journal.path.exists()


def test_what_a_killed_prune_left_is_removed_by_the_next_one() -> None:
    left = Path("ttt_runs", ".removed-20260101-000000-00000000")
    left.mkdir(parents=True)
    (left / "status.json").write_text("{")
    assert record("list").exit_code == 0
    assert record("prune").exit_code == 0
    assert not left.exists()


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5d", "7w", "9999999d"])
def test_a_time_that_is_none(text: str) -> None:
    Path("ttt_runs").mkdir()
    done = record("prune", "--older-than", text)
    assert done.exit_code == 2
    assert f"older_than={text}: not allowed" in done.stderr
