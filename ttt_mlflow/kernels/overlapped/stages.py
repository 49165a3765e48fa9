"""The kernels of a step between its products. One program has a sequence, or a sequence and head."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from ttt_mlflow.kernels.block.fused import (
    add_rms_norm_row,
    conv_rms_norm_inputs,
    conv_rms_norm_row,
    gated_layer_norm_row,
    load_row,
)
from ttt_mlflow.kernels.overlapped.wait import wait_for_inputs
from ttt_mlflow.kernels.persistent.products import index_of
from ttt_mlflow.kernels.persistent.step import heads_inputs, heads_step


@triton.jit
def summed(partial, batch, like, SPLITS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A sequence's row of a product whose columns were divided (``PARTIAL``), rounded to the type of ``like``.

    partial: to the row of the first part. Zeros if there are no parts.
    """
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += load_row(partial + split * batch * WIDTH, True, WIDTH, BLOCK)
    return total.to(like.dtype.element_ty)


@triton.jit
def embedding_kernel(fed, embedding, hidden, WIDTH: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """The first kernel of a step. It starts when all before has ended, and so the step reads its own state alone."""
    if OVERLAP:
        gdc_launch_dependents()
    sequence = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    token = tl.load(fed + sequence)
    word = tl.load(embedding + token * WIDTH + cols, cols < WIDTH, 0.0)
    tl.store(hidden + sequence * WIDTH + cols, word, cols < WIDTH)


@triton.jit
def conv_norm_kernel(
    hidden, delta, batch, ring, position, conv_norm, conv_taps, conv_bias, norm, out_hidden, x,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * WIDTH
    newest = tl.load(position) % 4
    inputs = conv_rms_norm_inputs(
        ring + 4 * row, newest, conv_norm, conv_taps, conv_bias, norm, True, WIDTH, BLOCK
    )  # fmt: skip
    wait_for_inputs(OVERLAP)
    hidden_row = load_row(hidden + row, True, WIDTH, BLOCK)
    delta_row = summed(delta + row, batch, hidden, SPLITS, WIDTH, BLOCK)
    conv_rms_norm_row(
        inputs, hidden_row, delta_row, ring + 4 * row, newest, out_hidden + row, x + row, True, WIDTH, BLOCK, EPS
    )


@triton.jit
def heads_kernel(
    table, position, cos, sin, base_lr, projected, mixed,
    PROJECTED: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr,
    TOGETHER: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr, EPS: tl.constexpr, WARPS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Convolutions, rotary embedding, learning rate and the inner net. table: a layer's addresses."""
    unit = tl.program_id(0) * TOGETHER
    now = tl.load(position)
    inputs = heads_inputs(
        unit, True, table, now, mixed, cos, cos, sin, WIDTH, HEADS, HEAD_DIM, MLP, TOGETHER, SLOTS, WARPS
    )
    wait_for_inputs(OVERLAP)
    heads_step(
        unit, inputs, table, now, projected, mixed, base_lr,
        PROJECTED, WIDTH, HEADS, HEAD_DIM, MLP, TOGETHER, CHUNK, SLOTS, EPS, WARPS,
    )  # fmt: skip


@triton.jit
def gate_norm_kernel(
    mixed, projected, weight, bias, x,
    PROJECTED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0)
    weight_row, bias_row = load_row(weight, True, WIDTH, BLOCK), load_row(bias, True, WIDTH, BLOCK)
    wait_for_inputs(OVERLAP)
    gate_row = load_row(projected + sequence * PROJECTED + 2 * WIDTH, True, WIDTH, BLOCK)
    mixed_row = load_row(mixed + sequence * WIDTH, True, WIDTH, BLOCK)
    gated_layer_norm_row(mixed_row, gate_row, weight_row, bias_row, x + sequence * WIDTH, WIDTH, BLOCK, EPS)


@triton.jit
def add_norm_kernel(
    hidden, delta, batch, weight, out_hidden, x,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * WIDTH
    weight_row = load_row(weight, True, WIDTH, BLOCK)
    wait_for_inputs(OVERLAP)
    hidden_row = load_row(hidden + row, True, WIDTH, BLOCK)
    delta_row = summed(delta + row, batch, hidden, SPLITS, WIDTH, BLOCK)
    add_rms_norm_row(hidden_row, delta_row, weight_row, out_hidden + row, x + row, True, WIDTH, BLOCK, EPS)


@triton.jit
def sampling_kernel(
    best, next_tokens, position, count, BATCH: tl.constexpr, COUNT: tl.constexpr, SLOTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """The last kernel of a step: the largest logit of all programs, and the next position. COUNT: a power of two."""
    wait_for_inputs(OVERLAP)
    sequence = tl.program_id(0)
    others = tl.arange(0, COUNT)
    found = tl.load(best + others * BATCH + sequence, others < count, -0x8000000000000000)
    tl.store(next_tokens + sequence, index_of(tl.max(found, 0)))
    if sequence == 0:
        tl.store(position, (tl.load(position) + 1) % SLOTS)
