"""Repositories of versions that measure nothing, so that ``ab`` is tried on real git without a start of torch."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.tracking.conftest import _own_folder_and_environment, sqlite_uri
from ttt_mlflow.cli import cli

__all__ = ["_own_folder_and_environment", "sqlite_uri"]

FAKE = Path(__file__).with_name("fake_main.py")
NOWHERE = "postgresql://127.0.0.1:1/nowhere"  # nothing answers there, so that nothing is published
NO_SIGNATURE = ["-c", "user.name=a test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]


@dataclass
class Project:
    """A checkout of the fake package, with a log of its processes, and what it does next."""

    folder: Path
    calls_file: Path

    def write(self, version: str, rate: float = 1000.0, **behavior: Any) -> None:
        """Write a version of the package. version: by which its processes are found in :meth:`calls`."""
        package = self.folder / "ttt_mlflow"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        shutil.copy(FAKE, package / "__main__.py")
        does = {"version": version, "rate": rate, "calls": str(self.calls_file), **behavior}
        (package / "behavior.json").write_text(json.dumps(does))

    def git(self, *arguments: str) -> str:
        command = ["git", *NO_SIGNATURE, "-C", str(self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, version: str, rate: float = 1000.0, **behavior: Any) -> str:
        """Commit a version, and tag it with its name. Returns the commit."""
        self.write(version, rate, **behavior)
        self.git("add", "-A")
        self.git("commit", "-qm", version, "--allow-empty")
        self.git("tag", version)
        return self.git("rev-parse", "HEAD")

    def calls(self) -> list[dict[str, Any]]:
        """The processes so far, in order: version, pid and words."""
        return (
            [json.loads(line) for line in self.calls_file.read_text().splitlines()] if self.calls_file.exists() else []
        )

    @property
    def versions(self) -> list[str]:
        return [call["version"] for call in self.calls()]

    def work_trees(self) -> list[str]:
        return self.git("worktree", "list", "--porcelain").split("\n\n")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repository with the versions ``slow`` and ``fast``. It is the current folder."""
    folder, temporary = tmp_path / "project", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    made = Project(folder, tmp_path / "calls")
    made.git("init", "-q")
    (folder / ".gitignore").write_text("ignored/\nttt_runs/\n")
    made.commit("slow", 1000.0)
    made.commit("fast", 1030.0)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return made


@pytest.fixture
def ab(project: Project, tmp_path: Path) -> Callable[..., Result]:
    """``ttt-mlflow ab`` in this process. After it, there is no work tree and no temporary file, however it ended."""

    def invoke(*arguments: str) -> Result:
        places = [] if "--tracking-uri" in arguments else ["--tracking-uri", NOWHERE]
        result = CliRunner().invoke(cli, ["ab", *places, *arguments])
        assert len(project.work_trees()) == 1
        left = [path.name for path in (tmp_path / "temporary").iterdir()]
        assert [name for name in left if not name.startswith("ttt-mlflow-fault-")] == []
        return result

    return invoke
