"""Whether this process has a CUDA context on a GPU. Without a context, NVML cannot list the process."""

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


def _primary_context(cuda: Any, uuid: str) -> bool | None:
    count = ctypes.c_int()
    status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status == CUDA_ERROR_NOT_INITIALIZED:
        return False
    for ordinal in range(count.value if status == CUDA_SUCCESS else 0):
        device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
        if cuda.cuDeviceGet(ctypes.byref(device), ordinal) or cuda.cuDeviceGetUuid_v2(ctypes.byref(raw), device):
            continue
        if str(UUID(bytes=bytes(raw))) == uuid:
            flags, active = ctypes.c_uint(), ctypes.c_int()
            failed = cuda.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active))
            return None if failed else bool(active.value)
    return None
