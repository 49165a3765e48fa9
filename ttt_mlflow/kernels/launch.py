"""Launch options of the kernels, by architecture: a table instead of autotuning in every process.

The rows of the tensor-core kernels, and of the accumulating kernels with heads of 64, were chosen by measurements on an
H200. The others were chosen by registers: the fewest warps without spills on sm_90, and those of the peers by the
machine code. An architecture that is not in the table gets the default rows, with one log message.
"""

import ctypes
import logging
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)

# kernel -> (maximum head dimension) -> options; num_warps are warps per program
Rows = dict[str, dict[int, dict[str, Any]]]
DEFAULT: Rows = {
    "ttt_linear_decode": {64: {"num_warps": 2}, 128: {"num_warps": 4}},
    "ttt_linear_decode_tensor": {64: {"num_warps": 1, "maxnreg": 128}},
    "ttt_mlp_decode": {128: {"num_warps": 4}},
    "ttt_mlp_decode_tensor": {64: {"num_warps": 4}},
    "ttt_mlp_prefill_tensor": {64: {"num_warps": 8}},
    "ttt_linear_accumulate": {64: {"num_warps": 1}, 128: {"num_warps": 8}},
    "ttt_mlp_accumulate": {128: {"num_warps": 4}},
}
# float32 state is for checks; a matrix then takes twice as many registers
FLOAT32: Rows = {
    "ttt_linear_decode": {64: {"num_warps": 2}, 128: {"num_warps": 8}},
    "ttt_linear_accumulate": {64: {"num_warps": 4}, 128: {"num_warps": 8}},
    "ttt_mlp_decode": {128: {"num_warps": 4, "maxnreg": 255}},  # without it, the assembler spills a little
    "ttt_mlp_accumulate": DEFAULT["ttt_mlp_accumulate"],
    # The peers' state is always float32. With two warps, a head of RWKV-7 takes a third of the instructions of four,
    # and with one warp so many registers that a multiprocessor has fewer heads at once.
    "gated_delta_step": {256: {"num_warps": 1}},
    "rwkv7_step": {64: {"num_warps": 2}},
}
TABLE: dict[tuple[int, int], Rows] = {(9, 0): DEFAULT}

# tensor-core kernels: maximum number of programs on a multiprocessor, and shared memory of a program in bytes
RESIDENT = {
    "ttt_linear_decode_tensor": (16, 12_672),
    "ttt_mlp_decode_tensor": (2, 113_856),
    "ttt_linear_prefill_tensor": (4, 28_672),
    "ttt_mlp_prefill_tensor": (1, 127_232),
}
RESERVED = 1024  # bytes of shared memory that the system reserves for every program
TENSOR_CORES = (8, 0)  # first compute capability with the tensor-core and copy instructions that the kernels use
WARPGROUPS = 9  # major compute capability whose tensor cores take operands of four warps from shared memory
OVERLAP = (9, 0)  # first compute capability whose launches can overlap with the previous kernel


def options_for(kernel: str, capability: tuple[int, int] | None, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """Options of ``kernel`` for a state of ``dtype`` on a GPU with this compute capability."""
    rows = FLOAT32 if dtype == torch.float32 else TABLE.get(capability, DEFAULT) if capability else DEFAULT
    return next(row for limit, row in rows[kernel].items() if head_dim <= limit)


@cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    if device.type != "cuda":
        return None  # Triton's interpreter ignores options
    capability = torch.cuda.get_device_capability(device)
    if capability not in TABLE:
        log.warning(
            "%s (sm_%d%d) is not in the table of launch options: default options are used, not tuned ones",
            torch.cuda.get_device_name(device), *capability,
        )  # fmt: skip
    return capability


@cache
def programs(kernel: str, device: torch.device) -> int:
    """The number of programs of a persistent kernel that fit on the whole GPU at once; 0 if none fits."""
    properties = torch.cuda.get_device_properties(device)
    most, shared_bytes = RESIDENT[kernel]
    fit = properties.shared_memory_per_multiprocessor // (shared_bytes + RESERVED)
    return properties.multi_processor_count * min(most, fit)


def warps_of_a_chain(chains: int, device: torch.device) -> int:
    """Warps per program of the TTT-Linear prefill kernel, for ``chains`` sequences and heads.

    On an H200 with 132 multiprocessors, four warps were faster for 128 chains (496 µs against 593 µs for 8,192 tokens),
    two for 512 chains (266 µs against 389 µs for 2,048 tokens).
    """
    return 4 if chains <= 2 * torch.cuda.get_device_properties(device).multi_processor_count else 2


def overlaps(device: torch.device) -> bool:
    """Whether a launch on ``device`` can overlap with the previous kernel (programmatic dependent launch)."""
    capability = _capability(device)
    return capability is not None and capability >= OVERLAP


def has_warpgroups(device: torch.device) -> bool:
    """Whether ``device`` has the tensor-core instruction of four warps, which Hopper alone has."""
    capability = _capability(device)
    return capability is not None and capability[0] == WARPGROUPS


def no_overlap(device: torch.device) -> str | None:
    """Why launches on ``device`` cannot overlap, or None; also None for Triton's interpreter, which has no launches."""
    capability = _capability(device)
    if capability is None or capability >= OVERLAP:
        return None
    return f"the GPU has compute capability {capability[0]}.{capability[1]}; it needs {OVERLAP[0]}.{OVERLAP[1]}"


@cache
def prefer_cache(function: int) -> None:
    """Let a multiprocessor that runs this kernel have as much L1 cache as it can. function: the driver's handle.

    Otherwise the driver leaves the division between cache and shared memory as the kernel before had it: after the
    TTT-MLP step, which has nearly all of it as shared memory, products of 16 rows took up to 1.5 times as long.
    """
    CARVEOUT, PERCENT = 9, 14  # CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT; 32 of 228 KB
    if code := ctypes.CDLL("libcuda.so.1").cuFuncSetAttribute(ctypes.c_void_p(function), CARVEOUT, PERCENT):
        log.warning("the L1 cache of a kernel could not be enlarged: cuFuncSetAttribute returned %d", code)


def launch_options(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> dict[str, Any]:
    """Options for a launch on ``device``."""
    return options_for(kernel, _capability(device), dtype, head_dim)


def on_tensor_cores(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the tensor-core kernel supports this state. The general kernel supports the rest, and float32."""
    capability = _capability(device)
    if capability is None or capability < TENSOR_CORES or dtype == torch.float32 or head_dim != 64:
        return False
    return programs(kernel, device) > 0
