"""Keeps what `ttt-mlflow doctor --neighbors` found, so that sweeps can say it: a file for each set of GPUs."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ttt_mlflow.measurement.ceilings_cache import cache_folder, cannot_write

KEY_LENGTH = 16
DIFFERS = ("faster", "slower")


@dataclass(frozen=True)
class NeighborChange:
    """How much one configuration changed beside busy neighbors. case: launch-bound, bandwidth-bound or power-bound.

    answer: as :func:`ttt_mlflow.measurement.comparison.answers`. low_pct, high_pct: None where nothing can be told.
    """

    case: str
    answer: str
    change_pct: float
    low_pct: float | None
    high_pct: float | None

    def __str__(self) -> str:
        """For example ``launch-bound runs are 3.1 % slower [2.6, 3.6]``."""
        low, high = self.low_pct, self.high_pct
        ends = sorted((abs(low), abs(high))) if low is not None and high is not None else []
        interval = f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""
        return f"{self.case} runs are {abs(self.change_pct):.1f} % {self.answer}{interval}"


@dataclass(frozen=True)
class KnownNeighbors:
    """measured_at: ISO 8601. gpus: UUIDs without NVML's prefix. slower: the sentences about GPUs that were slower."""

    measured_at: str
    gpus: Sequence[str]
    changes: Sequence[NeighborChange]
    slower: Sequence[str]

    @property
    def that_differ(self) -> list[NeighborChange]:
        return [one for one in self.changes if one.answer in DIFFERS]


def keep_neighbors(gpus: Iterable[str], changes: Sequence[NeighborChange], slower: Sequence[str]) -> str | None:
    """Keep what was found on ``gpus``. Returns None, or the reason for a failure in one line."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    known = KnownNeighbors(now, sorted(gpus), tuple(changes), tuple(slower))
    key = hashlib.sha256(" ".join(known.gpus).encode()).hexdigest()[:KEY_LENGTH]
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(known), file, indent=1)
            os.replace(unfinished, folder / f"{key}.json")
        except OSError:
            os.unlink(unfinished)
            raise
    except OSError as error:
        return f"the answer is not kept for later sweeps: {cannot_write(error)}"
    return None


def known_neighbors(gpus: Iterable[str]) -> KnownNeighbors | None:
    """What was found last on a set of GPUs that has all of ``gpus``; None if nothing readable is kept.

    Beside fewer neighbors, the change is at most as large.
    """
    asked = set(gpus)
    try:
        paths = sorted(_folder().glob("*.json"))
    except OSError:  # another user's home folder, as some containers name it
        return None
    found = [known for path in paths if (known := _read(path)) and asked <= set(known.gpus)]
    return max(found, key=lambda known: known.measured_at, default=None)


def _folder() -> Path:
    return cache_folder() / "neighbors"


def _read(path: Path) -> KnownNeighbors | None:
    try:
        content = json.loads(path.read_text())
        changes = tuple(NeighborChange(**one) for one in content["changes"])
        return KnownNeighbors(content["measured_at"], content["gpus"], changes, tuple(map(str, content["slower"])))
    except (OSError, ValueError, KeyError, TypeError):  # what cannot be read is measured again
        return None
