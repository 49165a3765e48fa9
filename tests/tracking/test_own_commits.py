"""Which commits are of this project, as a checkout tells."""

import subprocess
from pathlib import Path

from ttt_mlflow.tracking.own_commits import is_our_commit


def test_a_commit_of_this_project_is_known_by_its_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(project: str) -> str:
        (tmp_path / "MLproject").write_text(f"name: {project}\n")
        git("add", "-A")
        git("commit", "-qm", project, "--allow-empty")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    another, ours = commit("another"), commit("ttt_mlflow")
    commit("another")
    (tmp_path / "below").mkdir()
    assert is_our_commit(ours, tmp_path)
    assert not is_our_commit(another, tmp_path)
    assert not is_our_commit("d" * 40, tmp_path)
    assert not is_our_commit("HEAD", tmp_path), "a ref, which whoever writes a run could name"
    assert not is_our_commit(ours, tmp_path / "below"), "the package is not in the root folder of this repository"
    assert not is_our_commit(ours, tmp_path / "away")
