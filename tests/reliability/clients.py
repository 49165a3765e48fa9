"""Processes of the command line that begin in a moment and can be killed at any.

A real start costs seconds of imports, in which nothing exists that could be lost. So the processes are forked from one
that has imported everything and has no thread of Python; what they do begins where ``ttt-mlflow`` begins.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOADED = [
    "uvicorn",  # before MLflow's server, which looks whether it runs in it
    "mlflow.server.fastapi_app",
    "mlflow.cli",
    "mlflow",
    "mlflow.tracking",
    "mlflow.store.artifact.mlflow_artifacts_repo",
    "sqlalchemy",
    "torch",
    "rich.console",
    "ttt_mlflow.cli",
    "ttt_mlflow.app.job",
    "ttt_mlflow.app.measure",
    "ttt_mlflow.app.records",
    "ttt_mlflow.tracking.sync",
    "tests.reliability.clients",
]


def start(arguments: list[str], folder: Path, env: Mapping[str, str], output: Path) -> ForkServerProcess:
    """``ttt-mlflow ARGUMENTS`` in ``folder``, with the environment ``env``. ``output`` gets all that it says."""
    return fork(_command, arguments, folder, env, output)


def fork(
    do: Callable[[list[str]], None], arguments: list[str], folder: Path, env: Mapping[str, str], output: Path
) -> ForkServerProcess:
    """``do(arguments)`` as a process with a session of its own."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(PRELOADED)
    process = forking.Process(target=_begin, args=(do, arguments, str(folder), dict(env), str(output)))
    process.start()
    return process


def _begin(
    do: Callable[[list[str]], None], arguments: list[str], folder: str, env: dict[str, str], output: str
) -> None:
    os.setsid()
    said = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    do(arguments)


def _command(arguments: list[str]) -> None:
    from ttt_mlflow.cli import cli

    sys.argv = ["ttt-mlflow", *arguments]
    cli(arguments, prog_name="ttt-mlflow")
