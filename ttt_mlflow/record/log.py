"""The log of a run, with times, warnings and tracebacks: the artifact ``log.txt``."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ttt_mlflow.names import ARTIFACT_LOG
from ttt_mlflow.record.journal import Journal

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def run_log(journal: Journal) -> Iterator[None]:
    """Write this package's log and all Python warnings to the journal until the block ends."""
    handler = logging.FileHandler(journal.artifact_path(ARTIFACT_LOG), encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    ours, root = logging.getLogger("ttt_mlflow"), logging.getLogger()
    level_before = ours.level
    ours.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
        ours.setLevel(level_before)
