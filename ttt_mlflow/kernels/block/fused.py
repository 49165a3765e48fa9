"""The decode step outside the inner net, in Triton: norms, causal convolutions, rotary embedding, gates.

Each function is the twin of the function of the same name in :mod:`ttt_mlflow.kernels.block.reference`, which defines
shapes and meaning. One program handles one sequence (one row of D). It reads every input once and writes every output
once. What it computes stands in :mod:`ttt_mlflow.kernels.block.rows`.

``overlap``, and OVERLAP of a kernel: the launch may begin before the previous kernel on the stream has ended (from
compute capability 9.0). Then weights, older tokens and the position are read before it has ended, so it must not write
them. PARTS and OVERLAP serve the steps of :mod:`ttt_mlflow.kernels.overlapped`.

Eager, compiled and replayed steps run the same kernels. Their results are therefore equal bit for bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.block.rows import (
    add_rms_norm_row,
    conv_rms_norm_inputs,
    conv_rms_norm_row,
    gated_layer_norm_row,
    learning_rate,
    load_row,
    load_sum,
    qk_conv_inputs,
    qk_conv_rotary_columns,
)
from ttt_mlflow.kernels.launch import overlaps
from ttt_mlflow.kernels.opaque import opaque
from ttt_mlflow.kernels.overlap import wait_for_inputs


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
def add_rms_norm_kernel(
    hidden, delta, batch, weight, out_hidden, out,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """delta: the sum of PARTS [B, D]."""
    row = tl.program_id(0).to(tl.int64) * WIDTH
    weight_row = load_row(weight, WIDTH, BLOCK)
    wait_for_inputs(OVERLAP)
    hidden_row = load_row(hidden + row, WIDTH, BLOCK)
    delta_row = load_sum(delta + row, batch, hidden, PARTS, WIDTH, BLOCK)
    add_rms_norm_row(hidden_row, delta_row, weight_row, out_hidden + row, out + row, WIDTH, BLOCK, EPS)


@opaque(shapes=_two_rows)
def add_rms_norm(hidden: Tensor, delta: Tensor, weight: Tensor, eps: float = NORM_EPS) -> tuple[Tensor, Tensor]:
    batch, width = hidden.shape
    out_hidden, out = _two_rows(hidden)
    block = triton.next_power_of_2(width)
    add_rms_norm_kernel[(batch,)](
        hidden, delta, batch, weight, out_hidden, out, width, block, eps, 1, False, num_warps=_warps(block),
    )  # fmt: skip
    return out_hidden, out


@triton.jit
def conv_rms_norm_kernel(
    hidden, delta, batch, ring, position, conv_norm_weight, conv_weight, conv_bias, norm_weight, out_hidden, out,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """delta: the sum of PARTS [B, D]."""
    row = tl.program_id(0).to(tl.int64) * WIDTH
    newest = tl.load(position) % 4
    inputs = conv_rms_norm_inputs(
        ring + 4 * row, newest, conv_norm_weight, conv_weight, conv_bias, norm_weight, WIDTH, BLOCK
    )
    wait_for_inputs(OVERLAP)
    hidden_row = load_row(hidden + row, WIDTH, BLOCK)
    delta_row = load_sum(delta + row, batch, hidden, PARTS, WIDTH, BLOCK)
    conv_rms_norm_row(
        inputs, hidden_row, delta_row, ring + 4 * row, newest, out_hidden + row, out + row, WIDTH, BLOCK, EPS
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
    conv_rms_norm_kernel[(batch,)](
        hidden, delta, batch, ring, position, conv_norm_weight, conv_weight, conv_bias, norm_weight,
        out_hidden, out, width, block, eps, 1, False, num_warps=_warps(block),
    )  # fmt: skip
    return out_hidden, out


@triton.jit
def qk_conv_rotary_kernel(
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
    RELEASE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if RELEASE:
        gdc_launch_dependents()  # meanwhile, the next kernel (decode) reads its state
    sequence = tl.program_id(0).to(tl.int64)
    row = sequence * WIDTH
    now = tl.load(position)
    inputs = qk_conv_inputs(
        ring + 4 * row, now, q_weight, q_bias, k_weight, k_bias, cos, sin, WIDTH, WIDTH, HEAD_DIM, BLOCK
    )
    if OVERLAP:
        gdc_wait()
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
    *,
    overlap: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, width), heads = x.shape, lr_logits.shape[1]
    q, k, lr = _qk_lr(x, lr_logits)
    block = triton.next_power_of_2(width)
    release = overlaps(x.device)
    overlap = overlap and release
    qk_conv_rotary_kernel[(batch,)](
        x, x.stride(0), lr_logits, lr_logits.stride(0), ring, position, q_weight, q_bias, k_weight, k_bias, lr_bias,
        cos, sin, base_lr, q, k, lr, width, heads, width // heads, block, triton.next_power_of_2(heads),
        release, overlap, num_warps=_warps(block), launch_pdl=overlap,
    )  # fmt: skip
    return q, k, lr


@triton.jit
def gated_layer_norm_kernel(
    x, gate, gate_stride, weight, bias, out,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    row = sequence * WIDTH
    weight_row, bias_row = load_row(weight, WIDTH, BLOCK), load_row(bias, WIDTH, BLOCK)
    wait_for_inputs(OVERLAP)
    gate_row = load_row(gate + sequence * gate_stride, WIDTH, BLOCK)
    x_row = load_row(x + row, WIDTH, BLOCK)
    gated_layer_norm_row(x_row, gate_row, weight_row, bias_row, out + row, WIDTH, BLOCK, EPS)


@opaque(shapes=_one_row)
def gated_layer_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    batch, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    gated_layer_norm_kernel[(batch,)](
        x, gate, gate.stride(0), weight, bias, out, width, block, eps, False, num_warps=_warps(block),
    )  # fmt: skip
    return out


@triton.jit
def swiglu_kernel(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
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
    swiglu_kernel[(batch, triton.cdiv(width, block))](gate_up, out, width, block, num_warps=4)
    return out


def _warps(block: int) -> int:
    return 4 if block <= 2048 else 8
