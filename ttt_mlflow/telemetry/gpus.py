"""The GPUs that CUDA shows to this process. Asking creates no context and takes no memory on any of them."""

import ctypes
from dataclasses import dataclass
from typing import Any
from uuid import UUID

NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU, as CUDA numbers those that CUDA_VISIBLE_DEVICES leaves. total_bytes: its memory."""

    number: int
    name: str
    uuid: str
    total_bytes: int

    def __str__(self) -> str:
        return f"{self.number} ({self.name})"


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process can use; none without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
            return []
        found = [_gpu(cuda, number) for number in range(count.value)]
    except (OSError, AttributeError):  # no driver, or a driver without these functions
        return []
    return [gpu for gpu in found if gpu is not None]


def _gpu(cuda: Any, number: int) -> Gpu | None:
    device, raw, total = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(NAME_BYTES)
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDeviceGetUuid_v2(ctypes.byref(raw), device)
        or cuda.cuDeviceGetName(name, NAME_BYTES, device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    )
    if failed:
        return None
    return Gpu(number, name.value.decode(errors="replace"), f"GPU-{UUID(bytes=bytes(raw))}", total.value)
