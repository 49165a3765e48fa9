"""A layer outside its inner net, for whole prompts, in Triton: norms, causal convolutions, rotary embedding, gates.

Each function is the twin of the function of the same name in :mod:`ttt_mlflow.kernels.block.prefill_reference`, which
defines shapes and meaning. The arithmetic is float32. All of these kernels move bytes; a program therefore keeps the
weights in registers and processes several tokens, and the convolutions keep the last three inputs. The next token's
inputs are loaded while a token is computed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import NORM_EPS

TOKENS = 64  # of one sequence, per program of the first convolution
QK_TOKENS = 16  # the same, of the convolution of Q and K
ROWS = 8  # tokens per program of the other kernels
COLUMNS = 512  # per program of the convolution of Q and K


@triton.jit
def _normed(x, weight, WIDTH: tl.constexpr, EPS: tl.constexpr):
    return x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + EPS) * weight


@triton.jit
def _two_rstd(a, b, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """The reciprocal root mean squares of two rows, with one exchange among the warps."""
    squares_a, squares_b = tl.split(tl.sum(tl.join(a * a, b * b), 0))
    return tl.rsqrt(squares_a / WIDTH + EPS), tl.rsqrt(squares_b / WIDTH + EPS)


@triton.jit
def conv_rms_norm_kernel(
    hidden,
    ring,
    position,
    conv_norm_weight,
    conv_weight,
    conv_bias,
    norm_weight,
    out_hidden,
    out,
    out_ring,
    length,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    EPS: tl.constexpr,
):
    dtype = out.dtype.element_ty
    pieces = tl.cdiv(length, TOKENS)
    sequence = (tl.program_id(0) // pieces).to(tl.int64)
    first = tl.program_id(0) % pieces * TOKENS
    last = tl.minimum(first + TOKENS, length)
    start = tl.load(position)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    weight = tl.load(conv_norm_weight + cols, mask, 0.0).to(tl.float32)
    norm = tl.load(norm_weight + cols, mask, 0.0).to(tl.float32)
    bias = tl.load(conv_bias + cols, mask, 0.0).to(tl.float32)
    tap0 = tl.load(conv_weight + cols, mask, 0.0).to(tl.float32)
    tap1 = tl.load(conv_weight + WIDTH + cols, mask, 0.0).to(tl.float32)
    tap2 = tl.load(conv_weight + 2 * WIDTH + cols, mask, 0.0).to(tl.float32)
    tap3 = tl.load(conv_weight + 3 * WIDTH + cols, mask, 0.0).to(tl.float32)
    rows = hidden + sequence * length * WIDTH + cols
    history = ring + sequence * 4 * WIDTH + cols
    if first == 0:  # the inputs before the prompt
        old0 = tl.load(history + (start + 1) % 4 * WIDTH, mask, 0.0)
        old1 = tl.load(history + (start + 2) % 4 * WIDTH, mask, 0.0)
        old2 = tl.load(history + (start + 3) % 4 * WIDTH, mask, 0.0)
    else:
        old0 = tl.load(rows + (first - 3) * WIDTH, mask, 0.0).to(tl.float32)
        old0 = _normed(old0, weight, WIDTH, EPS).to(dtype)
        old1 = tl.load(rows + (first - 2) * WIDTH, mask, 0.0).to(tl.float32)
        old1 = _normed(old1, weight, WIDTH, EPS).to(dtype)
        old2 = tl.load(rows + (first - 1) * WIDTH, mask, 0.0).to(tl.float32)
        old2 = _normed(old2, weight, WIDTH, EPS).to(dtype)
    at = sequence * length * WIDTH + cols
    next_a = tl.load(rows + first * WIDTH, mask, 0.0)
    next_b = tl.load(rows + (first + 1) * WIDTH, mask & (first + 1 < last), 0.0)
    for token in range(first, last, 2):
        a, b = next_a.to(tl.float32), next_b.to(tl.float32)
        next_a = tl.load(rows + (token + 2) * WIDTH, mask & (token + 2 < last), 0.0)
        next_b = tl.load(rows + (token + 3) * WIDTH, mask & (token + 3 < last), 0.0)
        rstd_a, rstd_b = _two_rstd(a, b, WIDTH, EPS)
        new_a, new_b = (a * rstd_a * weight).to(dtype), (b * rstd_b * weight).to(dtype)
        total = bias + old0.to(tl.float32) * tap0
        total += old1.to(tl.float32) * tap1
        total += old2.to(tl.float32) * tap2
        total += new_a.to(tl.float32) * tap3
        a = (a + total).to(dtype)
        total = bias + old1.to(tl.float32) * tap0
        total += old2.to(tl.float32) * tap1
        total += new_a.to(tl.float32) * tap2
        total += new_b.to(tl.float32) * tap3
        b = (b + total).to(dtype)
        both = token + 1 < last
        tl.store(out_hidden + at + token * WIDTH, a, mask)
        tl.store(out_hidden + at + (token + 1) * WIDTH, b, mask & both)
        a, b = a.to(tl.float32), b.to(tl.float32)
        rstd_a, rstd_b = _two_rstd(a, b, WIDTH, EPS)
        tl.store(out + at + token * WIDTH, a * rstd_a * norm, mask)
        tl.store(out + at + (token + 1) * WIDTH, b * rstd_b * norm, mask & both)
        if both:
            old0, old1, old2 = old2, new_a, new_b
        else:
            old0, old1, old2 = old1, old2, new_a
    if last == length:  # the last four inputs, for the token after the prompt
        now = start + length
        kept = out_ring + sequence * 4 * WIDTH + cols
        oldest = tl.load(history + now % 4 * WIDTH, mask & (length < 4), 0.0)
        if length >= 4:
            before = tl.load(rows + (length - 4) * WIDTH, mask, 0.0).to(tl.float32)
            oldest = _normed(before, weight, WIDTH, EPS).to(dtype)
        tl.store(kept + now % 4 * WIDTH, oldest, mask)
        tl.store(kept + (now + 1) % 4 * WIDTH, old0, mask)
        tl.store(kept + (now + 2) % 4 * WIDTH, old1, mask)
        tl.store(kept + (now + 3) % 4 * WIDTH, old2, mask)


def conv_rms_norm(
    hidden: Tensor,
    ring: Tensor,
    position: Tensor,
    conv_norm_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    norm_weight: Tensor,
    eps: float = NORM_EPS,
) -> tuple[Tensor, Tensor]:
    batch, length, width = hidden.shape
    out_hidden, out, out_ring = torch.empty_like(hidden), torch.empty_like(hidden), torch.empty_like(ring)
    block = triton.next_power_of_2(width)
    conv_rms_norm_kernel[(batch * triton.cdiv(length, TOKENS),)](
        hidden, ring, position, conv_norm_weight, conv_weight, conv_bias, norm_weight, out_hidden, out, out_ring,
        length, width, block, TOKENS, eps, num_warps=_warps(block), maxnreg=128,
    )  # fmt: skip
    ring.copy_(out_ring)  # other programs still read the ring while the last one has the new inputs
    return out_hidden, out


@triton.jit
def _rotated(x, c, s, COLUMNS: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, (COLUMNS // 2, 2)))
    return tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), (COLUMNS,))


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
    out_ring,
    length,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
):
    blocks: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    block = tl.program_id(0) % blocks
    piece = tl.program_id(0) // blocks
    pieces = tl.cdiv(length, TOKENS)
    sequence = (piece // pieces).to(tl.int64)
    first = piece % pieces * TOKENS
    last = tl.minimum(first + TOKENS, length)
    start = tl.load(position)
    cols = block * COLUMNS + tl.arange(0, COLUMNS)
    mask = cols < WIDTH
    q0 = tl.load(q_weight + cols, mask, 0.0).to(tl.float32)
    q1 = tl.load(q_weight + WIDTH + cols, mask, 0.0).to(tl.float32)
    q2 = tl.load(q_weight + 2 * WIDTH + cols, mask, 0.0).to(tl.float32)
    q3 = tl.load(q_weight + 3 * WIDTH + cols, mask, 0.0).to(tl.float32)
    k0 = tl.load(k_weight + cols, mask, 0.0).to(tl.float32)
    k1 = tl.load(k_weight + WIDTH + cols, mask, 0.0).to(tl.float32)
    k2 = tl.load(k_weight + 2 * WIDTH + cols, mask, 0.0).to(tl.float32)
    k3 = tl.load(k_weight + 3 * WIDTH + cols, mask, 0.0).to(tl.float32)
    bias_q = tl.load(q_bias + cols, mask, 0.0).to(tl.float32)
    bias_k = tl.load(k_bias + cols, mask, 0.0).to(tl.float32)
    rows = x + sequence * length * x_stride + cols
    history = ring + sequence * 4 * WIDTH + cols
    if first == 0:  # the inputs before the prompt
        old0 = tl.load(history + (start + 1) % 4 * WIDTH, mask, 0.0)
        old1 = tl.load(history + (start + 2) % 4 * WIDTH, mask, 0.0)
        old2 = tl.load(history + (start + 3) % 4 * WIDTH, mask, 0.0)
    else:
        old0 = tl.load(rows + (first - 3) * x_stride, mask, 0.0)
        old1 = tl.load(rows + (first - 2) * x_stride, mask, 0.0)
        old2 = tl.load(rows + (first - 1) * x_stride, mask, 0.0)
    at = sequence * length * WIDTH + cols
    pairs = (block * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)) % (HEAD_DIM // 2)
    ahead0 = tl.load(rows + first * x_stride, mask, 0.0)
    ahead1 = tl.load(rows + (first + 1) * x_stride, mask & (first + 1 < last), 0.0)
    ahead2 = tl.load(rows + (first + 2) * x_stride, mask & (first + 2 < last), 0.0)
    for token in range(first, last):
        new = ahead0
        ahead0, ahead1 = ahead1, ahead2
        ahead2 = tl.load(rows + (token + 3) * x_stride, mask & (token + 3 < last), 0.0)
        frequency = (start + token) % 16 * (HEAD_DIM // 2) + pairs
        c, s = tl.load(cos + frequency), tl.load(sin + frequency)
        q = bias_q + old0.to(tl.float32) * q0
        q += old1.to(tl.float32) * q1
        q += old2.to(tl.float32) * q2
        q += new.to(tl.float32) * q3
        k = bias_k + old0.to(tl.float32) * k0
        k += old1.to(tl.float32) * k1
        k += old2.to(tl.float32) * k2
        k += new.to(tl.float32) * k3
        tl.store(out_q + at + token * WIDTH, _rotated(q, c, s, COLUMNS), mask)
        tl.store(out_k + at + token * WIDTH, _rotated(k, c, s, COLUMNS), mask)
        old0, old1, old2 = old1, old2, new
    if last == length:  # the last four inputs, for the token after the prompt
        now = start + length
        kept = out_ring + sequence * 4 * WIDTH + cols
        oldest = tl.load(history + now % 4 * WIDTH, mask & (length < 4), 0.0)
        if length >= 4:
            oldest = tl.load(rows + (length - 4) * x_stride, mask, 0.0)
        tl.store(kept + now % 4 * WIDTH, oldest, mask)
        tl.store(kept + (now + 1) % 4 * WIDTH, old0, mask)
        tl.store(kept + (now + 2) % 4 * WIDTH, old1, mask)
        tl.store(kept + (now + 3) % 4 * WIDTH, old2, mask)
    if block == 0:
        heads = tl.arange(0, HEADS_BLOCK)[None, :]
        tokens = first + tl.arange(0, TOKENS)[:, None]
        some = (heads < HEADS) & (tokens < length)
        logit = tl.load(lr_logits + (sequence * length + tokens) * lr_stride + heads, some, 0.0).to(tl.float32)
        logit += tl.load(lr_bias + heads, heads < HEADS, 0.0).to(tl.float32)
        rate = base_lr * tl.sigmoid(logit) / HEAD_DIM
        tl.store(out_lr + (sequence * HEADS + heads) * length + tokens, rate, some)


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
    (batch, length, width), heads = x.shape, lr_logits.shape[-1]
    q = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    k, out_ring = torch.empty_like(q), torch.empty_like(ring)
    lr = torch.empty(batch, heads, length, dtype=torch.float32, device=x.device)
    qk_conv_rotary_kernel[(batch * triton.cdiv(length, QK_TOKENS) * triton.cdiv(width, COLUMNS),)](
        x, x.stride(1), lr_logits, lr_logits.stride(1), ring, position, q_weight, q_bias, k_weight, k_bias, lr_bias,
        cos, sin, base_lr, q, k, lr, out_ring, length, width, heads, width // heads, QK_TOKENS, COLUMNS,
        triton.next_power_of_2(heads), num_warps=2,
    )  # fmt: skip
    ring.copy_(out_ring)
    return q, k, lr


@triton.jit
def gated_layer_norm_kernel(
    x,
    gate,
    gate_stride,
    weight,
    bias,
    out,
    count,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    EPS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    last = tl.minimum(first + ROWS, count)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    scale = tl.load(weight + cols, mask, 0.0).to(tl.float32)
    shift = tl.load(bias + cols, mask, 0.0).to(tl.float32)
    next_x = tl.load(x + first * WIDTH + cols, mask, 0.0)
    next_gate = tl.load(gate + first * gate_stride + cols, mask, 0.0)
    for row in range(first, last):
        value = next_x.to(tl.float32)
        g = next_gate.to(tl.float32)
        more = mask & (row + 1 < last)
        next_x = tl.load(x + (row + 1) * WIDTH + cols, more, 0.0)
        next_gate = tl.load(gate + (row + 1) * gate_stride + cols, more, 0.0)
        centered = tl.where(mask, value - tl.sum(value, 0) / WIDTH, 0.0)
        rstd = tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
        g = g * tl.sigmoid(1.5957691216057308 * g * (1.0 + 0.044715 * g * g))
        tl.store(out + row * WIDTH + cols, g * (centered * rstd * scale + shift), mask)


def gated_layer_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    width = x.shape[-1]
    out, count = torch.empty_like(x), x.numel() // width
    block = triton.next_power_of_2(width)
    gated_layer_norm_kernel[(triton.cdiv(count, ROWS),)](
        x, gate, gate.stride(-2), weight, bias, out, count, width, block, ROWS, eps, num_warps=_warps(block)
    )
    return out


@triton.jit
def rms_norm_kernel(
    x, weight, out, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    last = tl.minimum(first + ROWS, count)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    scale = tl.load(weight + cols, mask, 0.0).to(tl.float32)
    following = tl.load(x + first * WIDTH + cols, mask, 0.0)
    for row in range(first, last):
        value = following.to(tl.float32)
        following = tl.load(x + (row + 1) * WIDTH + cols, mask & (row + 1 < last), 0.0)
        tl.store(out + row * WIDTH + cols, _normed(value, scale, WIDTH, EPS), mask)


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    width = x.shape[-1]
    out, count = torch.empty_like(x), x.numel() // width
    block = triton.next_power_of_2(width)
    rms_norm_kernel[(triton.cdiv(count, ROWS),)](
        x, weight, out, count, width, block, ROWS, eps, num_warps=_warps(block)
    )
    return out


@triton.jit
def swiglu_kernel(gate_up, out, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(0).to(tl.int64) * ROWS
    for index in tl.static_range(ROWS):
        row = first + index
        mask = (cols < WIDTH) & (row < count)
        gate = tl.load(gate_up + row * 2 * WIDTH + cols, mask, 0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + cols, mask, 0.0).to(tl.float32)
        tl.store(out + row * WIDTH + cols, gate * tl.sigmoid(gate) * up, mask)


def swiglu(gate_up: Tensor) -> Tensor:
    width = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], width)
    count, block = out.numel() // width, 1024
    swiglu_kernel[(triton.cdiv(count, 4), triton.cdiv(width, block))](gate_up, out, count, width, block, 4, num_warps=4)
    return out


def _warps(block: int) -> int:
    """Eight elements per thread, so that the weights fit into the registers."""
    return max(1, min(block // 256, 16))
