"""The only room that imports MLflow."""

import os
from pathlib import Path


def _import_without_a_home() -> None:
    """Import MLflow for a user who has no home folder, as in some containers: its import asks for one and fails.

    MLflow puts environments there, which are not used here. HOME is as before afterwards: no cache may go to the root.
    """
    os.environ["HOME"] = "/"  # what a shell takes then
    try:
        import mlflow  # noqa: F401
    finally:
        del os.environ["HOME"]


try:
    Path.home()
except RuntimeError:
    _import_without_a_home()
