"""``ab`` that is killed: what it has started ends, and its folders are removed."""

import sys
from pathlib import Path

import psutil
import pytest

from tests.app.ab.conftest import NOWHERE, Project
from tests.project import ROOT, environment, started, wait_until


@pytest.mark.parametrize(
    "ignores_sigterm",
    [False, pytest.param(True, marks=pytest.mark.long)],  # which takes PATIENCE_S
)
def test_a_kill_ends_what_measures(project: Project, tmp_path: Path, ignores_sigterm: bool) -> None:
    """``ab`` can do nothing then; and git has notes of the folders."""
    project.commit("hanging", hangs_after=1, ignores_sigterm=ignores_sigterm)
    command = [sys.executable, "-m", "ttt_mlflow", "ab", "slow", "hanging", "--tracking-uri", NOWHERE]
    env = {**environment(), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TMPDIR": str(tmp_path / "temporary")}
    with started(command, env, project.folder) as process:
        process.wait_for(lambda: project.versions.count("hanging") > 1)
        measuring = psutil.Process(project.calls()[-1]["pid"])
        assert len(project.work_trees()) == 3
        process.process.kill()
        process.wait()
    try:
        wait_until(lambda: not measuring.is_running())
    finally:
        if measuring.is_running():
            measuring.kill()
    wait_until(lambda: not list((tmp_path / "temporary").iterdir()))
    assert len(project.work_trees()) == 1
