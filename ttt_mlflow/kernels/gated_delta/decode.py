"""One decode step of a gated delta network's layer in Triton: convolutions, the gated delta rule, gated norm.

Twins: the functions of the same names in :mod:`ttt_mlflow.kernels.gated_delta.reference`, which define shapes and
meaning. flash-linear-attention's own recurrent kernel writes its new state to another tensor, which a captured graph
would have to copy back. Here the state is read and written in one place.

Layout of ``gated_delta_step``: one program for a few rows of one head's state [V, K], because a row needs no other row.
The program computes the lengths of q and k again, which is cheap: their 4 K bytes come from the cache. It reads and
writes each of its rows once. Bytes, per head and token: 8 K V for the state in float32, and vectors.
Limits: the state is float32 and contiguous, K at most 256 (padded to a power of two); any GPU, and Triton's
interpreter. Arithmetic is float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.checks import check_contiguous, check_tensor
from ttt_mlflow.kernels.gated_delta.reference import L2_EPS
from ttt_mlflow.kernels.launch import launch_options
from ttt_mlflow.kernels.opaque import opaque

ROWS = 8  # of the state, for a program of one warp: 64 registers of a thread hold 8 × 256 numbers
COLUMNS = 1024  # channels for a program of the convolution
MOST_KEYS = 256


@triton.jit
def short_conv_kernel(
    x, x_stride, ring, position, taps, out, WIDTH: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    sequence, block = program // BLOCKS, program % BLOCKS
    cols = block * BLOCK + tl.arange(0, BLOCK)
    mask = cols < WIDTH
    newest = tl.load(position) % 4
    own = tl.load(x + sequence * x_stride + cols, mask, 0.0)
    history = ring + sequence * 4 * WIDTH + cols
    total = own.to(tl.float32) * tl.load(taps + 3 * WIDTH + cols, mask, 0.0).to(tl.float32)
    for tap in tl.static_range(3):
        old = tl.load(history + (newest + 1 + tap) % 4 * WIDTH, mask, 0.0).to(tl.float32)
        total += old * tl.load(taps + tap * WIDTH + cols, mask, 0.0).to(tl.float32)
    tl.store(history + newest * WIDTH, own, mask)
    tl.store(out + sequence * WIDTH + cols, total * tl.sigmoid(total), mask)


@opaque(mutates=["ring"], shapes=lambda x, *_: x.new_empty(x.shape))
def short_conv(x: Tensor, ring: Tensor, position: Tensor, taps: Tensor) -> Tensor:
    """See :func:`ttt_mlflow.kernels.gated_delta.reference.short_conv`."""
    batch, width = x.shape
    check_tensor("ring", ring, (batch, 4, width), str(x.dtype).removeprefix("torch."), x.device)
    check_contiguous("ring", ring)
    out = x.new_empty(x.shape)
    blocks = triton.cdiv(width, COLUMNS)
    short_conv_kernel[(batch * blocks,)](
        x, x.stride(0), ring, position, taps, out, width, blocks, COLUMNS, num_warps=4
    )  # fmt: skip
    return out


@triton.jit
def gated_delta_step_kernel(
    qkv,
    decay,
    decay_stride,
    beta,
    beta_stride,
    a_log,
    dt_bias,
    state,
    out,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    EPS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    blocks: tl.constexpr = (VALUES + ROWS - 1) // ROWS
    head, block = program // blocks, program % blocks  # head: counts sequences and heads of the values
    sequence, group = head // GROUPS, head % GROUPS
    rows, cols = block * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    row_mask, mask = rows < VALUES, cols < KEYS
    tile = state + head * VALUES * KEYS + rows[:, None] * KEYS + cols[None, :]
    tile_mask = row_mask[:, None] & mask[None, :]
    s = tl.load(tile, tile_mask, 0.0)

    vectors = qkv + sequence * (2 * HEADS * KEYS + GROUPS * VALUES)
    queries = vectors + group // (GROUPS // HEADS) * KEYS
    q = tl.load(queries + cols, mask, 0.0).to(tl.float32)
    k = tl.load(queries + HEADS * KEYS + cols, mask, 0.0).to(tl.float32)
    v = tl.load(vectors + 2 * HEADS * KEYS + group * VALUES + rows, row_mask, 0.0).to(tl.float32)
    q *= tl.rsqrt(tl.sum(q * q, 0) + EPS) * tl.rsqrt(KEYS * 1.0)
    k *= tl.rsqrt(tl.sum(k * k, 0) + EPS)

    x = tl.load(decay + sequence * decay_stride + group).to(tl.float32) + tl.load(dt_bias + group).to(tl.float32)
    softplus = tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))
    s *= tl.exp(-tl.exp(tl.load(a_log + group).to(tl.float32)) * softplus)
    rate = tl.sigmoid(tl.load(beta + sequence * beta_stride + group).to(tl.float32))

    change = rate * (v - tl.sum(s * k[None, :], 1))
    s += change[:, None] * k[None, :]
    tl.store(tile, s, tile_mask)
    tl.store(out + head * VALUES + rows, tl.sum(s * q[None, :], 1), row_mask)


def _out(qkv: Tensor, decay: Tensor, beta: Tensor, a_log: Tensor, dt_bias: Tensor, state: Tensor) -> Tensor:
    return qkv.new_empty(qkv.shape[0], state.shape[1] * state.shape[2])


@opaque(mutates=["state"], shapes=_out)
def gated_delta_step(qkv: Tensor, decay: Tensor, beta: Tensor, a_log: Tensor, dt_bias: Tensor, state: Tensor) -> Tensor:
    """See :func:`ttt_mlflow.kernels.gated_delta.reference.gated_delta_step`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    if state.dim() != 4 or state.shape[3] > MOST_KEYS:
        raise ValueError(
            f"state has shape {tuple(state.shape)}, expected (sequences, heads, value dimension, key dimension) with "
            f"a key dimension of at most {MOST_KEYS}"
        )
    batch, groups, values, keys = state.shape
    check_tensor("state", state, (batch, groups, values, keys), "float32", qkv.device)
    check_contiguous("state", state)
    check_contiguous("qkv", qkv)
    heads = (qkv.shape[1] - groups * values) // (2 * keys)
    if heads < 1 or groups % heads or qkv.shape != (batch, 2 * heads * keys + groups * values):
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}, which holds no q and k for a state {tuple(state.shape)}")
    dtype = str(qkv.dtype).removeprefix("torch.")
    for name, logits in (("decay", decay), ("beta", beta)):
        check_tensor(name, logits, (batch, groups), dtype, qkv.device)
    out = _out(qkv, decay, beta, a_log, dt_bias, state)
    options = launch_options("gated_delta_step", qkv.device, state.dtype, keys)
    gated_delta_step_kernel[(batch * groups * triton.cdiv(values, ROWS),)](
        qkv, decay, decay.stride(0), beta, beta.stride(0), a_log, dt_bias, state, out,
        heads, groups, keys, values, triton.next_power_of_2(keys), ROWS, L2_EPS, **options,
    )  # fmt: skip
    return out


@triton.jit
def gated_rms_norm_kernel(
    x, gate, gate_stride, weight, out, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr
):
    head = tl.program_id(0).to(tl.int64)
    sequence, group = head // GROUPS, head % GROUPS
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    row = tl.load(x + head * WIDTH + cols, mask, 0.0).to(tl.float32)
    z = tl.load(gate + sequence * gate_stride + group * WIDTH + cols, mask, 0.0).to(tl.float32)
    row *= tl.rsqrt(tl.sum(row * row, 0) / WIDTH + EPS) * tl.load(weight + cols, mask, 0.0).to(tl.float32)
    tl.store(out + head * WIDTH + cols, row * z * tl.sigmoid(z), mask)


@opaque(shapes=lambda x, *_: torch.empty_like(x))
def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See :func:`ttt_mlflow.kernels.gated_delta.reference.gated_rms_norm`."""
    check_contiguous("x", x)
    batch, width = x.shape[0], weight.shape[0]
    groups = x.shape[1] // width
    out = torch.empty_like(x)
    gated_rms_norm_kernel[(batch * groups,)](
        x, gate, gate.stride(0), weight, out, groups, width, triton.next_power_of_2(width), eps, num_warps=4
    )  # fmt: skip
    return out
