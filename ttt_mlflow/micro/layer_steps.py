"""The matrix products of a decode step, as a step launches them: by cuBLAS, and by the streaming product kernel.

Arguments and results: :mod:`ttt_mlflow.micro.layer_tasks`. ``overlap``: the launch may begin before the previous kernel
has ended.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from ttt_mlflow.kernels.block import fused
from ttt_mlflow.kernels.launch import overlaps
from ttt_mlflow.kernels.overlapped import launch
from ttt_mlflow.kernels.overlapped.launch import Tuning
from ttt_mlflow.kernels.persistent.products import index_in

TUNING = Tuning.of(is_mlp=False)  # the two choices differ in the inner net alone


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
    launch.product(x, weight, out, tuning=TUNING, overlap=overlap and overlaps(x.device))
    return out


def stream_parts(x: Tensor, weight: Tensor, *, overlap: bool = False) -> Tensor:
    """The sums of each part of the columns, float32: the next norm adds them up."""
    rows, columns = weight.shape
    out = x.new_empty(launch.parts_of(columns, TUNING), x.shape[0], rows, dtype=torch.float32)
    launch.product(x, weight, out, partial=True, tuning=TUNING, overlap=overlap and overlaps(x.device))
    return out


def stream_gate_up(x: Tensor, weight: Tensor, *, overlap: bool = False) -> Tensor:
    out = x.new_empty(x.shape[0], weight.shape[0] // 2)
    launch.product(x, weight, out, gated=True, tuning=TUNING, overlap=overlap and overlaps(x.device))
    return out


def stream_head(x: Tensor, weight: Tensor, vocab: int, *, overlap: bool = False) -> tuple[Tensor, Tensor]:
    """Logits, and the largest one of each program's rows with its token: the next kernel finds the largest of these."""
    batch = x.shape[0]
    out = x.new_empty(batch, vocab)
    best = x.new_empty(launch.programs_of(weight.shape[0], TUNING), launch.padded_batch(batch), dtype=torch.int64)
    launch.product(x, weight, out, best=best, tuning=TUNING, overlap=overlap and overlaps(x.device))
    return out, best


# What the next kernel makes of it. Not timed.


def added_up(parts: Tensor, x: Tensor, *_: object) -> Tensor:
    return parts.sum(0).to(x.dtype)


def chosen(returned: tuple[Tensor, Tensor], *_: object) -> tuple[Tensor, Tensor]:
    """Logits, and that of the token that was found."""
    logits, token = returned
    return logits, logits.gather(1, token[:, None]).squeeze(1)


def found_best(returned: tuple[Tensor, Tensor], *_: object) -> tuple[Tensor, Tensor]:
    logits, best = returned
    return chosen((logits, index_in(best.amax(0)[: len(logits)])))
