"""The comparison of ``ab`` as a run of its own: its record, and publishing it with its children."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.app.ab.sides import Side
from ttt_mlflow.app.compare import record_comparison
from ttt_mlflow.app.publishing import Publishing
from ttt_mlflow.config import CompareConfig
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.comparison_text import Report

if TYPE_CHECKING:
    from ttt_mlflow.tracking.publish import PublishedRun

TOO_LITTLE = "Too little was measured for a comparison: a side has no complete run."


def start_parent(logdir: Path, config: CompareConfig) -> Journal:
    """Start the record of the comparison. It is older than its runs, so that ``sync`` publishes it before them.

    Raises BadInput if ``logdir`` is not writable.
    """
    return Journal.create(logdir, config.model_dump(mode="json"), config.entry_point)


def end_parent(record: Journal, report: Report | None, stopped: str | None) -> None:
    """Write the comparison to the record and end it. report: None if too little was measured. stopped: the signal."""
    if report:
        record_comparison(record, report)
    else:
        record.update_tags({names.TAG_KIND: CompareConfig.entry_point, names.TAG_JOURNAL_ID: record.journal_id})
        record.set_description(TOO_LITTLE)
    if stopped:
        message = f"stopped by {stopped}"
        record.set_description(f"{record.description}\n\nStopped by {stopped}: this is what was measured until then.")
        record.update_tags({names.TAG_STATUS: "killed", names.TAG_MESSAGE: message})
        record.set_status("killed", message)


def mark_children(parent: Journal, sides: Sequence[Side], runs: Mapping[str, Sequence[Journal]]) -> None:
    """Write into each run's record to which comparison it belongs, and as which side."""
    for side in sides:
        for run in runs[side.name]:
            run.update_tags(
                {
                    names.TAG_SIDE: side.name,
                    names.TAG_GIT_REF: side.source.asked,
                    names.TAG_PARENT_JOURNAL_ID: parent.journal_id,
                }
            )


def publish_all(parent: Journal, runs: Mapping[str, Sequence[Journal]], publishing: Publishing) -> "PublishedRun":
    """Publish the comparison and its runs, the parent first. Returns where the parent is.

    Raises PublishFailed; ``sync`` of the folder of the records then publishes the rest.
    """
    children = [run for side in runs.values() for run in side]
    published = publishing.publish(parent)
    for record in sorted(children, key=lambda run: str(run.status["started_at"])):
        publishing.publish(record)
    return published
