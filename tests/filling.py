"""``ttt-mlflow`` in a process whose disk is full from the moment on at which it writes a certain file or value.

As a program: python -m tests.filling MOMENT DISK run --batch=2 …, MOMENT being the name of a file or a text in one.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.recordings import with_samples
from tests.small_disk import fill
from ttt_mlflow.cli import main
from ttt_mlflow.record import journal


def fill_from(moment: str, disk: Path) -> None:
    """From that moment on, whatever becomes free is taken at once."""
    write, full = journal.write_whole, list[Path]()

    def filling(path: Path, data: bytes, *how: Any) -> None:
        if full or path.name == moment or moment.encode() in data:
            full.append(path)
            fill(disk)
        write(path, data, *how)

    journal.write_whole = filling  # type: ignore[assignment]


if __name__ == "__main__":
    _, asked_moment, asked_disk, *arguments = sys.argv
    fill_from(asked_moment, Path(asked_disk))
    sys.argv = ["ttt-mlflow", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        with_samples(patch)
        main()
