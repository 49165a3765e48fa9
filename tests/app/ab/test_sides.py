"""What a side can be, and the folder that it gets."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.app.ab.conftest import Project
from ttt_mlflow.app.ab.sides import Source, find_source, own_folders
from ttt_mlflow.errors import BadInput


def files_of(source: Source) -> dict[str, str]:
    """The files of the side's folder as text, without git's own."""
    with own_folders([source], {source.name: ()}) as (side,):
        assert side.folder != source.folder
        found = [path for path in side.folder.rglob("*") if path.is_file() and path.name != ".git"]
        return {str(path.relative_to(side.folder)): path.read_text() for path in found}


def test_a_branch_a_tag_and_a_commit(project: Project) -> None:
    project.git("branch", "work", "slow")
    commit = project.git("rev-parse", "slow")
    for ref in ("work", "slow", commit, commit[:8], "HEAD~1"):
        source = find_source("baseline", ref)
        assert (source.commit, source.uncommitted) == (commit, False)
        assert str(source) == f"commit {commit[:10]}"


def test_a_ref_goes_before_a_folder_of_the_same_name(project: Project) -> None:
    (project.folder / "fast/ttt_mlflow").mkdir(parents=True)
    (project.folder / "fast/ttt_mlflow/__main__.py").touch()
    assert find_source("candidate", "fast").commit == project.git("rev-parse", "fast")
    folder = find_source("candidate", "./fast")
    assert (folder.commit, folder.folder) == (None, project.folder / "fast")


def test_the_working_tree_also_from_a_folder_within(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder / "ttt_mlflow")
    source = find_source("candidate", ".")
    assert source.folder == project.folder
    assert source.commit == project.git("rev-parse", "HEAD")


def test_uncommitted_changes_are_said_only_if_there_are_some(project: Project) -> None:
    head = f"commit {project.git('rev-parse', 'HEAD')[:10]}"
    (project.folder / "ignored").mkdir()
    (project.folder / "ignored/file").touch()
    assert str(find_source("candidate", ".")) == head
    (project.folder / "new").touch()
    assert str(find_source("candidate", ".")) == f"{project.folder} with its uncommitted changes ({head})"
    (project.folder / "new").unlink()
    project.write("edited")
    assert find_source("candidate", str(project.folder)).uncommitted


def test_uncommitted_changes_are_copied(project: Project) -> None:
    folder = project.folder
    for name in ("removed", "moved", "kept", "changed", "staged"):
        (folder / name).write_text("old")
    project.git("add", "-A")
    project.git("commit", "-qm", "files")
    (folder / "removed").unlink()
    project.git("mv", "moved", "moved here")
    (folder / "changed").write_text("new")
    (folder / "staged").write_text("new")
    project.git("add", "staged")
    (folder / "kept").unlink()
    (folder / "kept").mkdir()
    (folder / "kept/within").write_text("a folder now")
    (folder / "not tracked ü").write_text("new")
    (folder / "ignored").mkdir()
    (folder / "ignored/file").touch()
    found = files_of(find_source("candidate", "."))
    assert {name: text for name, text in found.items() if "ttt_mlflow" not in name and name != ".gitignore"} == {
        "moved here": "old",
        "changed": "new",
        "staged": "new",
        "kept/within": "a folder now",
        "not tracked ü": "new",
    }


def test_git_knows_the_commit_and_the_changes_in_the_copy(project: Project) -> None:
    """So the record of a run from there names them."""
    project.write("changed")
    with own_folders([find_source("candidate", ".")], {"candidate": ()}) as (side,):
        command = ["git", "-C", str(side.folder)]
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        status = subprocess.run([*command, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    assert head == project.git("rev-parse", "HEAD")
    assert status == "M ttt_mlflow/behavior.json"


def test_a_folder_without_history_gives_its_package(project: Project, tmp_path: Path) -> None:
    copy = Project(tmp_path / "copy", project.calls_file)
    copy.folder.mkdir()
    copy.write("copy")
    (copy.folder / "large_file").touch()
    assert set(files_of(find_source("baseline", str(copy.folder)))) == {
        f"ttt_mlflow/{name}" for name in ("__init__.py", "__main__.py", "behavior.json")
    }


def test_no_hook_runs(project: Project, tmp_path: Path) -> None:
    hook = project.folder / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hook\n")
    hook.chmod(0o755)
    files_of(find_source("baseline", "slow"))
    assert not (tmp_path / "hook").exists()


def test_called_by_a_hook(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git sets these variables for a hook; here they would name the wrong repository."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert files_of(find_source("baseline", "slow"))


def test_an_interrupted_work_tree_is_removed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SIGKILL on git leaves it: the note is locked, and the folder has no file .git."""
    from ttt_mlflow.app.ab import sides

    add = sides._add_work_tree

    def interrupted(source: Source, folder: Path) -> None:
        add(source, folder)
        (folder / ".git").unlink()
        (note,) = (project.folder / ".git/worktrees").iterdir()
        (note / "locked").write_text("initializing")
        raise KeyboardInterrupt

    monkeypatch.setattr(sides, "_add_work_tree", interrupted)
    with pytest.raises(KeyboardInterrupt), own_folders([find_source("baseline", "slow")], {"baseline": ()}):
        pass
    assert len(project.work_trees()) == 1


def test_a_repository_without_a_commit(project: Project, tmp_path: Path) -> None:
    new = Project(tmp_path / "new", project.calls_file)
    new.folder.mkdir()
    new.write("new")
    new.git("init", "-q")
    with pytest.raises(BadInput, match="has no commit yet; commit once"):
        find_source("candidate", str(new.folder))


def test_the_environment_of_a_side(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/before")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the user")
    monkeypatch.setenv("KEPT", "1")
    with own_folders([find_source("baseline", "slow")], {"baseline": ()}) as (side,):
        found = side.environment()
    assert found["PYTHONPATH"].split(os.pathsep) == [str(side.folder), "/before"]
    assert "MLFLOW_RUN_ID" not in found
    assert found["KEPT"] == "1"


def test_another_package_that_python_prefers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides would measure that one, and be equal."""
    from ttt_mlflow.app.ab.sides import Side

    monkeypatch.setattr(Side, "environment", lambda side: {"PYTHONPATH": str(project.folder)})
    with (
        pytest.raises(BadInput, match=f"Python imports ttt_mlflow from {project.folder}/ttt_mlflow instead of"),
        own_folders([find_source("baseline", "slow")], {"baseline": ()}),
    ):
        pass
    assert len(project.work_trees()) == 1
