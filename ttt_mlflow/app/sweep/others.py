"""Other processes that measure the same sweep, as far as its store tells: into another folder, or on another host."""

import os
from contextlib import suppress

from ttt_mlflow.app.output import print_error
from ttt_mlflow.app.sweep.publication import SweepPublishing
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.sweeps import SweepRuns


def look_for_others(stored: SweepRuns | None) -> None:
    """Before anything is measured. stored: the sweep as the store has it.

    Raises BadInput if another process of this host measures it. Of one that cannot be seen from here nobody can tell
    whether it was killed, after which the sweep is to go on without a question; so it is only told.
    """
    other = stored.at_work if stored else None
    if stored is None or other is None or (other.is_certain and other.pid == os.getpid()):
        return
    if other.is_certain:
        raise BadInput(
            f"{other} is measuring this sweep, into another folder (MLflow run {stored.run_id}); wait for its end or "
            "stop it, and the same command goes on"
        )
    until = f", until {other.until[:16].replace('T', ' ')} UTC at the latest" if other.until else ""
    print_error(
        f"Warning: {other} began this sweep and may be measuring it{until}; it cannot be seen from here. If it was not "
        "killed, both measure the same runs: stop one of the two"
    )


def look_for_a_twin(publishing: SweepPublishing, parent: Journal, sweep_id: str) -> None:
    """Tell of a process that began the sweep when this one did. Of two parents, the first is the sweep's."""
    if not parent.target.get("run_id"):
        return
    with suppress(PublishFailed, BadInput):  # the next publication tells
        first = publishing.find(sweep_id)
        if first and first.at_work and first.run_id != parent.target["run_id"]:
            print_error(
                f"Warning: {first.at_work} began this sweep at the same moment (MLflow run {first.run_id}), and both "
                "measure the same runs; stop one of the two"
            )
