"""The comparison of ``ab`` as a run of its own: its record, and publishing it with its children."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.app.ab.answer import Answer
from ttt_mlflow.app.ab.sides import Side
from ttt_mlflow.record.journal import Journal

if TYPE_CHECKING:
    from ttt_mlflow.tracking.publish import PublishedRun

KIND = "compare"


def start_parent(logdir: Path, sides: Sequence[Side]) -> Journal:
    """Start the record of the comparison. It is older than its runs, so that ``sync`` publishes it before them.

    Raises BadInput if ``logdir`` is not writable.
    """
    asked = {side.name: side.source.asked for side in sides}
    asked |= {f"{side.name}_options": " ".join(side.words) for side in sides}
    baseline, candidate = sides
    name = f"ab {baseline.source.asked} {candidate.source.asked}"
    record = Journal.create(logdir, asked, KIND, name)
    record.update_params(asked)
    record.update_tags({names.TAG_KIND: KIND, names.TAG_JOURNAL_ID: record.journal_id})
    return record


def end_parent(record: Journal, header: Sequence[str], answer: Answer | None, stopped: str | None) -> None:
    """Write the answer to the record and end it. answer: None if too little was measured. stopped: the signal."""
    if answer:
        record.update_tags({names.TAG_COMPARISON: answer.word})
        record.write_artifact(names.ARTIFACT_COMPARISON, answer.json)
        record.write_artifact(names.ARTIFACT_COMPARISON_PAGE, answer.html)
    paragraphs = [*header, answer.markdown if answer else "Too little was measured for a comparison."]
    if stopped:
        paragraphs.append(f"Stopped by {stopped}: this is what was measured until then.")
    record.set_description("\n\n".join(paragraphs))
    record.set_status("killed" if stopped else "ok", f"stopped by {stopped}" if stopped else None)


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


def publish_all(
    parent: Journal, runs: Mapping[str, Sequence[Journal]], tracking_uri: str, experiment_name: str | None
) -> "PublishedRun":
    """Publish the comparison and its runs, the parent first. Returns where the parent is.

    Raises PublishFailed; ``sync`` of the folder of the records then publishes the rest.
    """
    from ttt_mlflow.tracking.publish import publish

    children = [run for side in runs.values() for run in side]
    published = publish(parent, tracking_uri, experiment_name=experiment_name)
    for record in sorted(children, key=lambda run: str(run.status["started_at"])):
        publish(record, tracking_uri, experiment_name=experiment_name)
    return published
