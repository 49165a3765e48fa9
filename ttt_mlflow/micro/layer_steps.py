"""The kernels of a layer as decode steps launch them: cuBLAS's products, and kernels that overlap.

Arguments and results: :mod:`ttt_mlflow.micro.layer_tasks`. ``overlap``: the launch may begin before the previous kernel
has ended. The choices of kernels that overlap are those of a TTT-Linear step of that batch.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.functional import linear

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.block import fused
from ttt_mlflow.kernels.launch import has_warpgroups, overlaps
from ttt_mlflow.kernels.overlapped import launch
from ttt_mlflow.kernels.overlapped.tiles import index_in
from ttt_mlflow.kernels.overlapped.tuning import StagedTiling, Tiling, Tuning, padded_batch


def cublas_product(x: Tensor, weight: Tensor) -> Tensor:
    return linear(x, weight)


def cublas_gate_up(x: Tensor, weight: Tensor) -> Tensor:
    return fused.swiglu(linear(x, weight))


def cublas_head(x: Tensor, weight: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """Logits, and the token of the largest."""
    logits = linear(x, weight)[:, :vocab]
    return logits, logits.argmax(-1)


def stream_product(x: Tensor, weight: Tensor, *, overlap: bool = False) -> Tensor:
    out = x.new_empty(x.shape[0], weight.shape[0])
    launch.product(x, weight, out, tiling=_tuning(x).projection, overlap=overlap and overlaps(x.device))
    return out


def stream_o_proj(x: Tensor, weight: Tensor, *, overlap: bool = False) -> Tensor:
    return _parts(x, weight, _tuning(x).output, overlap)


def stream_down_proj(x: Tensor, weight: Tensor, *, overlap: bool = False) -> Tensor:
    return _parts(x, weight, _tuning(x).down, overlap)


def _parts(x: Tensor, weight: Tensor, tiling: Tiling | StagedTiling, overlap: bool) -> Tensor:
    """The sums of each part of the columns, float32: the next norm adds them up."""
    rows, columns = weight.shape
    out = x.new_empty(tiling.parts_of(columns), x.shape[0], rows, dtype=torch.float32)
    launch.product(x, weight, out, partial=True, tiling=tiling, overlap=overlap and overlaps(x.device))
    return out


def stream_gate_up(x: Tensor, weight: Tensor, *, overlap: bool = False) -> Tensor:
    out = x.new_empty(x.shape[0], weight.shape[0] // 2)
    launch.product(x, weight, out, gated=True, tiling=_tuning(x).gate_up, overlap=overlap and overlaps(x.device))
    return out


def stream_head(x: Tensor, weight: Tensor, vocab: int, *, overlap: bool = False) -> tuple[Tensor, Tensor]:
    """Logits, and the largest one of each program's rows with its token: the next kernel finds the largest of these."""
    batch, tiling = x.shape[0], _tuning(x).head
    out = x.new_empty(batch, len(weight))
    best = x.new_empty(padded_batch(batch), tiling.programs_of(len(weight)), dtype=torch.int64)
    launch.product(x, weight, out, best=best, words=vocab, tiling=tiling, overlap=overlap and overlaps(x.device))
    return out[:, :vocab], best


def add_rms_norm(hidden: Tensor, delta: Tensor, weight: Tensor, *, overlap: bool = False) -> tuple[Tensor, Tensor]:
    """As a step of overlapping kernels launches it; the functions below likewise."""
    out_hidden, out = torch.empty_like(hidden), torch.empty_like(hidden)
    arguments = (hidden, delta, hidden.shape[0], weight, out_hidden, out)
    _launch(fused.add_rms_norm_kernel, hidden, arguments, overlap, PARTS=1)
    return out_hidden, out


def conv_rms_norm(
    hidden: Tensor, delta: Tensor, ring: Tensor, position: Tensor, *weights: Tensor, overlap: bool = False
) -> tuple[Tensor, Tensor]:
    out_hidden, out = torch.empty_like(hidden), torch.empty_like(hidden)
    arguments = (hidden, delta, hidden.shape[0], ring, position, *weights, out_hidden, out)
    _launch(fused.conv_rms_norm_kernel, hidden, arguments, overlap, PARTS=1)
    return out_hidden, out


def gated_layer_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, *, overlap: bool = False) -> Tensor:
    out = torch.empty_like(x)
    _launch(fused.gated_layer_norm_kernel, x, (x, gate, gate.stride(0), weight, bias, out), overlap)
    return out


qk_conv_rotary = fused.qk_conv_rotary


def _tuning(x: Tensor) -> Tuning:
    return Tuning.of("ttt_linear", x.shape[0], has_warpgroups(x.device))


def _launch(kernel: Any, x: Tensor, arguments: tuple[Any, ...], overlap: bool, **constants: int) -> None:
    (batch, width), overlap = x.shape, overlap and overlaps(x.device)
    kernel[(batch,)](
        *arguments, WIDTH=width, BLOCK=triton.next_power_of_2(width), EPS=NORM_EPS, OVERLAP=overlap, **constants,
        num_warps=_tuning(x).norm_warps, launch_pdl=overlap,
    )  # fmt: skip


# What the next kernel makes of it. Not timed.


def added_up(parts: Tensor, x: Tensor, *_: object) -> Tensor:
    return parts.sum(0).to(x.dtype)


def chosen(returned: tuple[Tensor, Tensor], *_: object) -> tuple[Tensor, Tensor]:
    """Logits, and that of the token that was found."""
    logits, token = returned
    return logits, logits.gather(1, token[:, None]).squeeze(1)


def found_best(returned: tuple[Tensor, Tensor], *_: object) -> tuple[Tensor, Tensor]:
    logits, best = returned
    return chosen((logits, index_in(best.amax(1)[: len(logits)])))
