"""One decode step of an RWKV-7 layer in Triton: token shift, the generalized delta rule, its norm and gates.

Twins: the functions of the same names in :mod:`ttt_mlflow.kernels.rwkv7.reference`, which define shapes and meaning.
flash-linear-attention's own recurrent kernel writes its new state to another tensor, which a captured graph would have
to copy back, and its other kernels of a step are autotuned with keys that leave the batch out. Here the state is read
and written in one place, and nothing is tuned in a process.

Layout of ``rwkv7_step``: one program for one head, whose whole state [F, F] is in registers, so that its norm and gates
need no further kernel. It reads and writes the state once. Bytes, per head and token: 8 F² for the state in float32,
and some 9 vectors of F.
Limits: the state is float32 and contiguous, F at most 64 (padded to a power of two); any GPU, and Triton's interpreter.
Arithmetic is float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.checks import check_contiguous, check_tensor
from ttt_mlflow.kernels.launch import launch_options
from ttt_mlflow.kernels.opaque import opaque
from ttt_mlflow.kernels.rwkv7.reference import DECAY, GATE, L2_EPS, WEIGHT_DECAY

MOST_DIMENSIONS = 64
BLOCK = 1024  # numbers for a program of the activations


@triton.jit
def shift_mix_kernel(
    hidden,
    delta,
    previous,
    weight,
    bias,
    mix,
    out_hidden,
    out,
    count,
    MIXTURES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    row = sequence * WIDTH + cols
    x = tl.load(hidden + row, mask, 0.0).to(tl.float32) + tl.load(delta + row, mask, 0.0).to(tl.float32)
    x = x.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + row, x, mask)
    centered = tl.where(mask, x - tl.sum(x, 0) / WIDTH, 0.0)
    normed = centered * tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
    normed = normed * tl.load(weight + cols, mask, 0.0).to(tl.float32) + tl.load(bias + cols, mask, 0.0).to(tl.float32)
    rounded = normed.to(out.dtype.element_ty)
    x = rounded.to(tl.float32)
    difference = tl.load(previous + row, mask, 0.0).to(tl.float32) - x
    tl.store(previous + row, rounded, mask)
    for i in tl.static_range(MIXTURES):
        share = tl.load(mix + i * WIDTH + cols, mask, 0.0).to(tl.float32)
        tl.store(out + i * count * WIDTH + row, x + difference * share, mask)


def _mixed(hidden: Tensor, delta: Tensor, previous: Tensor, weight: Tensor, bias: Tensor, mix: Tensor, eps: float):
    return torch.empty_like(hidden), hidden.new_empty(mix.shape[0], *hidden.shape)


@opaque(mutates=["previous"], shapes=_mixed)
def shift_mix(
    hidden: Tensor, delta: Tensor, previous: Tensor, weight: Tensor, bias: Tensor, mix: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See :func:`ttt_mlflow.kernels.rwkv7.reference.shift_mix`."""
    for name, tensor in (("hidden", hidden), ("delta", delta), ("previous", previous), ("mix", mix)):
        check_contiguous(name, tensor)
    batch, width = hidden.shape
    out_hidden, out = _mixed(hidden, delta, previous, weight, bias, mix, eps)
    shift_mix_kernel[(batch,)](
        hidden, delta, previous, weight, bias, mix, out_hidden, out, batch,
        mix.shape[0], width, triton.next_power_of_2(width), eps, num_warps=8,
    )  # fmt: skip
    return out_hidden, out


@triton.jit
def rank_activations_kernel(low, count, BLOCK: tl.constexpr, DECAY_ROW: tl.constexpr, GATE_ROW: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    decay, gate = low + DECAY_ROW * count + at, low + GATE_ROW * count + at
    x = tl.load(decay, mask, 0.0).to(tl.float32)
    tl.store(decay, 2.0 * tl.sigmoid(2.0 * x) - 1.0, mask)  # tanh
    tl.store(gate, tl.sigmoid(tl.load(gate, mask, 0.0).to(tl.float32)), mask)


@opaque(mutates=["low"], shapes=lambda low: None)
def rank_activations(low: Tensor) -> None:
    """See :func:`ttt_mlflow.kernels.rwkv7.reference.rank_activations`."""
    check_contiguous("low", low)
    count = low[0].numel()
    rank_activations_kernel[(triton.cdiv(count, BLOCK),)](low, count, BLOCK, WEIGHT_DECAY, GATE, num_warps=4)


@triton.jit
def rwkv7_step_kernel(
    rkv,
    low,
    low_bias,
    first,
    k_k,
    k_a,
    r_k,
    norm_weight,
    norm_bias,
    state,
    out,
    count,
    FIRST: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    LOG_DECAY: tl.constexpr,
    L2: tl.constexpr,
    EPS: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)  # counts sequences and heads
    h = head % HEADS
    size = count * HEADS * HEAD_DIM  # of one of the vectors for all sequences
    rows, cols = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    row_mask, mask = rows < HEAD_DIM, cols < HEAD_DIM
    tile = state + head * HEAD_DIM * HEAD_DIM + rows[:, None] * HEAD_DIM + cols[None, :]
    tile_mask = row_mask[:, None] & mask[None, :]
    s = tl.load(tile, tile_mask, 0.0)
    own_rows, own_cols = head * HEAD_DIM + rows, head * HEAD_DIM + cols
    weight_rows, weight_cols = h * HEAD_DIM + rows, h * HEAD_DIM + cols

    r = tl.load(rkv + own_rows, row_mask, 0.0).to(tl.float32)
    k = tl.load(rkv + size + own_rows, row_mask, 0.0).to(tl.float32)
    v = tl.load(rkv + 2 * size + own_cols, mask, 0.0).to(tl.float32)
    if not FIRST:
        residual = tl.load(low + own_cols, mask, 0.0).to(tl.float32)
        residual += tl.load(low_bias + weight_cols, mask, 0.0).to(tl.float32)
        v += (tl.load(first + own_cols, mask, 0.0).to(tl.float32) - v) * tl.sigmoid(residual)
    decay = tl.load(low + size + own_rows, row_mask, 0.0).to(tl.float32)
    decay += tl.load(low_bias + HEADS * HEAD_DIM + weight_rows, row_mask, 0.0).to(tl.float32)
    rate = tl.load(low + 2 * size + own_rows, row_mask, 0.0).to(tl.float32)
    rate = tl.sigmoid(rate + tl.load(low_bias + 2 * HEADS * HEAD_DIM + weight_rows, row_mask, 0.0).to(tl.float32))
    gate = tl.load(low + 3 * size + own_cols, mask, 0.0).to(tl.float32)

    removal = k * tl.load(k_k + weight_rows, row_mask, 0.0).to(tl.float32)
    removal *= tl.rsqrt(tl.sum(removal * removal, 0) + L2)
    k *= 1.0 + (rate - 1.0) * tl.load(k_a + weight_rows, row_mask, 0.0).to(tl.float32)
    bonus = tl.sum(r * k * tl.load(r_k + weight_rows, row_mask, 0.0).to(tl.float32), 0)

    removed = tl.sum(removal[:, None] * s, 0)
    s = tl.exp(LOG_DECAY * tl.sigmoid(decay))[:, None] * s - (removal * rate)[:, None] * removed[None, :]
    s += k[:, None] * v[None, :]
    tl.store(tile, s, tile_mask)
    y = tl.sum(r[:, None] * s, 0)
    centered = tl.where(mask, y - tl.sum(y, 0) / HEAD_DIM, 0.0)
    y = centered * tl.rsqrt(tl.sum(centered * centered, 0) / HEAD_DIM + EPS)
    y = y * tl.load(norm_weight + weight_cols, mask, 0.0).to(tl.float32)
    y += tl.load(norm_bias + weight_cols, mask, 0.0).to(tl.float32)
    tl.store(out + own_cols, (y + bonus * v) * gate, mask)


@opaque(mutates=["state"], shapes=lambda rkv, *_: rkv.new_empty(rkv.shape[1:]))
def rwkv7_step(
    rkv: Tensor,
    low: Tensor,
    low_bias: Tensor,
    first: Tensor | None,
    k_k: Tensor,
    k_a: Tensor,
    r_k: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    state: Tensor,
    eps: float,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.rwkv7.reference.rwkv7_step`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    if state.dim() != 4 or state.shape[2] != state.shape[3] or state.shape[3] > MOST_DIMENSIONS:
        raise ValueError(
            f"state has shape {tuple(state.shape)}, expected (sequences, heads, head dimension, head dimension) with "
            f"a head dimension of at most {MOST_DIMENSIONS}"
        )
    batch, heads, dim, _ = state.shape
    dtype = str(rkv.dtype).removeprefix("torch.")
    check_tensor("state", state, tuple(state.shape), "float32", rkv.device)
    check_tensor("rkv", rkv, (3, batch, heads * dim), dtype, rkv.device)
    check_tensor("low", low, (4, batch, heads * dim), dtype, rkv.device)
    for name, tensor in (("state", state), ("rkv", rkv), ("low", low), ("low_bias", low_bias)):
        check_contiguous(name, tensor)
    check_tensor("low_bias", low_bias, (4, heads * dim), dtype, rkv.device)
    if first is not None:
        check_tensor("first", first, (batch, heads * dim), dtype, rkv.device)
        check_contiguous("first", first)
    out = rkv.new_empty(rkv.shape[1:])
    options = launch_options("rwkv7_step", rkv.device, state.dtype, dim)
    rwkv7_step_kernel[(batch * heads,)](
        rkv, low, low_bias, rkv if first is None else first, k_k, k_a, r_k, norm_weight, norm_bias, state, out, batch,
        first is None, heads, dim, triton.next_power_of_2(dim), DECAY, L2_EPS, eps, **options,
    )  # fmt: skip
    return out
