"""Publishes the journals that are not in MLflow yet, after a server was unreachable or a process was killed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttt_mlflow.errors import BadInput, DamagedRecord, PublishFailed
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.publish import PublishedRun, publish
from ttt_mlflow.tracking.store import check_tracking, resolve_tracking_uri


@dataclass(frozen=True)
class SyncResult:
    """The outcome of ``sync`` for one journal. ``message``: why it failed."""

    journal: Journal
    outcome: Literal["published", "already published", "still running", "failed"]
    run: PublishedRun | None = None
    message: str | None = None


def sync(path: Path | str, tracking_uri: str | None = None) -> list[SyncResult]:
    """Publish the journal at ``path``, or the journals in it, the oldest first. Abandoned ones are published as killed.

    The destination is ``tracking_uri``, else MLFLOW_TRACKING_URI, else the target of the journal, else MLflow's
    default. A journal that was published is published again only to an explicit, different ``tracking_uri``.

    Raises :class:`BadInput` if ``path`` is not a folder.
    """
    unreachable: dict[str, str | None] = {}  # each store is checked once, not once for each journal
    found = find_journals(path)
    aside = [SyncResult(Journal(one.path), "failed", message=str(one)) for one in found.damaged]
    return [_sync_one(journal, tracking_uri, unreachable) for journal in found.journals] + aside


def _sync_one(journal: Journal, asked_uri: str | None, unreachable: dict[str, str | None]) -> SyncResult:
    try:
        meant = None if os.environ.get("MLFLOW_TRACKING_URI") else journal.target.get("tracking_uri")
        uri = resolve_tracking_uri(asked_uri or meant)
        published = journal.published
        if published and (asked_uri is None or published["tracking_uri"] == without_secrets(uri)):
            return SyncResult(journal, "already published")
        if journal.status["status"] == "running" and not journal.abandoned:
            return SyncResult(journal, "still running")
        if uri not in unreachable:
            unreachable[uri] = check_tracking(uri)
        if unreachable[uri]:
            return SyncResult(journal, "failed", message=f"{without_secrets(uri)}: {unreachable[uri]}")
        journal.check()
        return SyncResult(journal, "published", publish(journal, uri))
    except (PublishFailed, BadInput, DamagedRecord) as error:
        return SyncResult(journal, "failed", message=str(error))
