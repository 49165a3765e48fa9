"""Keeps a killed run KILLED, although ``mlflow run`` marks it FAILED.

``mlflow run`` intends not to change the status of an ended run. But it compares the status's name with numbers (MLflow
3.17.2: ``mlflow.projects._maybe_set_run_terminated`` with ``RunStatus.is_terminated``), so it always writes FAILED at
its end. That happens after this process has ended. A small separate process waits for it and writes KILLED again.
"""

import os
import subprocess
import sys
import time

from ttt_mlflow.tracking.store import QUIET

WAIT_S = 60.0
POLL_S = 0.5


def start(run_id: str, mlflow_pid: int) -> None:
    """Start the process that keeps ``run_id`` killed. The ``mlflow run`` with the pid ``mlflow_pid`` made that run."""
    subprocess.Popen(
        [sys.executable, "-m", __name__, run_id, str(mlflow_pid)],
        env={**QUIET, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def keep_killed(run_id: str, mlflow_pid: int) -> None:
    """Mark the run KILLED once it is marked FAILED. Give up when ``mlflow run`` has ended or after one minute."""
    from mlflow import MlflowClient

    client = MlflowClient()  # uses MLFLOW_TRACKING_URI, which `mlflow run` has set
    deadline = time.monotonic() + WAIT_S
    while True:
        last = not _is_running(mlflow_pid) or time.monotonic() > deadline
        info = client.get_run(run_id).info
        if info.status == "FAILED":
            client.set_terminated(run_id, "KILLED", info.end_time)
            return
        if last:
            return
        time.sleep(POLL_S)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    keep_killed(sys.argv[1], int(sys.argv[2]))
