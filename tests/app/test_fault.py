"""An unexpected error of any command: one line, a file to send, and exit code 70."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.inline import InlinePublisher
from ttt_mlflow.app import measure, publishing
from ttt_mlflow.cli import cli
from ttt_mlflow.errors import Killed, OutOfMemory
from ttt_mlflow.record.journal import Journal

SECRET = "postgresql://me:geheim@db/x"
A_RUN = ["run", "--model-name", "ttt-tiny", "--device", "cpu", "--tracking-uri", "postgresql://127.0.0.1:1/nowhere"]
# a command, and where its work begins
COMMANDS = {
    "table": "ttt_mlflow.app.folder_rows.find_records",
    "report": "ttt_mlflow.app.report.find_sets",
    "record list": "ttt_mlflow.app.record_commands.record_folders",
    "record verify": "ttt_mlflow.app.record_commands.record_folders",
    "sync .": "ttt_mlflow.tracking.sync.sync",
    "compare a b": "ttt_mlflow.app.compare.execute",
    "rerun a": "ttt_mlflow.app.rerun.open_finder",
    "ab . .": "ttt_mlflow.app.ab.command.find_source",
    "doctor": "ttt_mlflow.app.doctor.diagnosis.diagnose",
    "models": "ttt_mlflow.models.registry.registered",
}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def invoke_failing(words: list[str], place: str, error: BaseException, patch: pytest.MonkeyPatch) -> Result:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    patch.setattr(place, fail)
    return CliRunner().invoke(cli, words)


def only_line(done: Result) -> str:
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(command: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = command.split()
    done = invoke_failing(words, COMMANDS[command], KeyError("nobody expected\nthis"), monkeypatch)
    assert done.exit_code == 70
    line = only_line(done)
    assert line.startswith(f"Error: a fault of ttt-mlflow in `ttt-mlflow {words[0]}`: KeyError: ")
    (report,) = temporary.iterdir()
    assert str(report) in line
    assert "send that file" in line
    assert report.stat().st_mode & 0o077 == 0
    said = report.read_text()
    assert "Traceback (most recent call last)" in said


def test_the_file_has_no_secrets(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ttt-mlflow", "table", f"--tracking-uri={SECRET}"])
    done = invoke_failing(["table"], COMMANDS["table"], RuntimeError(f"cannot use {SECRET}"), monkeypatch)
    (report,) = temporary.iterdir()
    said = report.read_text()
    assert "geheim" not in done.stderr + said
    assert "RuntimeError: cannot use postgresql://" in said
    assert "command: ttt-mlflow table --tracking-uri=" in said


def test_without_a_file_the_traceback_follows_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    done = invoke_failing(["table"], COMMANDS["table"], KeyError("x"), monkeypatch)
    assert done.exit_code == 70
    first, *rest = done.stderr.splitlines()
    assert "please send what follows" in first
    assert "Traceback (most recent call last):" in rest


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
            "/tmp/x: No space left on device; free some space",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/srv"), "/srv: Read-only file system; choose a folder"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "/root/x: Permission denied; choose a file"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "set TMPDIR to a folder"),
    ],
)
def test_what_the_host_refuses_is_no_fault(
    error: OSError, said: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = invoke_failing(["table"], COMMANDS["table"], error, monkeypatch)
    assert done.exit_code == 2
    line = only_line(done)
    assert line.startswith("Error: `ttt-mlflow table`: ")
    assert said in line
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OutOfMemory("too large"), 3, "Error: too large"),
        (Killed(15), 143, "Stopped by SIGTERM."),
        (Killed(1), 129, "Stopped by SIGHUP."),
    ],
)
def test_what_is_expected_stays_as_it_is(
    error: BaseException, code: int, said: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = invoke_failing(["table"], COMMANDS["table"], error, monkeypatch)
    assert (done.exit_code, only_line(done)) == (code, said)
    assert list(temporary.iterdir()) == []


def the_record() -> Journal:
    (path,) = Path("ttt_runs").iterdir()
    return Journal.open(path)


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)


@pytest.mark.usefixtures("_in_this_process")
def test_a_fault_before_the_measurement_ends_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke_failing(A_RUN, "ttt_mlflow.app.job._begin", KeyError("x"), monkeypatch)
    assert done.exit_code == 70
    record = the_record()
    assert (record.status["status"], record.status["exit_code"]) == ("error", 70)
    assert record.status["message"] == "KeyError: 'x'"
    assert f"its record is {record.path}" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("_in_this_process")
def test_a_fault_after_the_measurement_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(plan: object, record: Journal, *_: object) -> measure.Result:
        record.set_status("ok", exit_code=0)
        return measure.Result(record)

    monkeypatch.setattr(measure, "carry_out", ended)
    done = invoke_failing(A_RUN, "ttt_mlflow.app.measure.Result.summary", KeyError("x"), monkeypatch)
    assert done.exit_code == 70
    assert the_record().status["status"] == "ok"
    assert f"what was measured is in {the_record().path}" in done.stderr.splitlines()[-1]


def test_a_reader_that_left_is_none(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    done = invoke_failing(
        ["table"], COMMANDS["table"], BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)), monkeypatch
    )
    assert done.exit_code == 1
    assert list(temporary.iterdir()) == []
