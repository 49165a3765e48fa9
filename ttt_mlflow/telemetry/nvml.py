"""Access to NVML: the library, its errors, and a device by its UUID."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ttt_mlflow.errors import TTTError


class TelemetryUnavailable(TTTError):
    """NVML cannot be used. The message is one line: what is not recorded, why, and what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(
            f"GPU clocks, power, temperature, utilization, energy and memory in use are not recorded: "
            f"{reason}; {remedy}"
        )


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance with its parent GPU.

    uuid: as NVML reports it, GPU-… or MIG-…
    parent: the handle of the parent GPU; None for a GPU, and if NVML does not provide it.
    """

    handle: Any
    uuid: str
    parent: Any | None = None

    @property
    def own_name(self) -> str:
        """The device's name in queries.csv."""
        return "instance" if self.uuid.startswith("MIG-") else "GPU"

    @property
    def handles(self) -> list[tuple[str, Any]]:
        """The handles to query, the device itself first. An instance refuses many queries that its GPU answers."""
        own = [(self.own_name, self.handle)]
        return own if self.parent is None else [*own, ("parent GPU", self.parent)]


def load_nvml() -> ModuleType:
    """The initialized pynvml module. The caller must shut it down."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise TelemetryUnavailable("nvidia-ml-py is not installed", "pip install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise TelemetryUnavailable(
            f"NVML does not start ({error})",
            "NVML is part of the NVIDIA driver; run nvidia-smi to see whether the driver works",
        ) from None
    return nvml


def refusals(nvml: ModuleType) -> tuple[type[Exception], ...]:
    """The exceptions that pynvml raises if the GPU or the driver does not answer."""
    # the second one is not an NVMLError: an older driver lacks the newest version of a function
    return (nvml.NVMLError, nvml.NVMLLibraryMismatchError)


def find_device(nvml: ModuleType, uuid: str) -> Device:
    """The device with this UUID, with or without NVML's prefix (PyTorch omits the prefix).

    Raises pynvml's NVMLError if NVML does not know it, and TelemetryUnavailable for a GPU that is divided by MIG: a
    process uses one of its instances, and readings of the whole GPU have its neighbors in them.
    """
    handle, full_uuid = _handle(nvml, uuid)
    if full_uuid.startswith("GPU-") and _is_divided(nvml, handle):
        raise TelemetryUnavailable(
            f"the GPU {uuid} is divided by MIG, and which of its instances this process uses is not known",
            "set CUDA_VISIBLE_DEVICES to the UUID of one, as nvidia-smi -L lists it",
        )
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
            pass  # the first error is more informative
        raise


def _is_divided(nvml: ModuleType, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except refusals(nvml):
        return False  # a GPU that cannot be divided


def _parent(nvml: ModuleType, instance: Any) -> Any | None:
    try:
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    except nvml.NVMLError:
        return None  # queries that the instance refuses are then reported as refused, by name


def driver_version() -> str | None:
    """The NVIDIA driver's version; None if NVML cannot report it."""
    return _system(lambda nvml: text(nvml.nvmlSystemGetDriverVersion))


def cuda_driver_version() -> str | None:
    """The newest CUDA that the driver supports, such as 13.0; None if NVML cannot report it."""

    def read(nvml: ModuleType) -> str:
        version = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return f"{version // 1000}.{version % 1000 // 10}"

    return _system(read)


def text(function: Callable[..., str | bytes], *arguments: Any) -> str:
    """The string that a function of pynvml returns. Older versions return bytes, newer ones decode them as UTF-8.

    Names of other systems' processes need not be UTF-8. What cannot be read is replaced.
    """
    try:
        value = function(*arguments)
    except UnicodeDecodeError as error:
        value = error.object
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _system(read: Callable[[ModuleType], str]) -> str | None:
    try:
        nvml = load_nvml()
    except TelemetryUnavailable:
        return None
    try:
        return read(nvml)
    except refusals(nvml):
        return None
    finally:
        nvml.nvmlShutdown()
