"""``ttt-mlflow janitor``: what a person types, on real stores, with processes that were really killed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from tests.app.ab.conftest import NO_SIGNATURE
from tests.project import (
    ENDLESS,
    QUICK,
    ROOT,
    copy_project,
    environment,
    free_port,
    measuring,
    mlflow_run,
    new_store,
    run,
    started,
    ttt_mlflow_run,
)
from tests.record.conftest import MakeJournal, _own_folder_and_environment, make_journal
from tests.test_postgresql import PROGRAMS, database, folder
from tests.tracking.conftest import server_folder, server_uri
from tests.tracking.test_stuck_runs import PARAMS, PROJECT, Place
from tests.tracking.test_sync import abandon
from ttt_mlflow.app import janitor
from ttt_mlflow.app.janitor import Asked, clean, clean_after_sync, duration
from ttt_mlflow.app.records import sync_records
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.process import this_process
from ttt_mlflow.tracking.publish import note_target
from ttt_mlflow.tracking.sync import SyncResult

__all__ = ["_own_folder_and_environment", "database", "folder", "make_journal", "server_folder", "server_uri"]


def janitor_command(*arguments: object) -> list[str]:
    return [*ttt_mlflow_run({})[:-1], "janitor", *map(str, arguments)]


# Processes that were killed


@pytest.fixture
def team_server(database: str, tmp_path: Path) -> Iterator[str]:
    """A tracking server on PostgreSQL."""
    port = free_port()
    script = [str(ROOT / "scripts/server.sh"), "--port", str(port), "--workers", "1"]
    script += ["--database", database, "--artifacts", str(tmp_path / "artifacts")]
    with started(script, environment(), tmp_path) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        yield f"http://127.0.0.1:{port}"
        server.press_ctrl_c()
        server.wait()


@pytest.mark.long
@pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed (apt install postgresql)")
def test_mlflow_run_killed_before_our_process_begins(team_server: str, tmp_path: Path) -> None:
    """Its command starts a Python that takes long to start, as one does from a slow disk."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "python").write_text("#!/bin/sh\nexec sleep 600\n")
    (slow / "python").chmod(0o755)
    env = environment(team_server)
    client = MlflowClient(team_server)
    with started(mlflow_run({**QUICK, "inner_net": "mlp_2_dual"}), env | {"PATH": f"{slow}:{env['PATH']}"}) as begun:
        begun.wait_for(lambda: any(found.data.params for found in client.search_runs(["0"])))
        begun.wait_for(lambda: "sleep" in run(["ps", "-o", "comm=", "-g", str(begun.process.pid)], env).stdout)
        os.killpg(begun.process.pid, signal.SIGKILL)
    (stuck,) = client.search_runs(["0"])
    assert stuck.info.status == "RUNNING"
    assert not any(name.startswith("ttt.") for name in stuck.data.tags)

    young = run(janitor_command(), env)
    assert (young.returncode, young.stdout) == (0, f"0 runs ended as killed in {team_server}.\n"), young.stderr
    listed = run(janitor_command("--older-than", "0s", "--dry-run"), env)
    assert listed.returncode == 0, listed.stderr
    line, count = listed.stdout.splitlines()
    name = re.escape(f"{stuck.info.run_id} {stuck.info.run_name}")
    reason = r"`mlflow run` made it \d+ (s|min) ago, and no measurement began in it"
    assert re.fullmatch(rf"{name}, \d+ (s|min) old: would be ended: {reason}", line)
    assert count == f"1 run would be ended as killed in {team_server}."
    assert client.get_run(stuck.info.run_id).to_dictionary() == stuck.to_dictionary()

    done = run(janitor_command("--older-than", "0s"), env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"\n1 run ended as killed in {team_server}.\n")
    ended = client.get_run(stuck.info.run_id)
    assert ended.info.status == "KILLED"
    assert (ended.data.tags["ttt.status"], ended.data.tags["ttt.kind"]) == ("killed", "decode")
    assert re.search(reason, ended.data.tags["ttt.message"])
    assert ended.data.params == stuck.data.params


KILLED_BEFORE_THE_PARAMETERS = """
import os, signal, sys
import mlflow
mlflow.MlflowClient.log_batch = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
mlflow.projects.run(sys.argv[1], env_manager="local", parameters={"model_name": "ttt-tiny"})
"""


@pytest.mark.long
def test_mlflow_run_killed_before_it_writes_the_parameters(tmp_path: Path) -> None:
    """From a checkout of this project, and from one of another project, which has the same entry point."""
    ours, another = tmp_path / "ours", tmp_path / "another"
    for checkout in (ours, another):
        checkout.mkdir()
        copy_project(checkout)
    project = (another / "MLproject").read_text()
    (another / "MLproject").write_text(project.replace("name: ttt_mlflow", "name: another"))
    store = new_store(tmp_path)
    for checkout in (ours, another):
        for words in (["init", "-q"], ["add", "-A"], [*NO_SIGNATURE, "commit", "-qm", "all"]):
            subprocess.run(["git", *words], cwd=checkout, check=True)
        done = run([sys.executable, "-P", "-c", KILLED_BEFORE_THE_PARAMETERS, str(checkout)], environment(store))
        assert done.returncode == -signal.SIGKILL, done.stderr
    client = MlflowClient(store)
    assert [found.data.params for found in client.search_runs(["0"])] == [{}, {}]
    janitor = [sys.executable, "-m", "ttt_mlflow", "janitor", "--older-than", "0s"]
    done = run(janitor, {**environment(store), "PYTHONPATH": ""}, ours)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"\n1 run ended as killed in {store}.\n")
    status = {found.data.tags["mlflow.source.name"]: found.info.status for found in client.search_runs(["0"])}
    assert status == {f"file://{ours}": "KILLED", f"file://{another}": "RUNNING"}


@pytest.mark.long
def test_a_process_killed_while_it_measures(tmp_path: Path) -> None:
    """Its run is ended, and what it measured is published into it later all the same."""
    uri, logdir, elsewhere = new_store(tmp_path), tmp_path / "runs", tmp_path / "elsewhere"
    client, env = MlflowClient(uri), environment(uri)

    def only_run() -> Any:
        experiment = client.get_experiment_by_name("ttt-mlflow")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        return found

    with started(ttt_mlflow_run({**ENDLESS, "logdir": str(logdir)}), env) as process:
        process.wait_for(lambda: measuring(logdir))
        alive = only_run()
        assert alive.info.status == "RUNNING"
        done = run(janitor_command("--logdir", elsewhere, "--older-than", "0s"), env)
        assert (done.returncode, done.stdout) == (0, f"0 runs ended as killed in {uri}.\n"), done.stderr
        assert only_run().to_dictionary() == alive.to_dictionary()
        os.killpg(process.process.pid, signal.SIGKILL)
    (journal,) = [Journal.open(path) for path in logdir.iterdir()]

    done = run(janitor_command("--logdir", logdir), env)
    assert done.returncode == 0, done.stderr
    assert f"left to sync: its process {journal.status['process']['pid']} on" in done.stdout
    assert f"ttt-mlflow sync {journal.path} --tracking-uri {uri}" in done.stdout
    assert only_run().to_dictionary() == alive.to_dictionary()

    done = run(janitor_command("--logdir", elsewhere), env)
    assert done.returncode == 0, done.stderr
    ended = only_run()
    assert ended.info.status == "KILLED"
    assert "is gone" in ended.data.tags["ttt.message"]

    done = run([*ttt_mlflow_run({})[:-1], "sync", str(logdir)], env)
    assert done.returncode == 0, done.stderr
    synced = only_run()
    assert synced.info.run_id == alive.info.run_id
    assert (synced.info.status, synced.data.tags["ttt.status"]) == ("KILLED", "killed")
    assert "nobody works on this run" not in synced.data.tags["ttt.message"]
    for name, rows in journal.series.items():
        points = {
            (point.timestamp, point.step, point.value) for point in client.get_metric_history(alive.info.run_id, name)
        }
        assert set(rows) <= points


# In one process, which is quicker


@pytest.fixture
def place(server_uri: str, request: pytest.FixtureRequest) -> Place:
    return Place(server_uri, request.node.name)


def of(place: Place, tmp_path: Path, **asked: Any) -> Asked:
    return Asked(**{"tracking_uri": place.uri, "experiment_name": place.name, "logdir": str(tmp_path), **asked})


def test_nothing_to_do(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean(of(place, tmp_path)) == 0
    assert capsys.readouterr().out == f"0 runs ended as killed in {place.uri}.\n"


def test_a_run_with_its_record_here_is_left_to_sync(
    place: Place, make_journal: MakeJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = make_journal()
    gone = json.dumps({**this_process(), "start_ticks": 1})
    run_id = place.run({"ttt.journal_id": journal.journal_id, "ttt.process": gone})
    other = place.gone()
    assert clean(of(place, journal.path.parent)) == 0
    printed = capsys.readouterr().out
    assert f"publish what it measured with: ttt-mlflow sync {journal.path} --tracking-uri {place.uri}\n" in printed
    assert printed.endswith(f"1 run ended as killed in {place.uri}, 1 left to sync.\n")
    assert place.client.get_run(run_id).info.status == "RUNNING"
    assert place.client.get_run(other).info.status == "KILLED"


def test_a_name_cannot_write_on_the_terminal(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place.client.update_run(place.gone(), name="\x1b[2J\nok \x9b31m")
    assert clean(of(place, tmp_path)) == 0
    line, _ = capsys.readouterr().out.splitlines()
    assert line.isprintable()


def test_all_experiments_or_one(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = place.gone()
    assert clean(of(place, tmp_path, experiment_name=None)) == 0
    assert run_id not in capsys.readouterr().out, "neither ours nor Default"
    with pytest.raises(BadInput, match="give either --experiment-name or --all-experiments"):
        clean(of(place, tmp_path, everywhere=True))
    assert clean(of(place, tmp_path, experiment_name=None, everywhere=True)) == 0
    assert f"{run_id} " in capsys.readouterr().out


def test_what_cannot_be_read(place: Place, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^experiment_name=nowhere: http://.* has no such experiment; it has .*$"):
        clean(of(place, tmp_path, experiment_name="nowhere"))
    closed = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        BadInput, match=rf"^tracking_uri={closed}: cannot be read \(.*\); `ttt-mlflow doctor` checks the store$"
    ):
        clean(of(place, tmp_path, tracking_uri=closed))
    with pytest.raises(BadInput, match=r"cannot be read \(there is no "):
        clean(of(place, tmp_path, tracking_uri=f"sqlite:///{tmp_path}/none.db"))


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a tracking server, but answers those that change ``protected`` as a proxy with rights."""

    protected = ""
    status, body = 403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'

    def __init__(self, server: str) -> None:
        self.server = server
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.uri = f"http://127.0.0.1:{self.server_port}"


class Forwarding(BaseHTTPRequestHandler):
    def forward(self) -> None:
        proxy = cast(Proxy, self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        changes = self.path.endswith(("/runs/update", "/runs/log-batch", "/runs/set-tag"))
        status, answer = proxy.status, proxy.body
        if not (changes and proxy.protected and proxy.protected in body.decode()):
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            request = urllib.request.Request(proxy.server + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    status, answer = response.status, response.read()
            except urllib.error.HTTPError as error:
                status, answer = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PATCH = forward

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy_before(server: str) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [Proxy.body, b'{"detail": "not yours"}', b"<html>Forbidden</html>"])
def test_a_run_that_may_not_be_changed_is_named_and_the_rest_goes_on(
    body: bytes, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [place.gone() for _ in range(3)]
    before = place.content(runs[1])
    with proxy_before(place.uri) as proxy:
        proxy.protected, proxy.body = runs[1], body
        assert clean(of(place, tmp_path, tracking_uri=proxy.uri)) == 4
    printed = capsys.readouterr()
    (refused,) = (line for line in printed.err.splitlines() if line.startswith(runs[1]))  # others tell the progress
    assert ": refused: " in refused
    assert printed.out.endswith(f"2 runs ended as killed in {proxy.uri}, 1 refused.\n")
    assert [place.client.get_run(run_id).info.status for run_id in runs] == ["KILLED", "RUNNING", "KILLED"]
    assert place.content(runs[1]) == before


def test_a_server_that_goes_away_in_between_is_one_line(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttt_mlflow.tracking import stuck_runs

    place.gone(), place.gone()
    find = stuck_runs.find_stuck
    with proxy_before(place.uri) as proxy:

        def find_then_close(*arguments: Any) -> Any:
            found = find(*arguments)
            proxy.shutdown()
            proxy.server_close()
            return found

        monkeypatch.setattr(stuck_runs, "find_stuck", find_then_close)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(
            BadInput, match=rf"^tracking_uri={proxy.uri}: cannot be read \(.*\); `ttt-mlflow doctor`.*$"
        ):
            clean(of(place, tmp_path, tracking_uri=proxy.uri))


# As a part of sync


def test_sync_ends_them_too(
    place: Place, make_journal: MakeJournal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the experiments of the records that it published; and the killed process's own record goes into its run."""
    killed, done = make_journal("running"), make_journal("ok")
    abandon(killed)
    note_target(done, place.uri, None, place.name)
    gone = json.dumps({**this_process(), "start_ticks": 1})
    own = place.run({"ttt.journal_id": killed.journal_id, "ttt.process": gone})
    note_target(killed, place.uri, own, place.name)
    stuck, alive = place.gone(), place.run(PROJECT, PARAMS, timedelta(hours=23))
    assert sync_records(str(tmp_path / "runs"), place.uri) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^{stuck} .*: ended: its process \d+ on .* is gone$", printed, re.MULTILINE)
    statuses = [place.client.get_run(run_id).info.status for run_id in (own, stuck, alive)]
    assert statuses == ["KILLED", "KILLED", "RUNNING"]
    run = place.client.get_run(own)
    assert run.data.metrics["decode_tokens_per_s"] == 1234.5
    assert "nobody works on this run" not in run.data.tags["ttt.message"]


def result(journal: Journal, outcome: str, place: Place | None = None) -> SyncResult:
    run = SimpleNamespace(tracking_uri=place.uri, experiment_id=place.experiment_id, notes=()) if place else None
    return cast(SyncResult, SimpleNamespace(journal=journal, outcome=outcome, run=run))


def test_sync_leaves_the_run_of_a_record_that_it_will_send_later(place: Place, make_journal: MakeJournal) -> None:
    waiting, damaged, published = make_journal(), make_journal(), make_journal()
    gone = json.dumps({**this_process(), "start_ticks": 1})
    runs = [place.run({"ttt.journal_id": one.journal_id, "ttt.process": gone}) for one in (waiting, damaged)]
    results = [result(waiting, "failed"), result(damaged, "damaged"), result(published, "published", place)]
    assert clean_after_sync(results, place.uri) == 0
    assert [place.client.get_run(run_id).info.status for run_id in runs] == ["RUNNING", "KILLED"]


@pytest.mark.parametrize("interrupted", [{"ttt.recorded_until": "2026-11-29T08:00:00+00:00"}, {}])
def test_sync_leaves_the_run_that_another_sync_will_complete(
    interrupted: dict[str, str], place: Place, make_journal: MakeJournal, tmp_path: Path
) -> None:
    """That one was killed, before or after it had sent the values. The janitor alone ends such a run."""
    gone = json.dumps({**this_process(), "start_ticks": 1, "publishes": not interrupted})
    run_id = place.run({"ttt.journal_id": "20261128-101500-1a2b3c4d", "ttt.process": gone, **interrupted})
    assert clean_after_sync([result(make_journal(), "published", place)], place.uri) == 0
    assert place.client.get_run(run_id).info.status == "RUNNING"
    assert clean(of(place, tmp_path)) == 0
    assert place.client.get_run(run_id).info.status == "KILLED"


def test_sync_says_if_the_store_was_not_looked_at(
    make_journal: MakeJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    assert clean_after_sync([result(make_journal(), "already published")], closed) == 0
    assert re.fullmatch(
        rf"Note: runs that nobody works on any more were not looked for: tracking_uri={closed}: cannot be read .*\n",
        capsys.readouterr().err,
    )
    assert clean_after_sync([result(make_journal(), "failed")], closed) == 0
    assert capsys.readouterr().err == "", "it was said for each record"


def test_sync_goes_to_no_server_that_nobody_named(make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only to the files to which it has just published."""
    asked: list[str] = []

    def note(uri: str, *_: object) -> int:
        asked.append(uri)
        return 0

    monkeypatch.setattr(janitor, "_clean_quietly", note)
    place = cast(Place, SimpleNamespace(uri="http://team.example", experiment_id="1"))
    file = cast(Place, SimpleNamespace(uri="sqlite:////data/mlflow.db", experiment_id="1"))
    results = [result(make_journal(), "published", place), result(make_journal(), "published", file)]
    assert clean_after_sync(results, None) == 0
    assert asked == ["sqlite:////data/mlflow.db"]
    assert clean_after_sync([], None) == 0
    assert asked == ["sqlite:////data/mlflow.db"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://named.example")
    assert clean_after_sync([], None) == 0
    assert asked[1:] == ["http://named.example"]


# The age


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta(0)),
        (" 1.5h ", timedelta(minutes=90)),
    ],
)
def test_an_age(text: str, time: timedelta) -> None:
    assert duration(text) == time


@given(text=st.text(max_size=12) | st.from_regex(r"[0-9.e+-]{0,12}[smhdw]?", fullmatch=True))
def test_what_is_no_age_is_refused_in_one_line(text: str) -> None:
    try:
        found = duration(text)
    except BadInput as error:
        refused = str(error)
    else:
        assert timedelta(0) <= found <= timedelta(days=1_000_000)
        return
    assert refused.startswith(f"older_than={text}: not allowed; older_than takes a number and s, m, h or d")


def test_the_command_line(tmp_path: Path) -> None:
    shown = run(janitor_command("--help"), environment())
    assert shown.returncode == 0
    assert "ttt-mlflow janitor --dry-run" in shown.stdout
    refused = run(janitor_command("--older_than=soon", "--tracking_uri", new_store(tmp_path)), environment())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("Error: older_than=soon: not allowed")
    assert len(refused.stderr.splitlines()) == 1
    done = run(janitor_command("--tracking-uri", new_store(tmp_path), "--all-experiments"), environment())
    assert done.returncode == 0
    assert done.stdout.startswith("0 runs ended as killed in sqlite:///")
