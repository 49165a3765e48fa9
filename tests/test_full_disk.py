"""The command line on a real file system of a few MB that fills up: before a run, during it, and when it publishes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.project import QUICK, ROOT, environment, new_store, run, ttt_mlflow_run
from tests.small_disk import MB, empty, fill, small_disk
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import FOLDER

pytestmark = pytest.mark.long

MEASURED = {"verdict.json", "timing/passes.json", "timing/steps.csv"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8 * MB) as folder:
        yield folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


def filled(moment: str, disk: Path, store: str, **asked: str) -> subprocess.CompletedProcess[str]:
    """A run on ``disk``, which is full from ``moment`` on; see :mod:`tests.filling`."""
    words = [f"--{name}={value}" for name, value in {**QUICK, **asked, "logdir": str(disk / "runs")}.items()]
    return run([sys.executable, "-m", "tests.filling", moment, str(disk), "run", *words], environment(store))


def the_record(disk: Path) -> Journal:
    (path,) = (disk / "runs").iterdir()
    journal = Journal.open(path)
    assert journal.faults() == []
    assert not list(path.rglob("*.tmp"))
    assert all((journal.artifacts / name).stat().st_size > 50 for name in MEASURED)
    assert journal.metrics["decode_tokens_per_s"] > 0
    assert journal.metrics["measured_passes"] == 2
    return journal


def check_published(journal: Journal, store: str) -> None:
    """The MLflow run has the metrics of the record, and says what was left out."""
    found = MlflowClient(store).get_run(journal.published["run_id"])
    assert found.info.status == {"ok": "FINISHED", "error": "FAILED"}[journal.status["status"]]
    assert journal.metrics.items() <= found.data.metrics.items()
    assert found.data.tags.get("ttt.left_out") == journal.tags.get("ttt.left_out")


def test_a_disk_that_is_full_before_the_run(disk: Path, store: str) -> None:
    (disk / "data").write_bytes(bytes(7 * MB))
    done = run(ttt_mlflow_run({**QUICK, "logdir": str(disk / "runs")}), environment(store))
    assert done.returncode == 2, done.stderr
    assert "no room for the numbers of a run (No space left on device)" in done.stderr
    assert "free some space there, or choose another logdir" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list((disk / "runs").iterdir()) == []

    fill(disk)
    shutil.rmtree(disk / "runs")
    fill(disk)
    done = run(ttt_mlflow_run({**QUICK, "logdir": str(disk / "runs")}), environment(store))
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert not (disk / "runs").exists() or list((disk / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("moment", "costs"),
    [
        ("decode_tokens_per_s", {"telemetry/samples.csv", "telemetry/clocks.png", "roofline/parts.csv"}),
        ("parts.csv", {"telemetry/samples.csv", "telemetry/clocks.png", "roofline/parts.csv"}),
        ("samples.csv", {"telemetry/samples.csv", "telemetry/clocks.png"}),
        ("clocks.png", {"telemetry/clocks.png"}),
    ],
    ids=["metrics", "tables", "samples", "pictures"],
)
def test_a_disk_that_fills_up_while_a_run_records(moment: str, costs: set[str], disk: Path, store: str) -> None:
    done = filled(moment, disk, store)
    output = done.stdout + done.stderr
    assert (disk / "filler").exists()
    assert "Traceback" not in output
    journal = the_record(disk)
    assert journal.status["status"] == "ok"
    left_out = set(journal.tags["ttt.left_out"].split(", "))
    assert costs <= left_out
    assert not any((journal.artifacts / path).exists() for path in costs)
    assert all(f"{path} is left out: No space left on device" in " ".join(output.split()) for path in costs)
    # the store is elsewhere, and what is noted of publishing fits into what was reserved
    assert done.returncode == 0, output
    check_published(journal, store)
    assert not (journal.path / FOLDER).exists()


def test_a_disk_that_a_profile_fills(disk: Path, store: str) -> None:
    """A profile was asked for, so the run fails without it; its numbers are published."""
    done = filled("trace.json.gz", disk, store, profile="torch")
    assert done.returncode == 1, done.stderr
    assert "profile=torch: cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    journal = the_record(disk)
    assert journal.status["status"] == "error"
    assert not any(path.is_file() for path in (journal.artifacts / "profiles").rglob("*"))
    check_published(journal, store)


def test_a_store_on_the_same_full_disk(disk: Path) -> None:
    """Publishing fails, the record is kept, and it is published once there is room."""
    store = new_store(disk)
    done = filled("description.md,held", disk, store)
    assert done.returncode == 4, done.stderr
    assert "not published to" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    journal = the_record(disk)
    assert journal.status["status"] == "ok"
    assert journal.published == {}
    empty(disk)
    synced = run([sys.executable, "-m", "ttt_mlflow", "sync", str(disk / "runs")], environment(store), cwd=ROOT)
    assert synced.returncode == 0, synced.stderr
    check_published(journal, store)
