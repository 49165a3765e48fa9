"""The process that publishes, on real sockets."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.project import ROOT, wait_until
from tests.proxies import SILENCE, Answer, proxy
from tests.record.conftest import MakeJournal
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publisher import Limits, NoAnswer, NoProgress, Progress, Publisher, _result
from ttt_mlflow.tracking.takeover import Candidate

SHORT = Limits(patience_s=1.0, most_s=60.0)
LONG = Limits(patience_s=120.0, most_s=300.0)


def asked_for(journal: Journal) -> dict[str, Any]:
    return {"record": str(journal.path), "experiment_name": "x", "candidate": None, "alive_s": 1}


def new_publisher() -> Iterator[Publisher]:
    started = Publisher(LONG)
    yield started
    started.close()
    assert not psutil.pid_exists(started.pid)


publisher = pytest.fixture(new_publisher, name="publisher")
shared = pytest.fixture(new_publisher, scope="module", name="shared")  # its imports take seconds


def test_begins_then_waits_then_publishes(
    shared: Publisher, sqlite_uri: str, make_journal: MakeJournal, request: pytest.FixtureRequest
) -> None:
    journal = make_journal()
    place = {"record": str(journal.path), "uri": sqlite_uri, "experiment_name": request.node.name}
    begun = shared.ask("begin", LONG, **place, candidate=None, alive_s=60)
    assert journal.target["run_id"] == begun["run_id"]
    process = psutil.Process(shared.pid)
    assert process.nice() == psutil.Process().nice()
    before = process.cpu_times()
    time.sleep(2)  # as long as a short measured section
    after = process.cpu_times()
    assert (after.user, after.system) == (before.user, before.system)
    assert not [one for one in process.net_connections() if one.status == psutil.CONN_ESTABLISHED]
    shared.send("publish_so_far", record=str(journal.path), uri=sqlite_uri)
    shown: list[Progress] = []
    done = shared.ask("publish", LONG, shown.append, **place, candidate=None)
    assert done["published"]["run_id"] == begun["run_id"]
    assert process.nice() > psutil.Process().nice()


def test_one_that_works_is_not_one_that_waits(
    publisher: Publisher, make_journal: MakeJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make the tables of a new store takes a second, on a busy host many, in which no byte moves."""
    monkeypatch.setattr("ttt_mlflow.tracking.publisher.WORKED_S", 0.01)
    asked, impatient = asked_for(make_journal()), Limits(patience_s=0.5, most_s=300.0)
    begun = publisher.ask("begin", impatient, uri=f"sqlite:///{tmp_path / 'new.db'}", **asked)
    assert begun["run_id"]


def test_its_command_line_and_environment_hold_no_address(shared: Publisher) -> None:
    assert psutil.Process(shared.pid).cmdline()[1:] == ["-P", "-m", "ttt_mlflow.tracking.background"]


def test_errors_come_back_as_they_were(shared: Publisher, make_journal: MakeJournal) -> None:
    asked = asked_for(make_journal())
    with proxy(lambda method, path: Answer(403)) as refusing, pytest.raises(BadInput, match="refused with 403"):
        shared.ask("begin", LONG, uri=refusing.uri, **asked)
    with pytest.raises(NoAnswer, match=r"unexpected error: KeyError.*; the traceback is in ") as failed:
        shared.ask("begin", LONG)
    report = Path(str(failed.value).rpartition(" ")[2])
    assert "Traceback (most recent call last)" in report.read_text()
    report.unlink()
    with pytest.raises(BadInput, match="not the record of a run"):
        shared.ask("begin", LONG, uri="", **{**asked, "record": "/nowhere"})
    with pytest.raises(NoAnswer, match="nobody knows"):
        _result({"failed": "Killed", "message": "nobody knows"})


@pytest.mark.long
def test_a_server_that_never_answers(publisher: Publisher, make_journal: MakeJournal) -> None:
    shown: list[Progress] = []
    asked = asked_for(make_journal())
    silence = "for 1 s no byte moved and no answer came"
    with proxy(lambda method, path: SILENCE) as silent, pytest.raises(NoProgress, match=silence):
        publisher.ask("begin", SHORT, shown.append, uri=silent.uri, **asked)
    assert shown
    wait_until(lambda: not psutil.pid_exists(publisher.pid))


@pytest.mark.long
def test_an_upload_that_stops_moving(
    publisher: Publisher, server_uri: str, make_journal: MakeJournal, request: pytest.FixtureRequest
) -> None:
    """The proxy takes 100 kB of a large artifact and then nothing."""
    journal = make_journal("running")
    large = journal.artifacts / "timing/large.bin"
    large.write_bytes(os.urandom(32_000_000))  # more than the buffers of a connection
    journal.set_status("ok", exit_code=0)
    place = {"record": str(journal.path), "experiment_name": request.node.name}
    shown: list[Progress] = []

    def stalls(method: str, path: str) -> Answer | None:
        return Answer(takes=100_000) if method == "PUT" and path.endswith("large.bin") else None

    with proxy(stalls, server_uri) as stalling, pytest.raises(NoProgress):
        publisher.ask("publish", Limits(5.0, 300.0), shown.append, uri=stalling.uri, candidate=None, **place)
    assert max(progress.left for progress in shown) >= 32_000_000
    assert max(progress.sent for progress in shown) > 100_000
    large.unlink()


@pytest.mark.long
def test_an_upload_that_moves_may_take_so_long(publisher: Publisher, make_journal: MakeJournal) -> None:
    with proxy(lambda method, path: SILENCE) as silent, pytest.raises(NoAnswer, match=r"it took over 1 s; [\d.]+ MB"):
        publisher.ask(
            "publish",
            Limits(60.0, 1.0),
            record=str(make_journal().path),
            uri=silent.uri,
            experiment_name=None,
            candidate=None,
        )


def test_a_process_that_ended_early(publisher: Publisher) -> None:
    os.kill(publisher.pid, signal.SIGKILL)
    with pytest.raises(NoAnswer, match="has ended early: exit code"):
        publisher.ask("check", LONG, uri="", candidate=asdict(Candidate("1", None, None)))


def test_it_ends_with_the_run(tmp_path: Path, server_uri: str) -> None:
    """Also if the run is killed at once, in the middle of a request that is never answered."""
    program = """
import sys
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publisher import Limits, Publisher
publisher = Publisher(Limits())
print(publisher.pid, flush=True)
candidate = {"run_id": "1", "entry_point": "main", "params": {}}
publisher.ask("check", Limits(600, 600), uri=sys.argv[1], candidate=candidate)
"""
    with proxy(lambda method, path: SILENCE) as silent:
        command = [sys.executable, "-c", program, silent.uri]
        run = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert run.stdout
        publisher = psutil.Process(int(run.stdout.readline()))
        wait_until(lambda: bool(silent.requests))
        assert os.getsid(publisher.pid) == publisher.pid, "Ctrl-C does not reach it"
        run.kill()
        run.wait()
        wait_until(lambda: not publisher.is_running())
