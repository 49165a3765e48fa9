"""The hash of the package's code: it changes with any file, committed or not, and with nothing else."""

import shutil
from pathlib import Path

import pytest

from ttt_mlflow.telemetry import code


def test_it_is_that_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code.code_id()
    copy = tmp_path / "ttt_mlflow"
    shutil.copytree(code.PACKAGE, copy)
    monkeypatch.setattr(code, "PACKAGE", copy)
    fresh = code.code_id.__wrapped__
    assert fresh() == before, "the same files somewhere else"
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "new.pyc").write_bytes(b"compiled")
    assert fresh() == before
    for change in ("names.py", "report/pages/new.js"):
        path = copy / change
        path.write_text(f"{path.read_text() if path.exists() else ''} ")
        changed = fresh()
        assert changed != before
        before = changed
