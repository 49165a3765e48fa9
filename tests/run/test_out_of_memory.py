"""What counts as out of memory, and what is said about it."""

import pytest
import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.run.out_of_memory import find_out_of_memory, out_of_memory_message

CPU = torch.device("cpu")
USED = RunConfig.parse({"model_name": "ttt-1b", "inner_net": "mlp_2_dual_triton", "batch": 8192, "genlen": 64})
SUBJECT = "out of memory: ttt-1b mlp_2_dual_triton b8192 g64 does not fit"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 10.00 MiB."), "; 10.00 MiB more was requested"),
        (torch.OutOfMemoryError("no details"), ""),
        (RuntimeError("CUDA error: out of memory"), ""),
        (RuntimeError("CUDA driver error: Out of Memory"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
        (RuntimeError("Triton Error [CUDA]: out of memory"), ""),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2500000000 bytes."),
            "; 2.50 GB more was requested",
        ),
        (MemoryError(), ""),
    ],
)  # fmt: skip
def test_out_of_memory(error: Exception, message: str) -> None:
    assert find_out_of_memory(error) is error
    assert out_of_memory_message(error, USED.run_name, CPU) == SUBJECT + message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory is no word for a value"),
        KeyboardInterrupt(),
    ],
)
def test_other_failures(error: BaseException) -> None:
    assert find_out_of_memory(error) is None
    assert out_of_memory_message(error, USED.run_name, CPU) is None


def test_an_error_that_out_of_memory_led_to() -> None:
    """As when the capture of a CUDA graph is cut short."""
    error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert find_out_of_memory(error) is error.__context__
    assert out_of_memory_message(error, USED.run_name, CPU) == f"{SUBJECT}; 20.00 MiB more was requested"
