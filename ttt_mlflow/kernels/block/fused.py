"""The decode step outside the inner net, in Triton: norms, causal convolutions, rotary embedding, gates.

Each function is the twin of the function of the same name in :mod:`ttt_mlflow.kernels.block.reference`, which defines
shapes and meaning. One program handles one sequence (one row of D). It reads every input once and writes every output
once. The arithmetic is float32. Rows are short (D ≤ 5504), so a row fits into a program's registers.

Eager, compiled and replayed steps run the same kernels. Their results are therefore equal bit for bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.launch import overlaps
from ttt_mlflow.kernels.opaque import opaque


def _two_rows(hidden: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(hidden)


def _qk_lr(x: Tensor, lr_logits: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return q, torch.empty_like(q), torch.empty(lr_logits.shape, dtype=torch.float32, device=x.device)


def _one_row(x: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(x)


def _half_row(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@triton.jit
def _rms_norm(x, weight, WIDTH: tl.constexpr, EPS: tl.constexpr):
    return x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + EPS) * weight


@triton.jit
def add_rms_norm_row(
    hidden, delta, weight, out_hidden, out, keep, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    """One sequence's row; the pointers are to it. ``keep``: whether to write ``out_hidden``."""
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    x = tl.load(hidden + cols, mask, 0.0).to(tl.float32)
    x += tl.load(delta + cols, mask, 0.0).to(tl.float32)
    x = x.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + cols, x, mask & keep)
    weight_row = tl.load(weight + cols, mask, 0.0).to(tl.float32)
    tl.store(out + cols, _rms_norm(x, weight_row, WIDTH, EPS), mask)


@triton.jit
def _add_rms_norm_kernel(
    hidden, delta, weight, out_hidden, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * WIDTH
    add_rms_norm_row(hidden + row, delta + row, weight, out_hidden + row, out + row, True, WIDTH, BLOCK, EPS)


@opaque(shapes=_two_rows)
def add_rms_norm(hidden: Tensor, delta: Tensor, weight: Tensor, eps: float = NORM_EPS) -> tuple[Tensor, Tensor]:
    batch, width = hidden.shape
    out_hidden, out = _two_rows(hidden)
    block = triton.next_power_of_2(width)
    _add_rms_norm_kernel[(batch,)](hidden, delta, weight, out_hidden, out, width, block, eps, num_warps=_warps(block))
    return out_hidden, out


@triton.jit
def conv_rms_norm_row(
    hidden,
    delta,
    history,
    newest,
    conv_norm_weight,
    conv_weight,
    conv_bias,
    norm_weight,
    out_hidden,
    out,
    keep,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):
    """One sequence's row; the pointers are to it. ``keep``: whether to write ``out_hidden`` and ``history``."""
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    x = tl.load(hidden + cols, mask, 0.0).to(tl.float32)
    x += tl.load(delta + cols, mask, 0.0).to(tl.float32)
    x = x.to(out.dtype.element_ty).to(tl.float32)
    normed = _rms_norm(x, tl.load(conv_norm_weight + cols, mask, 0.0).to(tl.float32), WIDTH, EPS)
    normed = normed.to(history.dtype.element_ty)

    history += cols
    total = tl.load(conv_bias + cols, mask, 0.0).to(tl.float32)
    for tap in tl.static_range(3):
        slot = (newest + 1 + tap) % 4
        old = tl.load(history + slot * WIDTH, mask, 0.0).to(tl.float32)
        total += old * tl.load(conv_weight + tap * WIDTH + cols, mask, 0.0).to(tl.float32)
    total += normed.to(tl.float32) * tl.load(conv_weight + 3 * WIDTH + cols, mask, 0.0).to(tl.float32)
    tl.store(history + newest * WIDTH, normed, mask & keep)

    x = (x + total).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + cols, x, mask & keep)
    weight_row = tl.load(norm_weight + cols, mask, 0.0).to(tl.float32)
    tl.store(out + cols, _rms_norm(x, weight_row, WIDTH, EPS), mask)


@triton.jit
def _conv_rms_norm_kernel(
    hidden,
    delta,
    ring,
    position,
    conv_norm_weight,
    conv_weight,
    conv_bias,
    norm_weight,
    out_hidden,
    out,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * WIDTH
    conv_rms_norm_row(
        hidden + row, delta + row, ring + 4 * row, tl.load(position) % 4, conv_norm_weight, conv_weight, conv_bias,
        norm_weight, out_hidden + row, out + row, True, WIDTH, BLOCK, EPS,
    )  # fmt: skip


@opaque(mutates=["ring"], shapes=_two_rows)
def conv_rms_norm(
    hidden: Tensor,
    delta: Tensor,
    ring: Tensor,
    position: Tensor,
    conv_norm_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    norm_weight: Tensor,
    eps: float = NORM_EPS,
) -> tuple[Tensor, Tensor]:
    batch, width = hidden.shape
    out_hidden, out = _two_rows(hidden)
    block = triton.next_power_of_2(width)
    _conv_rms_norm_kernel[(batch,)](
        hidden, delta, ring, position, conv_norm_weight, conv_weight, conv_bias, norm_weight,
        out_hidden, out, width, block, eps, num_warps=_warps(block),
    )  # fmt: skip
    return out_hidden, out


@triton.jit
def qk_conv_rotary_columns(
    x,
    history,
    now,
    q_weight,
    q_bias,
    k_weight,
    k_bias,
    cos,
    sin,
    out_q,
    out_k,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """COLUMNS columns of one sequence's row of WIDTH, whole heads; the pointers are to the first one."""
    newest = now % 4
    # pairs of neighboring dimensions: [BLOCK / 2, 2]
    pairs = tl.arange(0, BLOCK // 2)
    cols = pairs[:, None] * 2 + tl.arange(0, 2)[None, :]
    mask = cols < COLUMNS
    history += cols
    current = tl.load(x + cols, mask, 0.0)
    q = tl.load(q_bias + cols, mask, 0.0).to(tl.float32)
    k = tl.load(k_bias + cols, mask, 0.0).to(tl.float32)
    for tap in tl.static_range(4):
        if tap == 3:
            value = current.to(tl.float32)
        else:
            value = tl.load(history + ((newest + 1 + tap) % 4) * WIDTH, mask, 0.0).to(tl.float32)
        q += value * tl.load(q_weight + tap * WIDTH + cols, mask, 0.0).to(tl.float32)
        k += value * tl.load(k_weight + tap * WIDTH + cols, mask, 0.0).to(tl.float32)
    tl.store(history + newest * WIDTH, current, mask)

    frequency = now * (HEAD_DIM // 2) + pairs % (HEAD_DIM // 2)
    c, s = tl.load(cos + frequency), tl.load(sin + frequency)
    pair_mask = pairs * 2 < COLUMNS
    even, odd = tl.split(q)
    tl.store(out_q + pairs * 2, even * c - odd * s, pair_mask)
    tl.store(out_q + pairs * 2 + 1, odd * c + even * s, pair_mask)
    even, odd = tl.split(k)
    tl.store(out_k + pairs * 2, even * c - odd * s, pair_mask)
    tl.store(out_k + pairs * 2 + 1, odd * c + even * s, pair_mask)


@triton.jit
def learning_rate(logit, bias, base_lr, HEAD_DIM: tl.constexpr):
    """base_lr · sigmoid(logit + bias) / F, in float32."""
    return base_lr * tl.sigmoid(logit.to(tl.float32) + bias.to(tl.float32)) / HEAD_DIM


@triton.jit
def _qk_conv_rotary_kernel(
    x,
    x_stride,
    lr_logits,
    lr_stride,
    ring,
    position,
    q_weight,
    q_bias,
    k_weight,
    k_bias,
    lr_bias,
    cos,
    sin,
    base_lr,
    out_q,
    out_k,
    out_lr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        gdc_launch_dependents()  # meanwhile, the next kernel (decode) reads its state
    sequence = tl.program_id(0).to(tl.int64)
    row = sequence * WIDTH
    qk_conv_rotary_columns(
        x + sequence * x_stride, ring + 4 * row, tl.load(position), q_weight, q_bias, k_weight, k_bias, cos, sin,
        out_q + row, out_k + row, WIDTH, WIDTH, HEAD_DIM, BLOCK,
    )  # fmt: skip
    heads = tl.arange(0, HEADS_BLOCK)
    logit = tl.load(lr_logits + sequence * lr_stride + heads, heads < HEADS, 0.0)
    bias = tl.load(lr_bias + heads, heads < HEADS, 0.0)
    tl.store(out_lr + sequence * HEADS + heads, learning_rate(logit, bias, base_lr, HEAD_DIM), heads < HEADS)


@opaque(mutates=["ring"], shapes=_qk_lr)
def qk_conv_rotary(
    x: Tensor,
    lr_logits: Tensor,
    ring: Tensor,
    position: Tensor,
    q_weight: Tensor,
    q_bias: Tensor,
    k_weight: Tensor,
    k_bias: Tensor,
    lr_bias: Tensor,
    cos: Tensor,
    sin: Tensor,
    base_lr: float,
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, width), heads = x.shape, lr_logits.shape[1]
    q, k, lr = _qk_lr(x, lr_logits)
    block = triton.next_power_of_2(width)
    _qk_conv_rotary_kernel[(batch,)](
        x, x.stride(0), lr_logits, lr_logits.stride(0), ring, position, q_weight, q_bias, k_weight, k_bias, lr_bias,
        cos, sin, base_lr, q, k, lr, width, heads, width // heads, block, triton.next_power_of_2(heads),
        overlaps(x.device), num_warps=_warps(block),
    )  # fmt: skip
    return q, k, lr


@triton.jit
def gated_layer_norm_row(x, gate, weight, bias, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr):
    """One sequence's row; the pointers are to it."""
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    value = tl.load(x + cols, mask, 0.0).to(tl.float32)
    centered = tl.where(mask, value - tl.sum(value, 0) / WIDTH, 0.0)
    rstd = tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
    normed = centered * rstd * tl.load(weight + cols, mask, 0.0).to(tl.float32)
    normed += tl.load(bias + cols, mask, 0.0).to(tl.float32)
    g = tl.load(gate + cols, mask, 0.0).to(tl.float32)
    g = g * tl.sigmoid(1.5957691216057308 * g * (1.0 + 0.044715 * g * g))
    tl.store(out + cols, g * normed, mask)


@triton.jit
def _gated_layer_norm_kernel(
    x, gate, gate_stride, weight, bias, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    sequence = tl.program_id(0).to(tl.int64)
    row = sequence * WIDTH
    gated_layer_norm_row(x + row, gate + sequence * gate_stride, weight, bias, out + row, WIDTH, BLOCK, EPS)


@opaque(shapes=_one_row)
def gated_layer_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    batch, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _gated_layer_norm_kernel[(batch,)](
        x, gate, gate.stride(0), weight, bias, out, width, block, eps, num_warps=_warps(block)
    )
    return out


@triton.jit
def _swiglu_kernel(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    sequence = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < WIDTH
    gate = tl.load(gate_up + sequence * 2 * WIDTH + cols, mask, 0.0).to(tl.float32)
    up = tl.load(gate_up + sequence * 2 * WIDTH + WIDTH + cols, mask, 0.0).to(tl.float32)
    tl.store(out + sequence * WIDTH + cols, gate * tl.sigmoid(gate) * up, mask)


@opaque(shapes=_half_row)
def swiglu(gate_up: Tensor) -> Tensor:
    batch, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = _half_row(gate_up)
    block = 1024
    _swiglu_kernel[(batch, triton.cdiv(width, block))](gate_up, out, width, block, num_warps=4)
    return out


def _warps(block: int) -> int:
    return 4 if block <= 2048 else 8
