"""A real disk that is full from any write of a run on, and a process that is killed at any write of it."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT
from tests.recordings import MEASURED, kernels, model
from tests.runs import Carried
from tests.small_disk import MB, empty, fill, small_disk
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record import journal as journal_module
from ttt_mlflow.record.journal import NO_RECORD_OF_THE_END, Journal
from ttt_mlflow.record.room import FOLDER, TO_PUBLISH

Measure = Callable[[Path], Carried]
# of a section that is too short for the samples of the GPU, or for its slow counters
OF_THE_SAMPLES = (
    *("sm_", "memory_clock", "power", "temperature", "gpu_utilization", "device_memory", "clock_event", "violation"),
    *("energy", "joules", "tensor_", "dram_", "ecc_"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8 * MB) as folder:
        yield folder


@dataclass
class Filled:
    """What a run left on a disk that was full from one of its writes on. begun: whether it measured at all."""

    carried: Carried | None
    refused: BadInput | None
    writes: int


def measured_on(disk: Path, measure: Measure, full_from: int) -> Filled:
    """Measure; the disk is full just before write ``full_from``, and whatever becomes free later is taken at once."""
    write, writes = journal_module.write_whole, itertools.count()

    def filling(*arguments: Any) -> None:
        if next(writes) >= full_from:
            fill(disk)
        write(*arguments)

    carried = refused = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "write_whole", filling)
        try:
            carried = measure(disk / "runs")
        except BadInput as error:
            refused = error
    return Filled(carried, refused, next(writes))


def numbers(record: Journal) -> set[str]:
    """The names of what was measured, without what a short run lacks by chance."""
    return {name for name in record.metrics if not name.startswith(OF_THE_SAMPLES)}


def check(carried: Carried, whole: Carried) -> None:
    """What was measured is there; what is not was said; nothing is left half-written."""
    journal, folder = carried.journal, carried.journal.path
    assert carried.failure is None, carried.output
    assert (journal.status["status"], journal.status["exit_code"]) == ("ok", 0)
    assert numbers(journal) == numbers(whole.journal)
    assert journal.faults() == []
    assert journal.description
    missing = whole.artifacts - carried.artifacts
    assert not missing & MEASURED
    for path in carried.artifacts & MEASURED:
        if path.endswith(".json"):
            json.loads((journal.artifacts / path).read_bytes())
    left_out = set(filter(None, journal.tags.get("ttt.left_out", "").split(", ")))
    # these two exist from the beginning; a line, or the load at the end, is what is missing in them
    assert missing <= left_out <= missing | {"log.txt", "environment/host.json"}
    assert all(f"Note: {path} is left out: No space left on device" in carried.output for path in missing)
    assert not list(folder.rglob("*.tmp"))
    assert len(list((folder / FOLDER).iterdir())) <= TO_PUBLISH
    assert "Traceback" not in carried.output


@pytest.mark.parametrize("kind", [model, kernels])
@pytest.mark.long
def test_a_disk_that_is_full_from_any_write_on(
    disk: Path, tmp_path: Path, kind: Measure, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = kind(tmp_path / "whole")
    assert whole.failure is None
    costs = set()
    for full_from in itertools.count():
        found = measured_on(disk, kind, full_from)
        if found.carried is None:  # full before the room was reserved
            assert full_from < 3
            assert "free some space there" in str(found.refused)
            assert not list((disk / "runs").iterdir())
        else:
            check(found.carried, whole)
            costs.add(len(whole.artifacts - found.carried.artifacts))
        full = (disk / "filler").exists()
        shutil.rmtree(disk / "runs")
        if not full:
            break
        empty(disk)
    assert full_from > 15
    assert min(costs) == 0
    assert max(costs) > 3
    written = capfd.readouterr()
    assert "Traceback" not in written.out + written.err
    assert "Logging error" not in written.out + written.err


@pytest.mark.parametrize("kind", [model, pytest.param(kernels, marks=pytest.mark.long)])
def test_a_disk_that_is_full_once_the_room_is_reserved(disk: Path, kind: Measure, tmp_path: Path) -> None:
    whole = kind(tmp_path / "whole")
    found = measured_on(disk, kind, full_from=2)
    assert found.carried
    check(found.carried, whole)
    assert whole.artifacts - found.carried.artifacts, "nothing was full"


# Killed


KILLED_AT_EACH_WRITE = """
import itertools, os, signal, sys
from pathlib import Path
from tests.recordings import model
from ttt_mlflow.record import journal

def kill_at(last):
    write, writes = journal.write_whole, itertools.count()
    def killing(*arguments):
        if next(writes) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments)
    journal.write_whole = killing

for last in itertools.count():
    pid = os.fork()
    if pid == 0:
        kill_at(last)
        model(Path(sys.argv[1]) / str(last))
        os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        break
"""


@pytest.mark.long
def test_a_process_that_is_killed_at_any_write(tmp_path: Path) -> None:
    """The status is the last write. Without it, the numbers are there that were, and the run counts as killed."""
    command = [sys.executable, "-c", KILLED_AT_EACH_WRITE, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *killed, whole = [[*folder.iterdir()] for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name))]
    (ended,) = map(Journal.open, whole)
    assert ended.status["status"] == "ok"
    assert len(killed) > 15
    measured = 0
    for found in killed:
        (path,) = found
        if not (path / "status.json").exists():
            continue  # killed before it was a record
        record = Journal.open(path)
        assert record.status["status"] == "running"
        before = record.metrics
        record.close_abandoned()
        assert (record.status["status"], record.status["message"]) == ("killed", NO_RECORD_OF_THE_END)
        assert record.metrics.items() >= before.items()
        assert record.faults() == []
        assert record.description == "" or record.description.startswith(f"**killed: {NO_RECORD_OF_THE_END}**")
        assert "| status | ok" not in record.description
        assert len(list((path / FOLDER).iterdir())) <= TO_PUBLISH
        measured += "decode_tokens_per_s" in record.metrics
    assert measured > 6
    # killed at the last write, which is the status: everything but the status is there
    assert numbers(record) == numbers(ended)
    assert record.description.endswith(ended.description[-40:])
