"""The command that publishes a record later."""

import shlex
from pathlib import Path

import pytest

from ttt_mlflow.tracking.later import sync_command


@pytest.mark.parametrize("path", ["/runs/20261123-101500-1a2b3c4d", "/my runs/it's"])
def test_the_command_is_whole_and_has_no_secret(path: str) -> None:
    words = shlex.split(sync_command(Path(path), "http://user:secret@team:5000"))
    assert words[:3] == ["ttt-mlflow", "sync", path]
    assert words[3] == "--tracking-uri"
    assert "secret" not in words[4]
    assert "team:5000" in words[4]
