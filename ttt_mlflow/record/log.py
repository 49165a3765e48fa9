"""The log of a run, with times, warnings and tracebacks: the artifact ``log.txt``."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from ttt_mlflow.names import ARTIFACT_LOG
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunLog(logging.Handler):
    """Appends whole lines to a file. A line that the disk does not take is left out and counted.

    problem: why the last lines were left out; None if the log is complete.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))
        self.problem: str | None = None
        self._path = path
        self._file: FileIO | None = None
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = without_secrets(self.format(record))
        except Exception:  # a message that does not fit its arguments, which logging reports in its own way
            self.handleError(record)
            return
        gap = f"({self._left_out} lines are left out here: {self.problem})\n" if self._left_out else ""
        try:
            self._append(f"{gap}{text}\n".encode(errors="backslashreplace"))
            self._left_out = 0
        except OSError as error:
            self._left_out += 1
            self.problem = error.strerror or type(error).__name__

    def close(self) -> None:
        super().close()
        if self._file:
            self._file.close()

    def _append(self, lines: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        end, written = os.fstat(self._file.fileno()).st_size, 0
        try:
            while written < len(lines):
                written += self._file.write(lines[written:])
        except OSError:
            os.ftruncate(self._file.fileno(), end)  # no half lines
            raise


@contextmanager
def run_log(journal: Journal) -> Iterator[RunLog]:
    """Write this package's log and all Python warnings to the journal until its final status, or the block's end.

    The log is complete before the final status, so that its checksum is that of the whole file.
    """
    handler = RunLog(journal.artifact_path(ARTIFACT_LOG))
    ours, root = logging.getLogger("ttt_mlflow"), logging.getLogger()
    level_before = ours.level
    ours.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    with ExitStack() as opened:  # which closes once, whoever is first
        opened.callback(ours.setLevel, level_before)
        opened.callback(handler.close)
        opened.callback(root.removeHandler, handler)
        opened.callback(logging.captureWarnings, False)
        journal.before_end(opened.close)
        yield handler
