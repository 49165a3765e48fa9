"""The sizes of a whole step, and what its kernels take."""

from dataclasses import dataclass

import torch

from ttt_mlflow.kernels.inner_layers import MLP
from ttt_mlflow.kernels.launch import TENSOR_CORES, has_warpgroups
from ttt_mlflow.kernels.overlapped.tensors import StepTensors, TransformerTensors
from ttt_mlflow.kernels.overlapped.tiles import ROWS
from ttt_mlflow.kernels.overlapped.tuning import Model

LARGEST_BATCH = 16  # of products whose weights are in registers
LARGEST_STAGED = 128  # of those in shared memory
LARGEST_MLP_HEAD = 64  # the matrices of a larger one do not fit into a program's registers


@dataclass(frozen=True)
class StepShape:
    """Sizes of a step, in elements: of a token's values, of the feed-forward, of a head, and rows of the weights. And
    whose step it is."""

    width: int
    intermediate: int
    head_dim: int
    projected: int
    embedding: int
    model: Model


def largest_batch(device: torch.device) -> int:
    """The most sequences that kernels that overlap take on ``device``."""
    return LARGEST_STAGED if has_warpgroups(device) else LARGEST_BATCH


def unsupported(shape: StepShape, batch: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a step of this shape cannot run as kernels that overlap, or None."""
    if not 1 <= batch <= (largest := largest_batch(device)):
        return f"batch={batch}: it takes 1 to {largest} sequences"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"dtype={str(dtype).removeprefix('torch.')}: it takes float16 and bfloat16"
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < TENSOR_CORES:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; it needs {TENSOR_CORES[0]}.0"
    if shape.head_dim < ROWS or shape.head_dim & (shape.head_dim - 1):
        return f"heads of {shape.head_dim}: it takes powers of two from {ROWS} on"
    if shape.model == "ttt_mlp" and shape.head_dim > LARGEST_MLP_HEAD:
        return f"TTT-MLP with heads of {shape.head_dim}: it takes up to {LARGEST_MLP_HEAD}"
    for what, rows in (("hidden size", shape.width), ("projection", shape.projected), ("vocabulary", shape.embedding)):
        if rows % ROWS:
            return f"{what} of {rows}: it takes multiples of {ROWS}"
    if shape.intermediate % (ROWS // 2):
        return f"feed-forward of {shape.intermediate}: it takes multiples of {ROWS // 2}"
    return None


def transformer_of(width: int, projected: int) -> Model:
    """Which transformer it is whose queries, keys and values have so many elements together."""
    return "transformer" if projected == 3 * width else "shared_kv"


def shape_of(tensors: StepTensors | TransformerTensors) -> StepShape:
    """The sizes of a step."""
    if isinstance(tensors, TransformerTensors):
        first, rows = tensors.layers[0], tensors.embedding.shape[0]
        width, intermediate = first.down_proj.shape
        projected, head_dim = first.qkv.shape[0], 2 * tensors.cos.shape[1]
        return StepShape(width, intermediate, head_dim, projected, rows, transformer_of(width, projected))
    one, embedding = tensors.layers[0], tensors.embedding
    width, intermediate, projected = one.o_proj.shape[0], one.down_proj.shape[1], one.projection.shape[0]
    sizes = (width, intermediate, one.norm_weight.shape[1], projected, embedding.shape[0])
    return StepShape(*sizes, "ttt_mlp" if tensors.inner_layer is MLP else "ttt_linear")


def reason_against(tensors: StepTensors | TransformerTensors, batch: int) -> str | None:
    """Why this step is :func:`unsupported`, or None."""
    return unsupported(shape_of(tensors), batch, tensors.embedding.dtype, tensors.embedding.device)


def check_shape(tensors: StepTensors | TransformerTensors, batch: int) -> StepShape:
    """The sizes of a step. Raises ValueError for one that is :func:`unsupported`."""
    if reason := reason_against(tensors, batch):
        raise ValueError(f"a whole step: {reason}")
    return shape_of(tensors)
