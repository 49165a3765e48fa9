"""A sweep that another process measures, into another folder or on another host, with the same store."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.app.sweep.conftest import Stored, Sweep
from ttt_mlflow.app.sweep.publication import SweepPublishing
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.process import start_ticks, this_process
from ttt_mlflow.tracking.sweeps import SweepRuns


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this host."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def stored(store: str, sweep: Sweep) -> Stored:
    """A sweep of one run, whose records are elsewhere."""
    assert sweep("--batch=1", "--logdir=elsewhere").exit_code == 0
    return Stored(store)


def goes_on(stored: Stored, alive: timedelta = timedelta(hours=9), **process: Any) -> str:
    """Let the parent be RUNNING, by ``process``; and its run be missing. Returns the parent's id."""
    run_id = str(stored.parent.info.run_id)
    (child,) = stored.children
    stored.client.delete_run(child.info.run_id)
    stored.client.update_run(run_id, status="RUNNING")
    stored.client.set_tag(run_id, "ttt.process", json.dumps({**this_process(), **process}))
    until = (datetime.now(UTC) + alive).isoformat(timespec="seconds")
    stored.client.set_tag(run_id, "ttt.alive_until", until)
    return run_id


ELSEWHERE: dict[str, Any] = {"host": "node-7", "boot_id": "another", "pid": 77}


def test_one_on_this_host_is_named_and_nothing_is_measured(
    stored: Stored, sweep: Sweep, living: "subprocess.Popen[bytes]"
) -> None:
    ticks = start_ticks(living.pid)
    run_id = goes_on(stored, pid=living.pid, start_ticks=ticks)
    refused = sweep("--batch=1")
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"Error: process {living.pid} on ")
    assert f"is measuring this sweep, into another folder (MLflow run {run_id}); wait for its end or stop it" in line
    assert find_journals("ttt_runs").journals == []
    assert stored.parent.info.status == "RUNNING"
    living.kill()
    living.wait()
    resumed = sweep("--batch=1")
    assert resumed.exit_code == 0, resumed.output
    assert "Resuming the sweep" in resumed.stderr
    assert "Warning" not in resumed.stderr
    assert (len(stored.children), stored.parent.info.status) == (1, "FINISHED")


@pytest.mark.parametrize("away", [ELSEWHERE, {"pid_namespace": "pid:[1]", "pid": 77}], ids=["host", "container"])
def test_one_that_cannot_be_seen_is_named_and_the_sweep_goes_on(
    stored: Stored, sweep: Sweep, away: dict[str, Any]
) -> None:
    """It may have been killed: then nobody would end its run."""
    goes_on(stored, **away)
    done = sweep("--batch=1")
    assert done.exit_code == 0, done.output
    warning = next(line for line in done.stderr.splitlines() if line.startswith("Warning: "))
    assert warning.startswith(f"Warning: process 77 on {away.get('host', this_process()['host'])} began this sweep")
    assert "UTC at the latest; it cannot be seen from here" in warning
    assert warning.endswith("stop one of the two")
    assert done.stderr.index(warning) < done.stderr.index("Resuming the sweep")
    assert (len(stored.children), stored.parent.info.status) == (1, "FINISHED")


@pytest.mark.parametrize(
    ("alive", "process"),
    [
        (timedelta(hours=-2), ELSEWHERE),  # over its time
        (timedelta(hours=9), {**ELSEWHERE, "publishes": True}),  # sync
        (timedelta(hours=9), {"start_ticks": 1}),  # gone
        (timedelta(hours=9), {}),  # this one
    ],
)
def test_what_measures_no_more_is_not_told(
    stored: Stored, sweep: Sweep, alive: timedelta, process: dict[str, Any]
) -> None:
    goes_on(stored, alive, **process)
    done = sweep("--batch=1")
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.stderr


def test_two_that_begin_at_the_same_moment(stored: Stored, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ask before either has begun: the one whose parent is not the first tells it."""
    run_id = goes_on(stored, **ELSEWHERE)
    find, answers = SweepPublishing.find, [None]

    def too_early(self: SweepPublishing, sweep_id: str) -> SweepRuns | None:
        return answers.pop() if answers else find(self, sweep_id)

    monkeypatch.setattr(SweepPublishing, "find", too_early)
    done = sweep("--batch=1")
    assert done.exit_code == 0, done.output
    said = f"Warning: process 77 on node-7 began this sweep at the same moment (MLflow run {run_id}), and both measure"
    assert said in done.stderr
    assert len(stored.parents) == 2
