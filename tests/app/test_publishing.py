"""A run and its server, as processes: when it begins on the server, and what happens when the server hangs."""

import json
import os
import pty
import select
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.project import (
    ENDLESS,
    QUICK,
    ROOT,
    environment,
    measuring,
    new_store,
    run,
    started,
    ttt_mlflow_run,
    wait_until,
)
from tests.proxies import SILENCE, Answer, proxy
from tests.tracking.conftest import server_folder, server_uri
from ttt_mlflow.app.publishing import Destination, progress_text
from ttt_mlflow.errors import BadInput
from ttt_mlflow.tracking.publisher import Limits, Progress

__all__ = ["server_folder", "server_uri"]


def only_record(logdir: Path) -> Path:
    (record,) = logdir.iterdir()
    return record


def read(record: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((record / name).read_text())
    return found


def runs_of(uri: str, record: Path) -> list[Run]:
    client = MlflowClient(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`ttt.journal_id` = '{record.name}'"))


def processes_of(parent: int) -> list[psutil.Process]:
    return psutil.Process(parent).children()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def command(logdir: Path, settings: dict[str, str] = QUICK, **more: str) -> list[str]:
    return ttt_mlflow_run({**settings, "logdir": str(logdir), **more})


@pytest.mark.long
def test_whoever_looks_sees_it_running_and_sigkill_leaves_it_so(store: str, logdir: Path) -> None:
    with started(command(logdir, ENDLESS), environment(store)) as process:
        process.wait_for(lambda: measuring(logdir))
        (publisher,) = processes_of(process.process.pid)
        (found,) = runs_of(store, only_record(logdir))
        assert found.info.status == "RUNNING"
        process.process.kill()
        process.process.wait()
        wait_until(lambda: not publisher.is_running())
    record = only_record(logdir)
    (found,) = runs_of(store, record)
    assert found.info.status == "RUNNING"
    assert json.loads(found.data.tags["ttt.process"]) == read(record, "status.json")["process"]
    assert "ttt.alive_until" in found.data.tags
    assert run(["python", "-m", "ttt_mlflow", "sync", str(logdir)], environment(store)).returncode == 0
    (found,) = runs_of(store, record)
    assert found.info.status == "KILLED"


@pytest.mark.long
def test_a_server_that_never_answers_costs_no_measurement(logdir: Path) -> None:
    with proxy(lambda method, path: SILENCE) as silent:
        done = run(command(logdir, publish_patience="1.5"), environment(silent.uri))
    assert done.returncode == 4, done.stderr
    record = only_record(logdir)
    assert read(record, "status.json")["status"] == "ok"
    assert "cannot be reached (for 1 s no byte moved and no answer came)" in done.stderr
    assert f"publish it later with: ttt-mlflow sync {record} --tracking-uri {silent.uri}" in done.stderr
    assert "for 0.5 s no byte moved and no answer came" in done.stderr, "the patience is for the whole run"
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_an_upload_that_hangs_waits_for_sync(server_uri: str, logdir: Path) -> None:
    def hangs(method: str, path: str) -> Answer | None:
        return SILENCE if method == "PUT" else None

    with proxy(hangs, server_uri) as hanging:
        done = run(command(logdir, publish_patience="12"), environment(hanging.uri))
        assert done.returncode == 4, done.stderr
        assert "for 12 s no byte moved and no answer came" in done.stderr
        record = only_record(logdir)
        assert read(record, "status.json")["status"] == "ok"
        (found,) = runs_of(server_uri, record)
        assert found.info.status == "RUNNING", "it is not complete"
        hanging.decide = lambda method, path: None
        later = run(["python", "-m", "ttt_mlflow", "sync", str(record), "--tracking-uri", hanging.uri], environment())
        assert later.returncode == 0, later.stderr
    (again,) = runs_of(server_uri, record)
    assert (again.info.run_id, again.info.status) == (found.info.run_id, "FINISHED")


@pytest.mark.parametrize("status", [401, pytest.param(403, marks=pytest.mark.long)])
def test_a_server_that_refuses_stops_the_run(status: int, logdir: Path) -> None:
    with proxy(lambda method, path: Answer(status)) as refusing:
        done = run(command(logdir), environment(refusing.uri))
    assert done.returncode == 2
    where = f"tracking_uri={refusing.uri}, experiment_name=ttt-mlflow"
    assert done.stderr.startswith(f"Error: {where}: refused with {status}: no user and no token were sent; ")
    assert len(done.stderr.splitlines()) == 1
    assert "building" not in done.stdout
    assert not logdir.exists()


def test_a_signal_while_the_server_is_asked(logdir: Path) -> None:
    asked = command(logdir, publish_patience="3")
    with proxy(lambda method, path: SILENCE) as silent, started(asked, environment(silent.uri)) as process:
        process.wait_for(lambda: bool(silent.requests))
        process.process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert "Traceback" not in process.output
    status = read(only_record(logdir), "status.json")
    assert (status["status"], status["message"]) == ("killed", "stopped by SIGINT before anything was measured")


def test_a_signal_after_the_run_was_made(server_uri: str, logdir: Path) -> None:
    """Before it is measured: the server is told."""
    with started(command(logdir, ENDLESS, publish_patience="120"), environment(server_uri)) as process:
        process.wait_for(lambda: any(read(path.parent, path.name)["run_id"] for path in logdir.glob("*/target.json")))
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert "Traceback" not in process.output
    record = only_record(logdir)
    assert read(record, "status.json")["status"] == "killed"
    (found,) = runs_of(server_uri, record)
    assert found.info.status == "KILLED", process.output


def test_a_terminal_that_goes_away(store: str, logdir: Path) -> None:
    """The kernel sends SIGHUP, and every later output fails: the measurement goes on to its end."""
    pid, leader = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        asked = command(logdir, {**ENDLESS, "repeats": "auto", "max_seconds": "3"})
        os.execve(asked[0], asked, environment(store))
    process = psutil.Process(pid)
    try:
        while not measuring(logdir):
            if select.select([leader], [], [], 0.1)[0]:
                os.read(leader, 65536)  # fails if the process has ended
        os.close(leader)
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    finally:
        process.kill()
        _, code = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(code) == 0
    record = only_record(logdir)
    assert read(record, "status.json")["status"] == "ok"
    (found,) = runs_of(store, record)
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize("name", ["publish_patience", "publish_seconds"])
@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan"])
def test_limits_that_are_none(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"{name}={value}: not allowed; {name} takes a number of seconds above 0"):
        Destination("runs", None, None, **{name: value}).limits()


def test_limits() -> None:
    assert Destination("runs", None, None).limits() == Limits(15.0, 300.0)
    assert Destination("runs", None, None, "2.5", "60").limits() == Limits(2.5, 60.0)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(0, 0, 1.0, 0.0), "publishing"),
        (Progress(4_200_000, 40_000_000, 2.0, 0.1), "publishing: 4.2 MB sent, 2.1 MB/s, 40.0 MB left"),
        (Progress(0, 40_000_000, 9.0, 7.4), "publishing: 40.0 MB left, no answer for 7 s"),
    ],
)
def test_what_is_shown(progress: Progress, text: str) -> None:
    assert progress_text(progress) == text
