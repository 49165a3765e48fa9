"""The file with a traceback: what those who can mend it need to know, and no secrets."""

import tempfile
from pathlib import Path

import pytest

from ttt_mlflow.record.fault_file import place_of, report_of

SECRET = "postgresql://me:geheim@db/x"


def fault() -> Exception:
    try:
        raise RuntimeError(f"cannot use {SECRET}")
    except RuntimeError as error:
        return error


def test_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ttt-mlflow", "sync", f"--tracking-uri={SECRET}"])
    monkeypatch.setenv("SOME_SERVICE", "of the environment")
    said = report_of(fault())
    assert "command: ttt-mlflow sync --tracking-uri=" in said
    assert "RuntimeError: cannot use postgresql://" in said
    assert "in fault" in said, "the traceback"
    assert "torch: 2." in said
    assert "geheim" not in said
    assert "of the environment" not in said


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = place_of(fault())
    (path,) = tmp_path.iterdir()
    assert said == f"; the traceback is in {path}"
    assert path.stat().st_mode & 0o077 == 0


def test_where_no_file_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    assert place_of(fault()) == ""
