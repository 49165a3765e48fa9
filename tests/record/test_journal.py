"""The record on disk: what is written reads back, and no interruption leaves half a file."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import catalog
from tests.record.conftest import CONFIG, MakeJournal, start_python, without_checksums
from ttt_mlflow.errors import BadInput, DamagedRecord, PublishFailed
from ttt_mlflow.record import journal as journal_module
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.journal import NO_RECORD_OF_THE_END, STATUSES, Journal
from ttt_mlflow.record.rounding import rounded

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.dictionaries(st.text(), st.text(), max_size=5)
METRICS = st.dictionaries(st.text(), FINITE, max_size=5)
ROWS = st.lists(st.tuples(st.integers(0, 2**53), st.integers(0, 2**40), FINITE), max_size=5)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# What is written reads back


@settings(max_examples=40)
@given(
    asked=TEXTS,
    used=TEXTS,
    first=METRICS,
    second=METRICS,
    params=TEXTS,
    tags=TEXTS,
    text=st.text(),
    data=st.data(),
)
def test_everything_written_reads_back(
    root: Path,
    asked: dict[str, str],
    used: dict[str, str],
    first: dict[str, float],
    second: dict[str, float],
    params: dict[str, str],
    tags: dict[str, str],
    text: str,
    data: st.DataObject,
) -> None:
    series = data.draw(st.dictionaries(st.text(), ROWS, max_size=3))
    content = data.draw(st.binary())
    journal = Journal.create(root, asked)
    journal.set_used(used)
    journal.update_metrics(catalog.metrics(first))
    journal.update_metrics(catalog.metrics(second))
    journal.update_params(params)
    journal.update_tags(catalog.tags(tags))
    journal.set_series(catalog.series(series))
    journal.set_description(text)
    path = journal.write_artifact(catalog.artifact("some/folder/file.bin"), content)
    journal.set_status("error", text, exit_code=1)

    again = Journal.open(journal.path)
    assert again.config == {"entry_point": "main", "asked": asked, "used": used}
    assert again.metrics == catalog.by_name(rounded(catalog.metrics(first)) | rounded(catalog.metrics(second)))
    assert again.params == params
    assert again.tags == tags
    assert again.series == series
    assert again.description == text
    assert path.read_bytes() == content
    assert path == again.artifacts / "some/folder/file.bin"
    assert (again.status["status"], again.status["message"], again.status["exit_code"]) == ("error", text, 1)


def test_a_new_journal_is_empty_and_running(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a" / "b", {"batch": 1})
    assert (journal.metrics, journal.params, journal.tags, journal.series) == ({}, {}, {}, {})
    assert (journal.description, journal.target, journal.published) == ("", {}, {})
    assert journal.config == {"entry_point": "main", "asked": {"batch": 1}, "used": {}}
    assert journal.artifacts.is_dir()
    assert journal.status["status"] == "running"
    assert journal.status["ended_at"] is None
    assert not journal.abandoned


def test_params_are_the_text_that_asks_for_them_again(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {})
    journal.update_params({"cuda_graph": True, "profile": ("torch", "memory"), "warmup": None, "batch": 64})
    assert journal.params == {
        "cuda_graph": "true",
        "profile": "torch,memory",
        "warmup": "auto",
        "batch": "64",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_was_not_measured_is_refused(tmp_path: Path, value: float) -> None:
    journal = Journal.create(tmp_path, {})
    journal.update_metrics(catalog.metrics({"setup_s": 1.0}))
    with pytest.raises(ValueError, match="energy_j"):
        journal.update_metrics(catalog.metrics({"setup_s": 2.0, "energy_j": value}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.set_series(catalog.series({"system/gpu_0_power_usage_watts": [(1, 0, value)]}))
    assert journal.metrics == {"setup_s": 1.0}
    assert journal.series == {}


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_kept(tmp_path: Path, status: str) -> None:
    journal = Journal.create(tmp_path, {})
    journal.set_status(status, "why", exit_code=3)
    assert (journal.status["status"], journal.status["message"]) == (status, "why")
    assert (journal.status["ended_at"] is None) == (status == "running")


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fine: not a status; the statuses are running, ok"):
        Journal.create(tmp_path, {}).set_status("fine")


def test_the_end_does_not_move(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {})
    journal.set_status("ok")
    end = journal.status["ended_at"]
    journal.set_status("ok", exit_code=4)
    assert (journal.status["ended_at"], journal.status["exit_code"]) == (end, 4)


@pytest.mark.parametrize("relative", ["../outside", "/tmp/outside", "a/../../outside", "", "."])
def test_an_artifact_lies_inside_the_journal(tmp_path: Path, relative: str) -> None:
    with pytest.raises(ValueError, match="inside the journal"):
        Journal.create(tmp_path, {}).artifact_path(catalog.artifact(relative))


def test_the_run_name_is_that_of_the_configuration_used(make_journal: MakeJournal) -> None:
    journal = make_journal()
    assert journal.run_name == CONFIG.run_name
    journal.set_used({**CONFIG.model_dump(mode="json"), "inner_net": "mlp_2_dual", "extra": "fact"})
    assert journal.run_name == "ttt-125m mlp_2_dual b2 g8 cpu"


# Interruptions


@settings(max_examples=40)
@given(
    old=METRICS,
    new=METRICS,
    step=st.sampled_from(["fsync", "replace"]),
    error=st.sampled_from([OSError(28, "No space left on device"), KeyboardInterrupt()]),
)
def test_an_interrupted_write_leaves_the_old_value(
    root: Path, old: dict[str, float], new: dict[str, float], step: str, error: BaseException
) -> None:
    def interrupt(*_: Any) -> None:
        raise error

    journal = Journal.create(root, {})
    journal.update_metrics(catalog.metrics(old))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module.os, step, interrupt)
        with pytest.raises(type(error)):
            journal.update_metrics(catalog.metrics(new))
        with pytest.raises(type(error)):
            journal.write_artifact(catalog.artifact("log.txt"), "text")
    assert Journal.open(journal.path).metrics == catalog.by_name(rounded(catalog.metrics(old)))
    assert list(journal.artifacts.iterdir()) == []
    assert list(journal.path.glob(".*.tmp")) == []


WRITER = """
import itertools, sys
from pathlib import Path
from ttt_mlflow.names import Metric
from ttt_mlflow.record.journal import Journal

journal = Journal.create(Path(sys.argv[1]), {})
for i in itertools.count():
    journal.update_metrics({Metric(f"metric_{j}", "1", ""): i for j in range(2000)})
    if i == 3:
        print(journal.path, flush=True)
"""


def start_writer(root: Path) -> tuple[subprocess.Popen[str], Journal]:
    """A process that rewrites its metrics, all with one value, without an end."""
    writer = start_python(WRITER, root)
    assert writer.stdout is not None
    return writer, Journal.open(writer.stdout.readline().strip())


def test_a_killed_process_leaves_whole_files_and_an_abandoned_journal(tmp_path: Path) -> None:
    for moment in range(4):
        writer, journal = start_writer(tmp_path)
        assert not journal.abandoned
        time.sleep(0.003 * moment)  # another point of the loop each time
        writer.kill()
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
        assert journal.abandoned  # although its parent has not collected it
        writer.communicate()
        assert journal.abandoned
        values = journal.metrics.values()
        assert (len(values), len(set(values))) == (2000, 1)

    journal.close_abandoned()
    status = journal.status
    assert (status["status"], status["message"]) == ("killed", NO_RECORD_OF_THE_END)
    assert status["started_at"] <= status["ended_at"]
    assert not journal.abandoned


@pytest.mark.parametrize("by_s", [-86_400, 86_400])
def test_a_clock_that_is_set_does_not_change_how_long_a_run_took(
    by_s: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path, {})
    host_ns, steady_ns = time.time_ns(), time.monotonic_ns()
    monkeypatch.setattr(time, "time_ns", lambda: host_ns + by_s * 10**9)
    monkeypatch.setattr(time, "monotonic_ns", lambda: steady_ns + 600 * 10**9)
    journal.set_status("ok")
    began, ended = (datetime.fromisoformat(journal.status[name]) for name in ("started_at", "ended_at"))
    assert (ended - began).total_seconds() == pytest.approx(600, abs=5)


def test_a_killed_run_does_not_end_before_it_began(make_journal: MakeJournal) -> None:
    """The host's clock was set back meanwhile: the lines of the record are older than its beginning."""
    journal = make_journal("running")
    later = datetime.now(UTC) + timedelta(days=1)
    status = journal.status
    status["started_at"] = later.isoformat()
    (journal.path / "status.json").write_text(json.dumps(status))
    pretend(journal, start_ticks=1)
    journal.close_abandoned()
    assert datetime.fromisoformat(journal.status["ended_at"]) == later


def test_an_ended_journal_is_not_settled_again(make_journal: MakeJournal) -> None:
    journal = make_journal("oom", "too large")
    before = journal.status
    journal.close_abandoned()
    assert journal.status == before


def pretend(journal: Journal, **process: object) -> None:
    """Let the journal's process look like another one."""
    status = journal.status
    status["process"].update(process)
    (journal.path / "status.json").write_text(json.dumps(status))


def test_a_process_of_an_earlier_boot_is_gone(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    pretend(journal, boot_id="another")
    assert journal.abandoned


def test_a_later_process_with_the_same_number_is_another_one(make_journal: MakeJournal) -> None:
    journal = make_journal("running")
    pretend(journal, start_ticks=1)
    assert journal.abandoned


@pytest.mark.parametrize("unseen", [{"host": "another", "boot_id": "another"}, {"pid_namespace": "pid:[1]"}])
def test_a_process_that_cannot_be_seen_is_gone_after_a_day_of_silence(
    make_journal: MakeJournal, unseen: dict[str, str]
) -> None:
    journal = without_checksums(make_journal("running"))  # which has no times but those of its files
    pretend(journal, **unseen)
    assert not journal.abandoned
    two_days_ago = time.time() - 2 * 86400
    status = journal.status
    status["started_at"] = datetime.fromtimestamp(two_days_ago, UTC).isoformat()
    (journal.path / "status.json").write_text(json.dumps(status))
    for path in [*journal.path.rglob("*"), journal.path]:
        os.utime(path, (two_days_ago, two_days_ago))
    assert journal.abandoned
    journal.close_abandoned()
    ended_at = datetime.fromisoformat(journal.status["ended_at"])
    assert abs((ended_at - datetime.fromtimestamp(two_days_ago, UTC)).total_seconds()) < 1


def test_one_publisher_at_a_time(make_journal: MakeJournal) -> None:
    journal = make_journal()
    second = Journal.open(journal.path).publishing()
    with journal.publishing(), pytest.raises(PublishFailed, match="another process is publishing"):
        second.__enter__()
    with journal.publishing():
        pass


# Finding and opening


def test_journals_are_found_oldest_first(tmp_path: Path, make_journal: MakeJournal) -> None:
    made = [make_journal(root=tmp_path / "D").path for _ in range(5)]
    (tmp_path / "D" / "20260101-000000-00000000").mkdir()  # killed before its first word
    (tmp_path / "D" / "notes").mkdir()
    assert [journal.path for journal in find_journals(tmp_path / "D").journals] == made
    assert [journal.path for journal in find_journals(made[2]).journals] == [made[2]]


def test_no_folder_to_look_in(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere: no such folder"):
        find_journals(tmp_path / "nowhere")


def test_what_is_no_journal_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not the record of a run"):
        Journal.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"status": "fine"}', '{"status": 1}'])
def test_a_damaged_status_is_said_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(DamagedRecord) as raised:
        Journal.open(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    root = tmp_path / "file" / below
    with pytest.raises(BadInput) as raised:
        Journal.create(root, {})
    message = str(raised.value)
    assert f"logdir={root}" in message
    assert "Not a directory" in message
    assert "\n" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_bad_input(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="Permission denied"):
        Journal.create(tmp_path, {})


def test_signals_are_not_held_back(tmp_path: Path) -> None:
    """A journal sets no signal handlers of its own: ending the run is the runner's business."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    Journal.create(tmp_path, {}).set_status("ok")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_record_that_is_reopened_goes_on_and_ends_again(make_journal: MakeJournal) -> None:
    """As that of a sweep which is resumed: of the earlier end, nothing is left."""
    journal = make_journal("error", "2 of 3 runs failed")
    journal.update_tags(catalog.tags({"ttt.status": "error", "ttt.message": "2 of 3 runs failed"}))
    journal.set_published("http://server", "run", "0")
    first_end = journal.status["ended_at"]
    again = Journal.open(journal.path)
    again.reopen()
    assert (again.status["status"], again.status["ended_at"], again.published) == ("running", None, {})
    assert again.status["process"]["pid"] == os.getpid()
    assert not {"ttt.status", "ttt.message"} & set(again.tags)
    again.write_artifact(catalog.artifact("timing/steps.csv"), "other content")
    again.set_status("ok")
    assert again.status["ended_at"] > first_end
    assert again.faults() == []
