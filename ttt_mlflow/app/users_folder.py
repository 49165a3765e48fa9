"""The folder that relative paths mean: the one in which the user started ``mlflow run``.

``mlflow run`` starts the command in the project's folder. For a git address that is a temporary copy, in which nobody
would look for records and a store.
"""

import os
import sys
from pathlib import Path

from ttt_mlflow.app.output import print_error
from ttt_mlflow.app.signals import ParentRun

PROJECT = Path(__file__).resolve().parents[2]


def enter_users_folder() -> None:
    """Make the folder of the user the current one, if ``mlflow run`` has started this process in the project's."""
    parent = ParentRun.of_this_process()
    if parent is None or not parent.candidate.possible or not _in_the_project():
        return
    import psutil

    try:
        folder = psutil.Process(parent.pid).cwd()
        if Path(folder) == PROJECT:
            return
        os.chdir(folder)
    except (psutil.Error, OSError) as error:
        print_error(
            f"Warning: the folder in which `mlflow run` was started cannot be used ({error}); relative paths, the "
            f"records and the default store are in {PROJECT}"
        )
        return
    # processes that this one starts import this package too, as this one did from the current folder
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    print_error(f"Note: the project runs from {PROJECT}; relative paths are those of {folder}, also for the records")


def _in_the_project() -> bool:
    """Whether this is ``python -m ttt_mlflow`` in the folder of the project, as MLproject has it."""
    own = Path(sys.argv[0]).resolve() == PROJECT / "ttt_mlflow/__main__.py"
    return own and Path.cwd() == PROJECT and (PROJECT / "MLproject").is_file()
