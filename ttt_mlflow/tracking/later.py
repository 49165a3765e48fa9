"""The command that publishes a record later. It names the store: ``sync`` takes none that only the record names."""

import shlex
from pathlib import Path

from ttt_mlflow.redaction import without_secrets


def sync_command(path: Path | str, tracking_uri: str) -> str:
    """``ttt-mlflow sync PATH --tracking-uri URI``, ready for a shell. The URI has no secrets."""
    return shlex.join(["ttt-mlflow", "sync", str(path), "--tracking-uri", without_secrets(tracking_uri)])
