"""``ttt-mlflow`` in a process whose disk is full from the moment on at which it writes a certain file or value.

As a program: python -m tests.filling MOMENT DISK run --batch=2 …, MOMENT being the name of a file or a text in one.
With ``MOMENT,held`` somebody takes what the record gives back after its end, before a store on that disk can use it.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.recordings import with_samples
from tests.small_disk import fill
from ttt_mlflow.app.publishing import Publishing
from ttt_mlflow.cli import main
from ttt_mlflow.record import journal
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import PublishedRun

HOLD_S = 0.005


def hold_full(disk: Path) -> None:
    while True:
        fill(disk)
        time.sleep(HOLD_S)


def fill_from(moment: str, disk: Path, held: bool) -> None:
    """From that moment on, whatever becomes free is taken at the next write; and, if held, always while publishing."""
    write, full = journal.write_whole, list[Path]()

    def filling(path: Path, data: bytes, *how: Any) -> None:
        if full or path.name == moment or moment.encode() in data:
            full.append(path)
            fill(disk)
        write(path, data, *how)

    journal.write_whole = filling  # type: ignore[assignment]
    publish = Publishing.publish

    def publish_held(self: Publishing, record: Journal) -> "PublishedRun":
        fill(disk)
        threading.Thread(target=hold_full, args=(disk,), daemon=True).start()
        return publish(self, record)

    if held:
        Publishing.publish = publish_held  # type: ignore[method-assign]


if __name__ == "__main__":
    _, asked_moment, asked_disk, *arguments = sys.argv
    moment, _, how = asked_moment.partition(",")
    fill_from(moment, Path(asked_disk), how == "held")
    sys.argv = ["ttt-mlflow", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        with_samples(patch)
        main()
