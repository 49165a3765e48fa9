"""The parts of a decode step outside the inner net and the products, for one sequence: rows of D, padded with zeros.

Device functions. What they compute is defined in :mod:`ttt_mlflow.kernels.block.reference`. The arithmetic is float32.
Rows are short (D ≤ 5504), so a row fits into a program's registers. What a function takes that depends on no other
stage of the step is loaded by a function of its own, so that a kernel can request it early.
"""

import triton
import triton.language as tl


@triton.jit
def _rms_norm(x, weight, WIDTH: tl.constexpr, EPS: tl.constexpr):
    return x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + EPS) * weight


@triton.jit
def load_row(x, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A row of WIDTH, padded with zeros."""
    cols = tl.arange(0, BLOCK)
    return tl.load(x + cols, cols < WIDTH, 0.0)


@triton.jit
def load_sum(parts, batch, like, PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A sequence's row that is the sum of PARTS, which are ``batch`` rows apart, rounded to the type of ``like``.

    parts: a pointer to the row of the first one. Zeros without any.
    """
    if PARTS == 0:
        return tl.zeros((BLOCK,), like.dtype.element_ty)
    total = load_row(parts, WIDTH, BLOCK).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        total += load_row(parts + part * batch * WIDTH, WIDTH, BLOCK).to(tl.float32)
    return total.to(like.dtype.element_ty)


@triton.jit
def add_rms_norm_row(
    hidden_row, delta_row, weight_row, out_hidden, out,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """One sequence's row; the pointers are to it."""
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    x = hidden_row.to(tl.float32) + delta_row.to(tl.float32)
    x = x.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + cols, x, mask)
    tl.store(out + cols, _rms_norm(x, weight_row.to(tl.float32), WIDTH, EPS), mask)


@triton.jit
def conv_rms_norm_inputs(
    history,
    newest,
    conv_norm_weight,
    conv_weight,
    conv_bias,
    norm_weight,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What :func:`conv_rms_norm_row` takes that depends on no other stage of the step: weights, and older tokens."""
    old = (newest + 1) % 4
    older, oldest = (newest + 2) % 4, (newest + 3) % 4
    return (
        load_row(conv_norm_weight, WIDTH, BLOCK),
        load_row(conv_bias, WIDTH, BLOCK),
        load_row(history + old * WIDTH, WIDTH, BLOCK),
        load_row(history + older * WIDTH, WIDTH, BLOCK),
        load_row(history + oldest * WIDTH, WIDTH, BLOCK),
        load_row(conv_weight, WIDTH, BLOCK),
        load_row(conv_weight + WIDTH, WIDTH, BLOCK),
        load_row(conv_weight + 2 * WIDTH, WIDTH, BLOCK),
        load_row(conv_weight + 3 * WIDTH, WIDTH, BLOCK),
        load_row(norm_weight, WIDTH, BLOCK),
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
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):
    """One sequence's row; the pointers are to it. inputs: of :func:`conv_rms_norm_inputs`."""
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
    tl.store(history + newest * WIDTH + cols, normed, mask)

    x = (x + total).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out_hidden + cols, x, mask)
    tl.store(out + cols, _rms_norm(x, norm_row.to(tl.float32), WIDTH, EPS), mask)


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
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What :func:`qk_conv_rotary_columns` takes that depends on no other stage of the step: weights, older tokens."""
    newest = now % 4
    pairs = tl.arange(0, BLOCK // 2)
    cols = pairs[:, None] * 2 + tl.arange(0, 2)[None, :]  # pairs of neighboring dimensions: [BLOCK / 2, 2]
    mask = cols < COLUMNS
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
