"""Keeps a killed run KILLED, although ``mlflow run`` marks it FAILED.

``mlflow run`` intends not to change the status of an ended run. But it compares the status's name with numbers (MLflow
3.17.2: ``mlflow.projects._maybe_set_run_terminated`` with ``RunStatus.is_terminated``), so it always writes FAILED at
its end. That happens after this process has ended. A small separate process waits for it and writes KILLED again.
"""

import os
import subprocess
import sys
import time

import psutil

from ttt_mlflow.tracking.store import PATIENCE, QUIET

WAIT_S = 60.0  # from the end of the process that measured
POLL_S = 0.5


def start(run_id: str, mlflow_pid: int) -> None:
    """Start the process that keeps ``run_id`` killed. The ``mlflow run`` with the pid ``mlflow_pid`` made that run."""
    subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, run_id, str(mlflow_pid), str(os.getpid())],
        env={**QUIET, **PATIENCE, **os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def keep_killed(run_id: str, mlflow_pid: int, own_pid: int) -> None:
    """Mark the run KILLED once it is marked FAILED. Give up when ``mlflow run`` has ended or after one minute.

    own_pid: the process that measured. It may publish for minutes, and ``mlflow run`` waits for it.
    """
    own, mlflow = _process(own_pid), _process(mlflow_pid)
    while _is_running(own):
        time.sleep(POLL_S)
    from mlflow import MlflowClient  # now, because until then another process of the run has work to do

    client = MlflowClient()  # uses MLFLOW_TRACKING_URI, which `mlflow run` has set
    deadline = time.monotonic() + WAIT_S
    while True:
        last = not _is_running(mlflow) or time.monotonic() > deadline
        info = client.get_run(run_id).info
        if info.status == "FAILED":
            client.set_terminated(run_id, "KILLED", info.end_time)
            return
        if last:
            return
        time.sleep(POLL_S)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _is_running(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    keep_killed(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
