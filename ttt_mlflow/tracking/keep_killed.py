"""Keeps a killed run KILLED although ``mlflow run`` marks it FAILED.

``mlflow run`` means to leave the status of an ended run alone, but looks its text up among numbers (MLflow 3.17.2:
``mlflow.projects._maybe_set_run_terminated`` with ``RunStatus.is_terminated``), so its last act is to write FAILED over
KILLED. That happens after our process has ended: a small process of its own waits for it and writes KILLED again.
"""

import os
import subprocess
import sys
import time

from ttt_mlflow.tracking.store import QUIET

WAIT_S = 60.0
POLL_S = 0.5


def start(run_id: str, mlflow_pid: int) -> None:
    """Leave a process behind that sees to the run ``run_id``, which the ``mlflow run`` of ``mlflow_pid`` has made."""
    subprocess.Popen(
        [sys.executable, "-m", __name__, run_id, str(mlflow_pid)],
        env={**QUIET, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def keep_killed(run_id: str, mlflow_pid: int) -> None:
    """Once the run is marked FAILED, mark it KILLED; give up when ``mlflow run`` is gone or a minute has passed."""
    from mlflow import MlflowClient

    client = MlflowClient()  # of MLFLOW_TRACKING_URI, which `mlflow run` has set
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
