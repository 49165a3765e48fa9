"""Launch options of the decode kernels, by architecture: a table instead of autotuning in every process.

The sm_90 rows were chosen on an H200; an architecture that the table does not know gets the default row, and says so
once.
"""

import logging
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)

# kernel -> (head dimension up to) -> options; num_warps are warps a program
Rows = dict[str, dict[int, dict[str, Any]]]
DEFAULT: Rows = {
    "ttt_linear_decode": {64: {"num_warps": 1}, 128: {"num_warps": 4}},
    "ttt_linear_decode_tensor": {64: {"num_warps": 1}},
    "ttt_mlp_decode": {64: {"num_warps": 4}, 128: {"num_warps": 8}},
    "ttt_mlp_decode_tensor": {64: {"num_warps": 4}},
    "ttt_linear_accumulate": {64: {"num_warps": 2}, 128: {"num_warps": 8}},
    "ttt_mlp_accumulate": {64: {"num_warps": 4}, 128: {"num_warps": 8}},
}
TABLE: dict[tuple[int, int], Rows] = {
    (9, 0): {**DEFAULT, "ttt_linear_decode": {64: {"num_warps": 1, "maxnreg": 168}, 128: {"num_warps": 4}}}
}
TENSOR_CORES = (8, 0)  # the first compute capability with the tensor-core and copy instructions that the kernels use


def options_for(kernel: str, capability: tuple[int, int] | None, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """Options of ``kernel`` on a compute capability; float32 state is for checks: no register limit."""
    rows = TABLE.get(capability, DEFAULT) if capability else DEFAULT
    options = next(row for limit, row in rows[kernel].items() if head_dim <= limit)
    if dtype == torch.float32:
        options = {name: value for name, value in options.items() if name != "maxnreg"}
        options["num_warps"] = min(2 * options["num_warps"], 8)
    return options


@cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    if device.type != "cuda":
        return None  # Triton's interpreter: options mean nothing there
    capability = torch.cuda.get_device_capability(device)
    if capability not in TABLE:
        log.warning(
            "%s (sm_%d%d) is not in the table of launch options: default options are used, not tuned ones",
            torch.cuda.get_device_name(device), *capability,
        )  # fmt: skip
    return capability


@cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors the GPU has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def launch_options(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """Options for a launch on ``device``."""
    return options_for(kernel, _capability(device), dtype, head_dim)


def on_tensor_cores(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernel for tensor cores takes this state; the general one takes the rest, float32 for checks."""
    capability = _capability(device)
    return capability is not None and capability >= TENSOR_CORES and dtype != torch.float32 and head_dim == 64
