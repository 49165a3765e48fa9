"""The passes of a measurement that goes on: those that had ended are there, whenever its process was killed."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests.catalog import by_name
from tests.record.conftest import CONFIG, MakeJournal
from tests.record.test_journal import pretend
from tests.small_disk import MB, empty, fill, small_disk
from ttt_mlflow.app.record_commands import state_of
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.measurement.loop import Measurement
from ttt_mlflow.measurement.timing import StepTimes
from ttt_mlflow.names import ARTIFACT_PASSES
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.pass_log import PASS_LOG, PassLog, read_so_far, throughput_so_far
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.rounding import rounded
from ttt_mlflow.record.run_row import local_row
from ttt_mlflow.workload import Workload

DECODE, PREFILL = Workload("decode", 2, 1, 4), Workload("prefill", 2, 3, 4)


def nobody_is_told(why: str) -> None:
    raise AssertionError(why)


def a_pass(ms: float, steps: int = 4, complete: bool = True) -> StepTimes:
    step_ms = np.full(steps, ms / 3)
    return StepTimes(step_ms, float(step_ms.sum()), float(step_ms.sum()) + 0.1, complete)


def measured(folder: Path, timed: int = 3, workload: Workload = DECODE) -> Measurement:
    """A measurement with one warm-up pass and ``timed`` timed passes, each written as it ended."""
    measurement, log = Measurement(period=16), PassLog(folder, workload, nobody_is_told)
    log.begin(measurement)
    for number in range(1 + timed):
        if workload is DECODE:
            measurement.prefill_ms.append(1.5 + number)
            measurement.first_token_ms.append(2.5 + number)
        if number:
            measurement.warmup_stop_reason = "settled"
            measurement.repeats.append(a_pass(3 + number / 7))
        else:
            measurement.warmup.append(a_pass(9))
            measurement.warmup_s = 0.25
        log.add(measurement)
    log.close()
    return measurement


@pytest.mark.parametrize("workload", [DECODE, PREFILL])
def test_what_is_read_is_what_was_measured(workload: Workload, tmp_path: Path) -> None:
    measurement = measured(tmp_path, workload=workload)
    so_far = read_so_far(tmp_path)
    assert so_far
    assert so_far.workload == workload
    measurement.interrupted, measurement.stop_reason = True, "interrupted"
    assert len(so_far.measurement.ended_ms) == 3
    measurement.ended_ms = so_far.ended_ms  # when they were written
    assert so_far.measurement.record(1) == measurement.record(1)
    assert so_far.measurement.steps_frame().equals(measurement.steps_frame())
    assert so_far.measurement.metrics(workload) == measurement.metrics(workload)
    named = by_name(rounded(measurement.metrics(workload)))
    shown = throughput_so_far(tmp_path)
    assert len(shown) == 3
    assert shown.items() <= named.items()


def test_a_line_that_was_not_finished_is_no_pass(tmp_path: Path) -> None:
    measured(tmp_path)
    whole = (tmp_path / PASS_LOG).read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in (*range(0, last, 50), *range(last, len(whole), 5)):
        (tmp_path / PASS_LOG).write_bytes(whole[:end])
        shown = throughput_so_far(tmp_path)
        if end >= last:
            so_far = read_so_far(tmp_path)
            assert so_far
            assert len(so_far.measurement.repeats) == 2
            assert shown
    (tmp_path / PASS_LOG).write_bytes(whole[:last] + bytes(4096))  # as a machine that lost power may leave it
    assert throughput_so_far(tmp_path)


def test_a_line_that_changed_is_damage(tmp_path: Path, make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    measured(journal.path)
    path = journal.path / PASS_LOG
    path.write_text(path.read_text().replace("12.0", "13.0", 1))
    for read in (read_so_far, throughput_so_far):
        with pytest.raises(DamagedRecord, match=r"passes.jsonl: line 2 is not what was written"):
            read(journal.path)
    assert journal.faults() == ["passes.jsonl: line 2 is not what was written"]


def test_another_attempt_begins_anew(tmp_path: Path) -> None:
    log = PassLog(tmp_path, DECODE, nobody_is_told)
    for passes in (5, 2):
        measurement = Measurement()
        log.begin(measurement)
        measurement.repeats += [a_pass(3)] * passes
        log.add(measurement)
    so_far = read_so_far(tmp_path)
    assert so_far
    assert len(so_far.measurement.repeats) == 2
    log.remove()
    log.remove()
    assert read_so_far(tmp_path) is None
    assert throughput_so_far(tmp_path) == {}


def test_a_full_disk_is_told_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    told: list[str] = []
    with small_disk(tmp_path / "disk", MB) as disk:
        measurement, log = Measurement(), PassLog(disk, DECODE, told.append)
        log.begin(measurement)
        measurement.repeats.append(a_pass(3))
        log.add(measurement)
        fill(disk)
        for _ in range(3):
            measurement.repeats.append(a_pass(3, steps=4096))
            log.add(measurement)
        empty(disk)
        so_far = read_so_far(disk)
        assert so_far
        assert len(so_far.measurement.repeats) == 1
        assert told == ["No space left on device"]
        log.close()


def test_a_killed_run_has_its_passes(tmp_path: Path) -> None:
    """Its readers show them before anybody has recorded its end, and its own files have them afterwards."""
    journal = Journal.create(tmp_path, CONFIG.model_dump(mode="json"))
    measurement = measured(journal.path)
    expected = by_name(rounded(measurement.metrics(DECODE)))

    run = LocalRun(journal)
    shown = {name: value for name, value in expected.items() if name.startswith("decode_tokens_per_s")}
    assert run.metrics == shown
    assert local_row(run).metrics.items() >= shown.items()
    assert state_of(journal.path, thorough=True).facts["throughput"].endswith("tokens/s")

    pretend(journal, start_ticks=1)
    journal.close_abandoned()
    assert journal.metrics == expected | {"warmup_s": 0.25}
    assert throughputs(run) == [pytest.approx(1e3 * 8 / one.total_ms) for one in measurement.repeats]
    assert len(journal.series["pass_tokens_per_s"]) == 3
    assert journal.tags["ttt.stop_reason"] == "interrupted"
    assert len((journal.artifacts / "timing/steps.csv").read_text().splitlines()) == 1 + 3 * 4
    passes = json.loads((journal.artifacts / ARTIFACT_PASSES.path).read_text())
    assert (passes["interrupted"], passes["warmup_passes"], passes["tokens_per_pass"]) == (True, 1, 8)
    assert journal.status["status"] == "killed"
    assert journal.faults() == []


def test_the_end_is_that_of_the_last_pass_in_every_copy(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    time.sleep(0.01)
    measured(journal.path)
    so_far = read_so_far(journal.path)
    assert so_far
    pretend(journal, start_ticks=1)
    journal.close_abandoned()
    assert Journal.open(journal.path).status["ended_at"] == so_far.last_write.astimezone().isoformat()


def test_what_the_run_recorded_itself_stays(make_journal: MakeJournal) -> None:
    """It was killed between its passes and its status: the log of the passes says nothing new."""
    journal = make_journal("running")
    measured(journal.path)
    journal.write_artifact(ARTIFACT_PASSES, "{}")
    pretend(journal, start_ticks=1)
    before = journal.metrics
    journal.close_abandoned()
    assert journal.metrics == before
    assert (journal.artifacts / ARTIFACT_PASSES.path).read_text() == "{}"
