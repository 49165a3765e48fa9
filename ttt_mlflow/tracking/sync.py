"""Publish the journals that are not in MLflow yet: the server was away, or the process was killed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.record.journal import Journal, find_journals
from ttt_mlflow.tracking.publish import PublishedRun, publish
from ttt_mlflow.tracking.store import check_tracking, resolve_tracking_uri, without_password


@dataclass(frozen=True)
class SyncResult:
    """What ``sync`` did with one journal; ``message`` says why it failed."""

    journal: Journal
    outcome: Literal["published", "already published", "still running", "failed"]
    run: PublishedRun | None = None
    message: str | None = None


def sync(path: Path | str, tracking_uri: str | None = None) -> list[SyncResult]:
    """Publish the journal at ``path``, or those under it, oldest first; abandoned ones as killed.

    Each goes to ``tracking_uri``, or MLFLOW_TRACKING_URI, or where it was meant to go, or MLflow's default. A
    journal that is published somewhere is published again only to another ``tracking_uri`` that is asked for.

    Raises :class:`BadInput` where ``path`` is not a folder.
    """
    unreachable: dict[str, str | None] = {}  # asked once each, not once a journal
    return [_sync_one(journal, tracking_uri, unreachable) for journal in find_journals(path)]


def _sync_one(journal: Journal, asked_uri: str | None, unreachable: dict[str, str | None]) -> SyncResult:
    try:
        meant = None if os.environ.get("MLFLOW_TRACKING_URI") else journal.target.get("tracking_uri")
        uri = resolve_tracking_uri(asked_uri or meant)
        published = journal.published
        if published and (asked_uri is None or published["tracking_uri"] == without_password(uri)):
            return SyncResult(journal, "already published")
        if journal.status["status"] == "running" and not journal.abandoned:
            return SyncResult(journal, "still running")
        if uri not in unreachable:
            unreachable[uri] = check_tracking(uri)
        if unreachable[uri]:
            return SyncResult(journal, "failed", message=f"{without_password(uri)}: {unreachable[uri]}")
        return SyncResult(journal, "published", publish(journal, uri))
    except (PublishFailed, BadInput) as error:
        return SyncResult(journal, "failed", message=str(error))
