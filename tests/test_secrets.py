"""No credential stands in what a run prints, records, publishes or hands to another process, whatever its spelling."""

import base64
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from mlflow.store.db import utils

from tests.project import QUICK, ROOT, Started, environment, free_port, new_store, started, ttt_mlflow_run
from tests.record.conftest import MakeJournal, make_journal
from tests.reliability.server import PostgreSQL
from tests.test_postgresql import postgresql_programs
from tests.test_redaction import SECRET, SPELLINGS
from ttt_mlflow import redaction
from ttt_mlflow.app.output import show_error
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.profilers import nsys
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.log import run_log
from ttt_mlflow.telemetry import host
from ttt_mlflow.tracking.publish import note_target, publish
from ttt_mlflow.tracking.store import resolve_tracking_uri

__all__ = ["make_journal"]

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws0s3cr3t0k3y",
    "AWS_SESSION_TOKEN": "aws0s3ss10n",
    "GITHUB_TOKEN": "ghp0s3cr3t",
    "HF_TOKEN": "hf0s3cr3t",
    "MLFLOW_TRACKING_TOKEN": "mlfl0w0t0k3n",
    "MLFLOW_TRACKING_USERNAME": "us3r0nam3",
    "MLFLOW_TRACKING_PASSWORD": "mlfl0w0passw0rd",
    "WANDB_API_KEY": "wandb0k3y",
    "DATABASE_URL": "postgresql://me:database0passw0rd@db/x",
}
log = logging.getLogger("ttt_mlflow.test")
# what costs a process each: {} is the password, then the port
RUN_WITH = [
    "http://me:{}@127.0.0.1:{}",
    "http://{}@127.0.0.1:{}/mlflow",
    "postgresql://me:pa/{}@127.0.0.1:{}/x?sslmode=disable",
]


def files_with(text: str, folder: Path) -> list[str]:
    """The files under ``folder`` that hold ``text``, whatever their format."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def assert_nothing_told(folder: Path, output: str) -> None:
    values = [*SECRETS.values(), "database0passw0rd", SECRET]
    told = {text: found for text in [*SECRETS, *values] if (found := files_with(text, folder))}
    assert not told
    assert not [text for text in values if text in output]


def command_lines(process: Started) -> Iterator[str]:
    """The command lines of a process and of all that it has started, as ``ps`` shows them."""
    try:
        one = psutil.Process(process.process.pid)
        family = [one, *one.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            yield " ".join(member.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue


@contextmanager
def a_server_that_repeats() -> Iterator[int]:
    """A proxy that refuses, and repeats in its answer what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"403: you sent {self.headers.get('Authorization')} to {self.path}".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_given", set())
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


def watched(env: dict[str, str], folder: Path, code: int) -> tuple[str, str]:
    """What a run that ends with ``code`` prints, and the command lines of its process and of all that it starts."""
    seen: set[str] = set()
    with started(ttt_mlflow_run({**QUICK, "logdir": str(folder / "runs")}), env) as process:
        while process.process.poll() is None:
            seen.update(command_lines(process))
            time.sleep(0.02)
        assert process.wait() == code, process.output
    assert seen, "the command lines were read"
    return process.output, "\n".join(seen)


def test_in_the_record_and_in_mlflow(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    output, processes = watched({**environment(store), **SECRETS}, tmp_path, 0)
    assert "mlflow.db" in files_with("ttt-tiny", tmp_path), "the database is read as it lies"
    assert len(files_with("cpu_model", tmp_path)) == 2, "the host's facts, in the record and among the artifacts"
    assert_nothing_told(tmp_path, output + processes)


@pytest.mark.long
@pytest.mark.parametrize("spelling", RUN_WITH)
def test_a_run_and_all_that_it_starts(spelling: str, tmp_path: Path) -> None:
    uri = spelling.format(SECRET, free_port())
    output, processes = watched({**environment(uri), **SECRETS}, tmp_path, 4)
    assert "127.0.0.1" in output, "the place is named, and was away"
    assert files_with("127.0.0.1", tmp_path), "the place to publish to later is in the record"
    assert_nothing_told(tmp_path, output + processes)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.usefixtures("_nothing_known")
def test_every_spelling_in_the_record_in_messages_and_in_tracebacks(
    spelling: str, make_journal: MakeJournal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(name: object, *_: object, **__: object) -> None:
        raise socket.gaierror(-2, f"Name or service not known: {name!r}")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal, said = make_journal(), "it was published"
    try:
        publish(journal, resolve_tracking_uri(spelling.format(SECRET)))
    except (BadInput, PublishFailed) as error:
        said = traceback.format_exc()
        show_error(error)
        with run_log(journal):
            log.warning("not published: %s", error, exc_info=True)
    assert "Traceback" in said
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert_nothing_told(journal.path, captured.out + captured.err + said)


@pytest.mark.usefixtures("_nothing_known")
def test_a_recorded_target_works_where_the_credentials_are_in_the_environment(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for spelling, shown in SPELLINGS.items():
        note_target(journal, spelling.format(SECRET), None, None)
        assert journal.target["tracking_uri"] == shown
        assert "***" not in shown, "a stand-in would be sent as a user or a password"


@pytest.mark.usefixtures("_nothing_known")
@pytest.mark.parametrize("place", ["http://me:{}@127.0.0.1:{}", "http://127.0.0.1:{1}/?token={0}"])
def test_a_server_that_repeats_what_it_was_sent(
    place: str, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal = make_journal()
    with a_server_that_repeats() as port:
        with pytest.raises(PublishFailed, match="403") as refused:
            publish(journal, resolve_tracking_uri(place.format(SECRET, port)))
        said = "".join(traceback.format_exception(refused.value))
    assert_nothing_told(journal.path, said)
    assert base64.b64encode(f"me:{SECRET}".encode()).decode() not in said


@pytest.mark.usefixtures("_nothing_known")
def test_whatever_comes_into_a_record(tmp_path: Path) -> None:
    uri = f"https://me:{SECRET}@host/x"
    journal = Journal.create(tmp_path, {"nsys_args": f"--env-var=A={uri}"})
    journal.set_used({"checkpoint": uri})
    journal.update_params({"checkpoint": uri})
    journal.set_description(f"see {uri}")
    journal.set_status("error", f"cannot read {uri}", 1)
    with run_log(journal):
        try:
            raise ValueError(uri)
        except ValueError:
            log.exception("failed")
    assert len(files_with("host/x", tmp_path)) == 5, "what was not secret is there"
    assert_nothing_told(tmp_path, "")


def test_the_address_of_the_git_remote(tmp_path: Path) -> None:
    for url, shown in {
        f"https://{SECRET}@github.com/o/r.git": "https://github.com/o/r.git",
        f"https://me:p@{SECRET}/x@github.com/o/r.git": "https://github.com/o/r.git",
        f"https://git.example/o/r.git?access_token={SECRET}": "https://git.example/o/r.git",
        "git@github.com:o/r.git": "git@github.com:o/r.git",
        "ssh://git@github.com/o/r.git": "ssh://git@github.com/o/r.git",
    }.items():
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        subprocess.run(["git", "-C", tmp_path, "config", "remote.origin.url", url], check=True)
        assert host._remote_url(tmp_path) == shown


@pytest.mark.usefixtures("_nothing_known")
def test_a_profiled_process_has_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nsys writes the environment of the process into its report."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{SECRET}@host")
    assert nsys._run(["env"], tmp_path, 30) == 0
    log = (tmp_path / nsys.LOG).read_text()
    assert "PATH=" in log
    values = [*SECRETS.values(), SECRET]
    assert not [text for text in values if text in log and text != SECRETS["MLFLOW_TRACKING_USERNAME"]]


def test_a_traceback_of_a_fault_of_this_program() -> None:
    program = (
        "from ttt_mlflow.app.output import open_output\n"
        "open_output()\n"
        f"print('to https://{SECRET}@host')\n"
        f"raise RuntimeError('cannot reach postgresql://me:a/{SECRET}@db/x')"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "to https://host\n"
    assert "RuntimeError: cannot reach postgresql://me@db/x" in done.stderr
    assert SECRET not in done.stderr


def test_the_server_script_and_the_command_lines_of_what_it_starts(tmp_path: Path) -> None:
    """The database does not answer: one line says so, without the password."""
    script = [str(ROOT / "scripts/server.sh"), "--port", str(free_port())]
    script += ["--database", f"postgresql://me:pa%2F{SECRET}@127.0.0.1:{free_port()}/x?connect_timeout=1"]
    script += ["--artifacts", f"s3://AKIA:{SECRET}@bucket/path"]
    seen: set[str] = set()
    with started(script, environment(), tmp_path) as server:
        while server.process.poll() is None:
            # until the check, the script has yet to start itself again without the URIs
            now = set(command_lines(server))
            if seen or any("scripts.server.check" in one for one in now):
                seen |= now
            time.sleep(0.02)
        assert server.wait() == 1
    assert "refused" in server.output
    assert any("scripts.server.check" in one for one in seen)
    assert SECRET not in "\n".join(seen)
    assert SECRET not in server.output


@pytest.mark.skipif(postgresql_programs() is None, reason="PostgreSQL is not installed (apt install postgresql)")
def test_the_server_script_names_its_places(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "mlflow").write_text(
        f'#!/bin/sh\necho "started with $MLFLOW_BACKEND_STORE_URI"\nexec {sys.executable} -c \''
        "import sys\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n        self.send_response(200); self.end_headers()\n"
        'HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), H).serve_forever()\' "$@"\n'
    )
    (bin_folder / "mlflow").chmod(0o755)
    env = environment()
    env |= {"PATH": f"{bin_folder}{os.pathsep}{env['PATH']}", "MLFLOW_ARTIFACTS_DESTINATION": f"{tmp_path}/artifacts"}
    script = [str(ROOT / "scripts/server.sh"), "--port", str(free_port()), "--database"]
    with TemporaryDirectory(prefix="ttt-postgresql-") as name:
        database = PostgreSQL(Path(name))  # it takes any password
        try:
            script.append(f"postgresql://mlflow:{SECRET}@127.0.0.1:{database.port}/runs")
            with started(script, env, tmp_path) as server:
                server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
                seen = set(command_lines(server))
                server.press_ctrl_c()
                assert server.wait() == 0
        finally:
            database.stop()
    place = f"postgresql://mlflow@127.0.0.1:{database.port}/runs"
    assert f"started with {place}" in server.output, "MLflow's own lines go through the same"
    assert f"runs in {place}, artifacts in {tmp_path}/artifacts" in server.output
    assert any(" server --host" in one for one in seen)
    assert SECRET not in "\n".join(seen)
    assert SECRET not in server.output
