"""Launch options of the decode kernels, by architecture: a table instead of autotuning in every process.

The sm_90 rows were chosen on an H200 (benchmarks/); an architecture that the table does not know gets the default row,
and says so once.
"""

import logging
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)

# (kernel, head dimension up to) -> options; num_warps are warps a program, one program a head
DEFAULT: dict[str, dict[int, dict[str, Any]]] = {
    "ttt_linear_decode": {64: {"num_warps": 1}, 128: {"num_warps": 4}},
    "ttt_mlp_decode": {64: {"num_warps": 4}, 128: {"num_warps": 8}},
}
TABLE: dict[tuple[int, int], dict[str, dict[int, dict[str, Any]]]] = {
    (9, 0): {
        "ttt_linear_decode": {64: {"num_warps": 1, "maxnreg": 128}, 128: {"num_warps": 4}},
        "ttt_mlp_decode": {64: {"num_warps": 4, "maxnreg": 168}, 128: {"num_warps": 8}},
    }
}


def options_for(kernel: str, capability: tuple[int, int] | None, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """Options of ``kernel`` on a compute capability; float32 state is for checks: no register limit."""
    rows = TABLE.get(capability, DEFAULT) if capability else DEFAULT
    options = next(row for limit, row in rows[kernel].items() if head_dim <= limit)
    if dtype == torch.float32:
        options = {name: value for name, value in options.items() if name != "maxnreg"}
        options["num_warps"] *= 2
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


def launch_options(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """Options for a launch on ``device``."""
    return options_for(kernel, _capability(device), dtype, head_dim)
