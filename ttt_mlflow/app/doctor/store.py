"""Checks of the places for records."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ttt_mlflow.app.doctor.finding import Asked, Wrong
from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.run.caches import existing, write_fault

FREE_GB = 1.0  # enough for profiler reports and samples of many runs


def check_folder(folder: Path, purpose: str) -> str:
    """Check that ``folder``, or the folder in which it would be made, is writable and has free space."""
    if reason := write_fault(folder):
        raise Wrong(f"{folder} {reason}", f"free some space or choose another folder; it is for {purpose}", "failed")
    free_gb = shutil.disk_usage(existing(folder)).free / 1e9
    if free_gb < FREE_GB:
        raise Wrong(f"{folder}: {free_gb:.2f} GB free", f"free some space: {FREE_GB:g} GB or more for {purpose}")
    return f"{folder}: {free_gb:,.0f} GB free"


def check_tracking(asked: Asked) -> str:
    from ttt_mlflow.tracking.probe import check_writing
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    uri = resolve_tracking_uri(asked.tracking_uri)
    place = without_secrets(uri)
    if reason := check_writing(uri, asked.experiment_name):
        remedy = "runs stay on disk until `ttt-mlflow sync`; set MLFLOW_TRACKING_URI to a store that can be reached"
        raise Wrong(f"{place}: {reason}", remedy, "failed")
    return (
        f"{place} accepts records; an artifact went there and came back"
        if is_server(uri)
        else f"{place} accepts records"
    )


def is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def asks_server(asked: Asked) -> bool:
    """Whether runs go to a server. An address that is none is told by :func:`check_tracking`."""
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    try:
        return is_server(resolve_tracking_uri(asked.tracking_uri))
    except BadInput:
        return False


def check_server(asked: Asked, check: str, first: "Future[Any] | None" = None) -> str:
    """One of the checks of a server, by name, after the check ``first``, whose fault is told there."""
    from ttt_mlflow.tracking import server_checks
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    checks: dict[str, Callable[[str], str]] = {
        "server": server_checks.check_version,
        "tls": server_checks.check_tls,
        "account": server_checks.check_account,
    }
    after(first)
    uri = resolve_tracking_uri(asked.tracking_uri)
    try:
        found = checks[check](uri)
    except server_checks.Lacking as lacking:
        raise Wrong(_at(uri, lacking.found), lacking.remedy, "failed" if lacking.fatal else "limited") from None
    return _at(uri, found)


def after(first: "Future[Any] | None") -> None:
    """Wait for another check. Raises Wrong if it found that nothing can be recorded: then this one cannot tell more."""
    try:
        if first:
            first.result()
    except Wrong as wrong:
        if wrong.state == "failed":
            raise Wrong("not asked, because the line above failed", state="failed") from None


def _at(uri: str, found: str) -> str:
    return f"{without_secrets(uri)}: {found}"
