"""The two sides of ``ab``: what a person named, and a folder of its own from which it runs."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ttt_mlflow.errors import BadInput

PACKAGE = "ttt_mlflow"
MAIN = f"{PACKAGE}/__main__.py"
SHORT = 10  # characters of a commit that are shown
PATIENCE_S = 20.0  # for a process that was asked to stop, until it is killed
# a git hook sets these for its own repository, and git reads them before it looks at the folder
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")  # a hook of the repository must not run at `git worktree add`
# git's names of the files that differ from the commit, and of new ones, but for those that it ignores
CHANGED = ("diff", "--name-only", "--no-renames", "-z", "HEAD")
NEW = ("ls-files", "--others", "--exclude-standard", "-z")


@dataclass(frozen=True)
class Source:
    """What a side is, before anything was written.

    name: baseline or candidate. asked: the side as given. commit: None for a folder without history. repository: where
    the commit is. uncommitted: whether the files of the work tree replace those of the commit.
    """

    name: str
    asked: str
    folder: Path
    commit: str | None = None
    uncommitted: bool = False

    def __str__(self) -> str:
        if self.commit is None:
            return f"the folder {self.folder}"
        commit = f"commit {self.commit[:SHORT]}"
        return f"{self.folder} with its uncommitted changes ({commit})" if self.uncommitted else commit


@dataclass(frozen=True)
class Side:
    """A side that can run: its source, the folder that holds its package, and the words of its options."""

    source: Source
    folder: Path
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.source.name

    def environment(self) -> dict[str, str]:
        """The environment of this side's processes: its own package, and nothing of the user's MLflow.

        The current folder stays the user's, so that a relative path in an option means the same on both sides. Python
        would put it before this package, hence the safe path.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        paths = [str(self.folder), *filter(None, [kept.get("PYTHONPATH")])]
        return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def find_source(name: str, asked: str) -> Source:
    """What ``asked`` names: ``.``, else a git ref of the repository of the current folder, else a folder.

    Raises BadInput for what is none of them, and for what holds no package ttt_mlflow. Nothing is written.
    """
    here = Path.cwd()
    repository = _repository(here)
    if asked != "." and repository and (commit := _commit(repository, asked)):
        if git(repository, "cat-file", "-e", f"{commit}:{MAIN}") is None:
            raise BadInput(f"{name}={asked}: commit {commit[:SHORT]} holds no package {PACKAGE}; name another commit")
        return Source(name, asked, repository, commit)
    folder = repository if asked == "." and repository else Path(asked).absolute()
    if not folder.is_dir():
        place = f"neither a commit, branch or tag of {repository} nor a folder; `git log` and `git branch` show them"
        nowhere = f"no such folder, and {here} is in no git repository; name a folder, or run this in a checkout"
        raise BadInput(f"{name}={asked}: {place if repository else nowhere}")
    if not (folder / MAIN).is_file():
        raise BadInput(f"{name}={asked}: {folder} holds no package {PACKAGE}; name the folder of a checkout")
    if _repository(folder) != folder.resolve():
        return Source(name, asked, folder)
    head = _commit(folder, "HEAD")
    if head is None:
        raise BadInput(f"{name}={asked}: {folder} has no commit yet; commit once, so that the runs can name one")
    # git that fails here counts as changes: copying them then says what is wrong
    return Source(name, asked, folder, head, uncommitted=any(git(folder, *ask) != "" for ask in (CHANGED, NEW)))


@contextmanager
def own_folders(sources: Sequence[Source], words: Mapping[str, tuple[str, ...]]) -> Iterator[list[Side]]:
    """A folder of its own for each side, so that an edit meanwhile changes nothing. They are gone after the block.

    A commit becomes a git work tree. So does a checkout with uncommitted changes, whose files are copied over it. Of a
    folder without history, the package is copied. words: the options of each side, by its name.
    Raises BadInput if a folder cannot be made, or if Python would import another package from it.
    """
    root = Path(tempfile.mkdtemp(prefix="ttt-mlflow-ab-")).resolve()
    trees: list[tuple[Path, Path]] = []
    watcher: subprocess.Popen[bytes] | None = None
    try:
        watcher = _start_watcher(root, sources)
        sides = []
        for source in sources:
            folder = root / source.name
            if source.commit is None:
                _copy_package(source, folder)
            else:
                trees.append((source.folder, folder))
                _add_work_tree(source, folder)
            side = Side(source, folder, words[source.name])
            _check_import(side)
            sides.append(side)
        yield sides
    finally:
        remove_folders(root, trees)
        if watcher:
            watcher.kill()  # there is nothing left that it would do
            with watcher:
                pass


def _start_watcher(root: Path, sources: Sequence[Source]) -> "subprocess.Popen[bytes]":
    """Start the process that does what is left to do if this one is killed: see :mod:`ttt_mlflow.app.ab.watch`."""
    trees = [path for source in sources if source.commit for path in (source.folder, root / source.name)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ttt_mlflow.app.ab.watch", str(root), *map(str, trees)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)},
        stdin=subprocess.PIPE,  # which closes with this process
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # no signal of the terminal reaches it
    )


def remove_folders(root: Path, trees: Sequence[tuple[Path, Path]]) -> None:
    """Remove ``root`` with the folders of the sides. trees: repository and folder of each git work tree."""
    for repository, folder in trees:
        _remove_work_tree(repository, folder)
    shutil.rmtree(root, ignore_errors=True)


def git(folder: Path, *arguments: str) -> str | None:
    """The output of git in ``folder``; None if git fails or is not installed."""
    try:
        return _git(folder, *arguments)
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    command = ["git", *NO_HOOKS, "-C", str(folder), *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, errors="surrogateescape"
    )
    return done.stdout.removesuffix("\n")


def _repository(folder: Path) -> Path | None:
    """The root of the git work tree that ``folder`` is in."""
    root = git(folder, "rev-parse", "--show-toplevel") if folder.is_dir() else None
    return Path(root).resolve() if root else None


def _commit(repository: Path, ref: str) -> str | None:
    return git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}") or None


def _add_work_tree(source: Source, folder: Path) -> None:
    assert source.commit
    try:
        _git(source.folder, "worktree", "add", "--quiet", "--detach", str(folder), source.commit)
        if source.uncommitted:
            _copy_changes(source.folder, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise BadInput(
            f"{source.name}={source.asked}: no work tree could be made ({reason}); check the repository"
        ) from None


def _copy_changes(checkout: Path, folder: Path) -> None:
    """Make ``folder``, which has the commit, equal to ``checkout``, except for the files that git ignores."""
    names = [name for ask in (CHANGED, NEW) for name in _git(checkout, *ask).split("\0") if name]
    for name in names:
        target = folder / name
        if target.is_symlink() or target.is_file():
            target.unlink()
    for name in names:
        source, target = checkout / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _copy_package(source: Source, folder: Path) -> None:
    try:
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source.folder / PACKAGE, folder / PACKAGE, ignore=without)
    except OSError as error:
        raise BadInput(f"{source.name}={source.asked}: cannot be copied ({error}); check its permissions") from None


def _check_import(side: Side) -> None:
    """Raise BadInput unless this side's processes import this side's package. Otherwise both sides would be one."""
    look = f"import importlib.util as u; print(u.find_spec({PACKAGE!r}).origin)"
    done = subprocess.run([sys.executable, "-c", look], env=side.environment(), capture_output=True, text=True)
    found = Path(done.stdout.strip()).resolve()
    if done.returncode or not found.is_relative_to(side.folder):
        raise BadInput(
            f"{side.name}={side.source.asked}: Python imports {PACKAGE} from {found.parent} instead of {side.folder}; "
            "remove what puts it first on the import path, for example a .pth file"
        )


def _remove_work_tree(repository: Path, folder: Path) -> None:
    """Remove a work tree and git's note of it. A `git worktree add` that was interrupted has left a locked note."""
    if git(repository, "worktree", "remove", "--force", "--force", str(folder)) is None:
        shutil.rmtree(folder, ignore_errors=True)
        git(repository, "worktree", "unlock", str(folder))
        git(repository, "worktree", "prune")
