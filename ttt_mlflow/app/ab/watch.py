"""The process that ends what `ab` has started, and removes its folders, if `ab` is killed and can do neither.

``python -m ttt_mlflow.app.ab.watch ROOT [REPOSITORY FOLDER ...]``: the folder of the sides, and their git work trees.
It cannot be left to the sides: each is a version of its own. Until `ab` has ended, it takes no time of the host.
"""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ttt_mlflow.app.ab.sides import PATIENCE_S, remove_folders


def main(root: Path, trees: Sequence[tuple[Path, Path]], patience_s: float = PATIENCE_S) -> None:
    sys.stdin.buffer.read()  # `ab` writes nothing: this is its end
    if not root.exists():
        return  # it has done all this itself
    for signum in (signal.SIGTERM, signal.SIGKILL):
        found = _processes_of(root)
        for one in found:
            with suppress(psutil.Error):
                one.send_signal(signum)
        psutil.wait_procs(found, patience_s)
    remove_folders(root, trees)


def _processes_of(root: Path) -> list[psutil.Process]:
    """Those that import the package of a side, with all that they have started themselves."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or it has ended
            if f"{root}/" in one.environ().get("PYTHONPATH", ""):
                found.append(one)
    return found


if __name__ == "__main__":
    first, *others = map(Path, sys.argv[1:])
    main(first, list(zip(others[::2], others[1::2], strict=True)))
