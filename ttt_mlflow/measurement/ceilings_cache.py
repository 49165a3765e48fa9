"""A card's ceilings, kept from one run to the next: one JSON file a card and driver in the user's cache folder.

A file of its own for each, written whole: hosts that share a home folder cannot undo each other's.
"""

import json
import math
import os
import re
import tempfile
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch

from ttt_mlflow.errors import TTTError
from ttt_mlflow.measurement import ceilings_cache
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.telemetry.host import device_uuid
from ttt_mlflow.telemetry.nvml import driver_version


class CeilingsUnknown(TTTError):
    """No ceilings are kept for this card: one line that says why and what to do."""


@dataclass(frozen=True)
class GpuIdentity:
    """What ceilings belong to. A MIG instance may report its card's UUID, but it has fewer multiprocessors."""

    uuid: str  # as PyTorch gives it
    driver: str
    multiprocessors: int
    name: str

    @property
    def path(self) -> Path:
        """Where its ceilings are kept, whether or not they are."""
        key = f"{self.uuid}-{self.driver}-{self.multiprocessors}"
        return cache_folder() / "ceilings" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', key)}.json"


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ttt_mlflow, or ~/.cache/ttt_mlflow; the XDG rules have a relative path ignored."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path("~/.cache").expanduser()
    return base / "ttt_mlflow"


def load(card: GpuIdentity) -> GpuCeilings:
    """The ceilings kept for ``card``; raise :class:`CeilingsUnknown` where there are none that can be read."""
    remedy = "`ttt-mlflow doctor --measure` measures them"
    try:
        values = json.loads(card.path.read_text())["ceilings"]
        ceilings = GpuCeilings(**{field.name: float(values[field.name]) for field in fields(GpuCeilings)})
    except FileNotFoundError:
        raise CeilingsUnknown(f"the ceilings of this {card.name} are not known; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise CeilingsUnknown(f"{card.path} cannot be read ({said}) and is ignored; {remedy} again") from None
    if not all(math.isfinite(value) and value > 0 for value in asdict(ceilings).values()):
        raise CeilingsUnknown(f"{card.path} has impossible numbers and is ignored; {remedy} again")
    return ceilings


def store(card: GpuIdentity, ceilings: GpuCeilings) -> Path:
    """Keep ``ceilings`` for ``card`` and return where; raise OSError where that cannot be written."""
    path = card.path
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"card": asdict(card), "measured_at": now, "ceilings": asdict(ceilings)}, indent=1)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError:
        os.unlink(unfinished)
        raise
    return path


def identify(device: torch.device) -> GpuIdentity:
    """The card that ``device``, a GPU, is; raise :class:`CeilingsUnknown` where NVML does not name the driver."""
    driver = driver_version()
    if driver is None:
        raise CeilingsUnknown("ceilings are kept by card and driver, and NVML does not tell the driver's version")
    properties = torch.cuda.get_device_properties(device)
    return GpuIdentity(device_uuid(device), driver, properties.multi_processor_count, properties.name)


def known_ceilings(device: torch.device) -> GpuCeilings:
    """The ceilings of ``device`` from an earlier measurement; raise :class:`CeilingsUnknown`."""
    return ceilings_cache.load(identify(device))


def keep_ceilings(device: torch.device, ceilings: GpuCeilings) -> str | None:
    """Keep what was measured for later runs; None, or why it could not be kept, in one line."""
    try:
        ceilings_cache.store(identify(device), ceilings)
    except CeilingsUnknown as unknown:
        return f"the ceilings are not kept for later runs: {unknown}"
    except OSError as error:
        return f"the ceilings are not kept for later runs: {error}"
    return None
