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
def load_row(x, wanted, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A row of WIDTH, padded with zeros; nothing but zeros unless ``wanted``."""
    cols = tl.arange(0, BLOCK)
    return tl.load(x + cols, (cols < WIDTH) & wanted, 0.0)


@triton.jit
def add_rms_norm_row(
    hidden_row, delta_row, weight_row, out_hidden, out, keep,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """One sequence's row; the pointers are to it. ``keep``: whether to write ``out_hidden``."""
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    x = hidden_row.to(tl.float32) + delta_row.to(tl.float32)
    x = x.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + cols, x, mask & keep)
    tl.store(out + cols, _rms_norm(x, weight_row.to(tl.float32), WIDTH, EPS), mask)


@triton.jit
def _add_rms_norm_kernel(
    hidden, delta, weight, out_hidden, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * WIDTH
    weight_row = load_row(weight, True, WIDTH, BLOCK)
    hidden_row, delta_row = load_row(hidden + row, True, WIDTH, BLOCK), load_row(delta + row, True, WIDTH, BLOCK)
    add_rms_norm_row(hidden_row, delta_row, weight_row, out_hidden + row, out + row, True, WIDTH, BLOCK, EPS)


@opaque(shapes=_two_rows)
def add_rms_norm(hidden: Tensor, delta: Tensor, weight: Tensor, eps: float = NORM_EPS) -> tuple[Tensor, Tensor]:
    batch, width = hidden.shape
    out_hidden, out = _two_rows(hidden)
    block = triton.next_power_of_2(width)
    _add_rms_norm_kernel[(batch,)](hidden, delta, weight, out_hidden, out, width, block, eps, num_warps=_warps(block))
    return out_hidden, out


@triton.jit
def conv_rms_norm_inputs(
    history,
    newest,
    conv_norm_weight,
    conv_weight,
    conv_bias,
    norm_weight,
    wanted,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What :func:`conv_rms_norm_row` takes that depends on no other stage of the step: weights, and older tokens."""
    old = (newest + 1) % 4
    older, oldest = (newest + 2) % 4, (newest + 3) % 4
    return (
        load_row(conv_norm_weight, wanted, WIDTH, BLOCK),
        load_row(conv_bias, wanted, WIDTH, BLOCK),
        load_row(history + old * WIDTH, wanted, WIDTH, BLOCK),
        load_row(history + older * WIDTH, wanted, WIDTH, BLOCK),
        load_row(history + oldest * WIDTH, wanted, WIDTH, BLOCK),
        load_row(conv_weight, wanted, WIDTH, BLOCK),
        load_row(conv_weight + WIDTH, wanted, WIDTH, BLOCK),
        load_row(conv_weight + 2 * WIDTH, wanted, WIDTH, BLOCK),
        load_row(conv_weight + 3 * WIDTH, wanted, WIDTH, BLOCK),
        load_row(norm_weight, wanted, WIDTH, BLOCK),
    )


@triton.jit
def conv_rms_norm_row(
    inputs,
    hidden_row,
    delta_row,
    history,
    newest,
    out_hidden,
    out,
    keep,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):
    """One sequence's row; the pointers are to it. inputs: of :func:`conv_rms_norm_inputs`. ``keep``: whether to write
    ``out_hidden`` and ``history``."""
    conv_norm_row, bias_row, first, second, third, tap_0, tap_1, tap_2, tap_3, norm_row = inputs
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    x = hidden_row.to(tl.float32) + delta_row.to(tl.float32)
    x = x.to(out.dtype.element_ty).to(tl.float32)
    normed = _rms_norm(x, conv_norm_row.to(tl.float32), WIDTH, EPS)
    normed = normed.to(history.dtype.element_ty)

    total = bias_row.to(tl.float32)
    total += first.to(tl.float32) * tap_0.to(tl.float32)
    total += second.to(tl.float32) * tap_1.to(tl.float32)
    total += third.to(tl.float32) * tap_2.to(tl.float32)
    total += normed.to(tl.float32) * tap_3.to(tl.float32)
    tl.store(history + newest * WIDTH + cols, normed, mask & keep)

    x = (x + total).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + cols, x, mask & keep)
    tl.store(out + cols, _rms_norm(x, norm_row.to(tl.float32), WIDTH, EPS), mask)


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
    newest = tl.load(position) % 4
    inputs = conv_rms_norm_inputs(
        ring + 4 * row, newest, conv_norm_weight, conv_weight, conv_bias, norm_weight, True, WIDTH, BLOCK
    )
    hidden_row, delta_row = load_row(hidden + row, True, WIDTH, BLOCK), load_row(delta + row, True, WIDTH, BLOCK)
    conv_rms_norm_row(
        inputs, hidden_row, delta_row, ring + 4 * row, newest, out_hidden + row, out + row, True, WIDTH, BLOCK, EPS
    )


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
def qk_conv_inputs(
    history,
    now,
    q_weight,
    q_bias,
    k_weight,
    k_bias,
    cos,
    sin,
    wanted,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What :func:`qk_conv_rotary_columns` takes that depends on no other stage of the step: weights, older tokens."""
    newest = now % 4
    pairs = tl.arange(0, BLOCK // 2)
    cols = pairs[:, None] * 2 + tl.arange(0, 2)[None, :]  # pairs of neighboring dimensions: [BLOCK / 2, 2]
    mask = (cols < COLUMNS) & wanted
    history += cols
    frequency = now * (HEAD_DIM // 2) + pairs % (HEAD_DIM // 2)
    return (
        tl.load(q_bias + cols, mask, 0.0), tl.load(k_bias + cols, mask, 0.0),
        tl.load(history + ((newest + 1) % 4) * WIDTH, mask, 0.0),
        tl.load(history + ((newest + 2) % 4) * WIDTH, mask, 0.0),
        tl.load(history + ((newest + 3) % 4) * WIDTH, mask, 0.0),
        tl.load(q_weight + cols, mask, 0.0), tl.load(q_weight + WIDTH + cols, mask, 0.0),
        tl.load(q_weight + 2 * WIDTH + cols, mask, 0.0), tl.load(q_weight + 3 * WIDTH + cols, mask, 0.0),
        tl.load(k_weight + cols, mask, 0.0), tl.load(k_weight + WIDTH + cols, mask, 0.0),
        tl.load(k_weight + 2 * WIDTH + cols, mask, 0.0), tl.load(k_weight + 3 * WIDTH + cols, mask, 0.0),
        tl.load(cos + frequency), tl.load(sin + frequency),
    )  # fmt: skip


@triton.jit
def qk_conv_rotary_columns(inputs, x, history, now, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """COLUMNS columns of one sequence's row of WIDTH, whole heads; the pointers are to the first one.

    inputs: of :func:`qk_conv_inputs`. Returns even and odd dimensions of q, and of k: four of [BLOCK / 2], float32.
    """
    q_bias, k_bias, first, second, third, q_0, q_1, q_2, q_3, k_0, k_1, k_2, k_3, c, s = inputs
    cols = tl.arange(0, BLOCK // 2)[:, None] * 2 + tl.arange(0, 2)[None, :]
    mask = cols < COLUMNS
    current = tl.load(x + cols, mask, 0.0)
    first, second, third = first.to(tl.float32), second.to(tl.float32), third.to(tl.float32)
    q = q_bias.to(tl.float32) + first * q_0.to(tl.float32)
    k = k_bias.to(tl.float32) + first * k_0.to(tl.float32)
    q += second * q_1.to(tl.float32)
    k += second * k_1.to(tl.float32)
    q += third * q_2.to(tl.float32)
    k += third * k_2.to(tl.float32)
    q += current.to(tl.float32) * q_3.to(tl.float32)
    k += current.to(tl.float32) * k_3.to(tl.float32)
    tl.store(history + (now % 4) * WIDTH + cols, current, mask)
    q_even, q_odd = tl.split(q)
    k_even, k_odd = tl.split(k)
    return q_even * c - q_odd * s, q_odd * c + q_even * s, k_even * c - k_odd * s, k_odd * c + k_even * s


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
    now = tl.load(position)
    inputs = qk_conv_inputs(
        ring + 4 * row, now, q_weight, q_bias, k_weight, k_bias, cos, sin, True, WIDTH, WIDTH, HEAD_DIM, BLOCK
    )
    q_even, q_odd, k_even, k_odd = qk_conv_rotary_columns(
        inputs, x + sequence * x_stride, ring + 4 * row, now, WIDTH, WIDTH, BLOCK
    )
    even = tl.arange(0, BLOCK // 2) * 2
    mask = even < WIDTH
    tl.store(out_q + row + even, q_even, mask)
    tl.store(out_q + row + even + 1, q_odd, mask)
    tl.store(out_k + row + even, k_even, mask)
    tl.store(out_k + row + even + 1, k_odd, mask)
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
def gated_layer_norm_row(
    x_row, gate_row, weight_row, bias_row, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    """One sequence's row; the pointer is to it."""
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    value = x_row.to(tl.float32)
    centered = tl.where(mask, value - tl.sum(value, 0) / WIDTH, 0.0)
    rstd = tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
    normed = centered * rstd * weight_row.to(tl.float32) + bias_row.to(tl.float32)
    g = gate_row.to(tl.float32)
    g = g * tl.sigmoid(1.5957691216057308 * g * (1.0 + 0.044715 * g * g))
    tl.store(out + cols, g * normed, mask)


@triton.jit
def _gated_layer_norm_kernel(
    x, gate, gate_stride, weight, bias, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    sequence = tl.program_id(0).to(tl.int64)
    row = sequence * WIDTH
    gate_row = load_row(gate + sequence * gate_stride, True, WIDTH, BLOCK)
    weight_row, bias_row = load_row(weight, True, WIDTH, BLOCK), load_row(bias, True, WIDTH, BLOCK)
    x_row = load_row(x + row, True, WIDTH, BLOCK)
    gated_layer_norm_row(x_row, gate_row, weight_row, bias_row, out + row, WIDTH, BLOCK, EPS)


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
