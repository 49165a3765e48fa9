"""What CUDA's driver knows of this process: the UUIDs of its devices, and whether it has a context on one."""

import ctypes
from typing import Any
from uuid import UUID

CUDA_SUCCESS, CUDA_ERROR_NOT_INITIALIZED = 0, 3


def holds_context(uuid: str) -> bool | None:
    """Whether the device's primary context (PyTorch's) exists in this process; None if CUDA cannot be queried.

    ``uuid`` has NVML's or PyTorch's spelling. The query creates no context and does not initialize CUDA.
    """
    try:
        return _primary_context(ctypes.CDLL("libcuda.so.1"), uuid.removeprefix("GPU-").removeprefix("MIG-"))
    except (OSError, AttributeError):  # no driver, or a driver without these functions
        return None


def cuda_uuid(ordinal: int) -> str | None:
    """The UUID of the device that CUDA counts as ``ordinal``, without NVML's prefix; None if CUDA cannot be asked.

    On a GPU that is divided by MIG it is that of the instance. PyTorch may report its GPU's.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        device = ctypes.c_int()
        return None if cuda.cuDeviceGet(ctypes.byref(device), ordinal) else _uuid(cuda, device)
    except (OSError, AttributeError):
        return None


def _uuid(cuda: Any, device: ctypes.c_int) -> str | None:
    raw = (ctypes.c_ubyte * 16)()
    return None if cuda.cuDeviceGetUuid_v2(ctypes.byref(raw), device) else str(UUID(bytes=bytes(raw)))


def _primary_context(cuda: Any, uuid: str) -> bool | None:
    count = ctypes.c_int()
    status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status == CUDA_ERROR_NOT_INITIALIZED:
        return False
    for ordinal in range(count.value if status == CUDA_SUCCESS else 0):
        device = ctypes.c_int()
        if cuda.cuDeviceGet(ctypes.byref(device), ordinal):
            continue
        if _uuid(cuda, device) == uuid:
            flags, active = ctypes.c_uint(), ctypes.c_int()
            failed = cuda.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active))
            return None if failed else bool(active.value)
    return None
