"""The way to NVML: the library, the errors it refuses with, a device by its UUID."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ttt_mlflow.errors import TTTError


class TelemetryUnavailable(TTTError):
    """NVML cannot be used: one line that says what is not recorded, why, and how to get it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(
            f"GPU clocks, power, temperature, utilization, energy and memory in use are not recorded: "
            f"{reason}; {remedy}"
        )


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance with the card that it is a part of.

    uuid: as NVML names it, GPU-… or MIG-…
    parent: the card's handle; None for a GPU, and where NVML does not give it.
    """

    handle: Any
    uuid: str
    parent: Any | None = None

    @property
    def own_name(self) -> str:
        """What the device itself is called in the record."""
        return "instance" if self.uuid.startswith("MIG-") else "card"

    @property
    def handles(self) -> list[tuple[str, Any]]:
        """Whom to ask, the device itself first: an instance refuses much that its card answers."""
        own = [(self.own_name, self.handle)]
        return own if self.parent is None else [*own, ("parent card", self.parent)]


def load_nvml() -> ModuleType:
    """The pynvml module, initialized; the caller shuts it down."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise TelemetryUnavailable("nvidia-ml-py is not installed", "pip install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(
            f"NVML does not start ({error})",
            "it comes with the NVIDIA driver; nvidia-smi shows whether that works",
        ) from None
    return nvml


def refusals(nvml: ModuleType) -> tuple[type[Exception], ...]:
    """What pynvml raises where the card or the driver does not answer."""
    # the second is no NVMLError: an older driver that lacks the newest version of a function
    return (nvml.NVMLError, nvml.NVMLLibraryMismatchError)


def find_device(nvml: ModuleType, uuid: str) -> Device:
    """The device with this UUID, with or without NVML's prefix (PyTorch leaves it out).

    Raises pynvml's NVMLError where NVML does not know it.
    """
    handle, full_uuid = _handle(nvml, uuid)
    return Device(handle, full_uuid, _parent(nvml, handle) if full_uuid.startswith("MIG-") else None)


def _handle(nvml: ModuleType, uuid: str) -> tuple[Any, str]:
    if uuid.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(uuid), uuid
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"), f"GPU-{uuid}"
    except nvml.NVMLError:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}"), f"MIG-{uuid}"
        except nvml.NVMLError:
            pass  # the first error says more
        raise


def _parent(nvml: ModuleType, instance: Any) -> Any | None:
    try:
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    except nvml.NVMLError:
        return None  # what the instance does not answer is then refused, and named by query


def driver_version() -> str | None:
    """The NVIDIA driver's version; None where NVML cannot say."""
    return _system("nvmlSystemGetDriverVersion", text)


def cuda_driver_version() -> str | None:
    """The newest CUDA that the driver supports, as 13.0; None where NVML cannot say."""
    return _system("nvmlSystemGetCudaDriverVersion_v2", lambda version: f"{version // 1000}.{version % 1000 // 10}")


def text(value: str | bytes) -> str:
    """A string of NVML's; older versions of nvidia-ml-py give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _system(function: str, read: Any) -> str | None:
    try:
        nvml = load_nvml()
    except TelemetryUnavailable:
        return None
    try:
        return str(read(getattr(nvml, function)()))
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
