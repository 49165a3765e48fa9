"""The kernels of a decode step of ttt-1b outside its inner nets. ``layer`` stands for all of them in a list of kernels.

Each is here twice, as the two decode paths launch it. ``launches`` multiplies with cuBLAS, and each kernel begins when
the one before has ended. ``overlapped`` takes up to 128 sequences (16 if the GPU is no Hopper), multiplies with
streaming kernels, and launches overlap; its gate and up projections include SwiGLU. This module does not import torch.
"""

from collections.abc import Callable
from typing import Any

from ttt_mlflow.micro.entry import KernelEntry, Step
from ttt_mlflow.micro.operations import KEEPS_NOTHING

OVERLAPPED_DTYPES = ("float16", "bfloat16")


def _step(name: str) -> Callable[[], Step]:
    def load() -> Step:
        from ttt_mlflow.micro import layer_steps

        step: Step = getattr(layer_steps, name)
        return step

    return load


def _finished(name: str) -> Callable[..., Any]:
    def finished(returned: Any, *arguments: Any) -> Any:
        from ttt_mlflow.micro import layer_steps

        return getattr(layer_steps, name)(returned, *arguments)

    return finished


def _fused(name: str) -> Callable[[], Step]:
    def load() -> Step:
        from ttt_mlflow.kernels.block import fused

        step: Step = getattr(fused, name)
        return step

    return load


def _largest_overlapped() -> int:
    import torch

    from ttt_mlflow.kernels.overlapped.shape import largest_batch

    return largest_batch(torch.device("cuda"))


def _cublas(operation: str, step: str, description: str, **others: Any) -> KernelEntry:
    return KernelEntry(
        f"{operation}_cublas", operation, KEEPS_NOTHING, _step(step), f"{description}, cuBLAS", needs_gpu=True, **others
    )


def _streamed(operation: str, step: str, description: str, **others: Any) -> KernelEntry:
    return KernelEntry(
        f"{operation}_stream", operation, KEEPS_NOTHING, _step(step),
        f"{description}, streaming kernel, small batches",
        needs_gpu=True, overlaps=True, largest_batch=_largest_overlapped, dtypes=OVERLAPPED_DTYPES, by_batch=True,
        **others,
    )  # fmt: skip


def _triton(operation: str, description: str) -> KernelEntry:
    return KernelEntry(
        f"{operation}_triton", operation, KEEPS_NOTHING, _fused(operation), f"{description}, Triton", needs_gpu=True
    )


def _overlapped(operation: str, description: str) -> KernelEntry:
    return KernelEntry(
        f"{operation}_overlap", operation, KEEPS_NOTHING, _step(operation),
        f"{description}, launches that overlap, small batches",
        needs_gpu=True, overlaps=True, largest_batch=_largest_overlapped, dtypes=OVERLAPPED_DTYPES,
    )  # fmt: skip


_SMALL = {
    "conv_rms_norm": "sum, norm, causal convolution, norm",
    "qk_conv_rotary": "convolutions of Q and K, rotation, learning rate",
    "gated_layer_norm": "norm of the inner net's output, times the gate",
    "add_rms_norm": "sum and norm",
}


GROUP = "layer"
LAYER = (
    _cublas("projection", "cublas_product", "Q/K, V, gate and learning rate"),
    _streamed("projection", "stream_product", "Q/K, V, gate and learning rate"),
    _cublas("o_proj", "cublas_product", "output projection"),
    _streamed("o_proj", "stream_o_proj", "output projection", finished=_finished("added_up")),
    _cublas("gate_up", "cublas_gate_up", "gate and up projections, then SwiGLU in Triton"),
    _streamed("gate_up", "stream_gate_up", "gate and up projections with SwiGLU"),
    _cublas("down_proj", "cublas_product", "down projection"),
    _streamed("down_proj", "stream_down_proj", "down projection", finished=_finished("added_up")),
    _cublas("head", "cublas_head", "logits, then the largest of each sequence", finished=_finished("chosen")),
    _streamed("head", "stream_head", "logits with the largest of each program", finished=_finished("found_best")),
    *(make(operation, text) for operation, text in _SMALL.items() for make in (_triton, _overlapped)),
    _triton("swiglu", "SwiGLU alone"),
)
