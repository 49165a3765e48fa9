"""Keeps the ceilings of GPUs between runs: one JSON file for each GPU and driver in the user's cache folder.

Each GPU has its own file, which is written as a whole. Hosts that share a home folder therefore cannot overwrite each
other's ceilings.
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
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable, driver_version


class CeilingsUnknown(TTTError):
    """No ceilings are kept for this GPU. The message is one line with the reason and what to do."""


@dataclass(frozen=True)
class GpuIdentity:
    """The key of kept ceilings. Where a MIG instance has its GPU's UUID, it has fewer multiprocessors."""

    uuid: str  # without NVML's prefix
    driver: str
    multiprocessors: int
    name: str

    @property
    def path(self) -> Path:
        """The file for its ceilings, which need not exist."""
        key = f"{self.uuid}-{self.driver}-{self.multiprocessors}"
        return cache_folder() / "ceilings" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', key)}.json"


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ttt_mlflow, or ~/.cache/ttt_mlflow. The XDG rules require ignoring a relative path.

    A user without a home folder, as some containers have, keeps it with the temporary files. Raises OSError if there is
    no folder for those either.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = named if os.path.isabs(named) else os.path.expanduser("~/.cache")
    return Path(base if os.path.isabs(base) else tempfile.gettempdir()) / "ttt_mlflow"


def cannot_write(error: OSError) -> str:
    """Why nothing can be kept in the cache folder, and which variable names another one, in one line."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; set XDG_CACHE_HOME to a folder that can be written to"


def load(gpu: GpuIdentity) -> GpuCeilings:
    """The ceilings kept for ``gpu``. Raises :class:`CeilingsUnknown` if there are no readable ones."""
    remedy = "`ttt-mlflow doctor --measure` measures them"
    try:
        values = json.loads(gpu.path.read_text())["ceilings"]
        ceilings = GpuCeilings(**{field.name: float(values[field.name]) for field in fields(GpuCeilings)})
    except FileNotFoundError:
        raise CeilingsUnknown(f"the ceilings of this {gpu.name} are not known; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise CeilingsUnknown(f"{gpu.path} cannot be read ({said}) and is ignored; {remedy} again") from None
    if not all(math.isfinite(value) and value > 0 for value in asdict(ceilings).values()):
        raise CeilingsUnknown(f"{gpu.path} has impossible numbers and is ignored; {remedy} again")
    return ceilings


def store(gpu: GpuIdentity, ceilings: GpuCeilings) -> Path:
    """Keep ``ceilings`` for ``gpu`` and return the file. Raises OSError if it is not writable."""
    path = gpu.path
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"card": asdict(gpu), "measured_at": now, "ceilings": asdict(ceilings)}, indent=1)
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
    """The identity of ``device``, a GPU. Raises :class:`CeilingsUnknown` if NVML does not report the driver."""
    driver = driver_version()
    if driver is None:
        raise CeilingsUnknown(
            "ceilings are kept by GPU and driver, but NVML does not report the driver's version; check nvidia-smi"
        )
    properties = torch.cuda.get_device_properties(device)
    try:
        uuid = device_uuid(device)
    except TelemetryUnavailable:
        raise CeilingsUnknown("ceilings are kept by GPU, but PyTorch does not report the GPU's UUID") from None
    return GpuIdentity(uuid, driver, properties.multi_processor_count, properties.name)


def known_ceilings(device: torch.device) -> GpuCeilings:
    """The ceilings of ``device`` from an earlier measurement. Raises :class:`CeilingsUnknown` if there are none."""
    return ceilings_cache.load(identify(device))


def keep_ceilings(device: torch.device, ceilings: GpuCeilings) -> str | None:
    """Keep ``ceilings`` for later runs. Returns None, or the reason for a failure in one line."""
    try:
        ceilings_cache.store(identify(device), ceilings)
    except CeilingsUnknown as unknown:
        return f"the ceilings are not kept for later runs: {unknown}"
    except OSError as error:
        return f"the ceilings are not kept for later runs: {cannot_write(error)}"
    return None
