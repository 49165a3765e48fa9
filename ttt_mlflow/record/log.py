"""The log of a run, with times, warnings and tracebacks: the artifact ``log.txt``."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ttt_mlflow.names import ARTIFACT_LOG
from ttt_mlflow.record.journal import Journal

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def run_log(journal: Journal) -> Iterator[None]:
    """Write this package's log and all Python warnings to the journal until its final status, or the block's end.

    The log is complete before the final status, so that its checksum is that of the whole file.
    """
    handler = logging.FileHandler(journal.artifact_path(ARTIFACT_LOG), encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
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
        yield
