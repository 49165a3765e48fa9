"""Detects out-of-memory errors, and describes what was requested and what the device has."""

import re

import torch

from ttt_mlflow.errors import OutOfMemory, RunFailed, TTTError, one_line

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cudaErrorMemoryAllocation|STATUS_ALLOC_FAILED", re.I
)
REQUEST = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)|you tried to allocate (\d+) bytes")


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def find_out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error that reports that the device (or the host) is out of memory: ``error`` or one of its causes.

    A CUDA graph capture that runs out of memory raises a different error at its end.
    """
    while error is not None and not _says_out_of_memory(error):
        error = error.__cause__ or error.__context__
    return error


def out_of_memory_message(error: BaseException, what: str, device: torch.device) -> str | None:
    """One line: ``what`` does not fit, the device's memory, the peak. None for another kind of failure."""
    source = find_out_of_memory(error)
    if source is None:
        return None
    parts = [f"out of memory: {what} does not fit"]
    if found := REQUEST.search(str(source)):
        request = found.group(1) or f"{int(found.group(2)) / 1e9:.2f} GB"
        parts.append(f"{request} more was requested")
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / 1e9
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        parts.append(f"the device has {total:.1f} GB, {peak:.1f} GB was allocated at the peak")
    return "; ".join(parts)


def failure_of(error: BaseException, what: str, device: torch.device) -> TTTError:
    """The failure for the user, OutOfMemory or RunFailed, for ``error``, which ended ``what`` on ``device``.

    It is a new exception, because the traceback of the original one keeps the model's memory.
    """
    if isinstance(error, OutOfMemory):
        return OutOfMemory(str(error))
    if message := out_of_memory_message(error, what, device):
        return OutOfMemory(message)
    return RunFailed(str(error) if isinstance(error, TTTError) else one_line(error))
