"""The kernel: a list of stages that every program goes through together.

A layer's stages, in order; ``|`` is a meeting of all programs:

    norms and convolution | projection | inner net, a program a sequence and head | gate and norm | output projection |
    norm | gate and up projections with SwiGLU | down projection |

With REDUNDANT, every program computes the norms of all sequences for itself, which saves three of the eight meetings of
a layer; it pays at one or two sequences. A step begins with the embedding and ends with the head and the arg-max.

Buffers that two stages share are written in one and read in another, with a meeting between them. Only what a program
writes for itself alone, q, k, lr and with REDUNDANT x, it reads in the same stage.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.block.fused import (
    add_rms_norm_row,
    conv_rms_norm_row,
    gated_layer_norm_row,
    learning_rate,
    qk_conv_rotary_columns,
)
from ttt_mlflow.kernels.persistent.grid import meet
from ttt_mlflow.kernels.persistent.products import first_tile, index_of, product, request
from ttt_mlflow.kernels.ttt_linear.decode import linear_decode_head
from ttt_mlflow.kernels.ttt_mlp.decode import mlp_decode_head

# what a layer's row of the table of addresses holds, in this order; then the state and the slots
WEIGHTS = (
    "conv_norm", "conv_taps", "conv_bias", "seq_norm", "projection", "q_taps", "q_bias", "k_taps", "k_bias", "lr_bias",
    "eta", "norm_weight", "norm_bias", "post_norm_weight", "post_norm_bias", "o_proj", "ffn_norm", "gate_up",
    "down_proj", "conv_ring", "qk_ring",
)  # fmt: skip
INNER = tl.constexpr(len(WEIGHTS))  # the first of the state's addresses


@triton.jit
def at(row, column: tl.constexpr, like):
    """Address number ``column`` of a layer, as a pointer to what ``like`` points to."""
    return tl.multiple_of(tl.load(row + column).to(like.dtype), 16)


@triton.jit
def rows_are_there(arrived, failed, times, met, patience, REDUNDANT: tl.constexpr, TIMELINE: tl.constexpr):
    """Wait for the rows that the next product takes: for this program's own threads, or for all programs."""
    if REDUNDANT:
        tl.debug_barrier()
    else:
        met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
    return met, patience


@triton.jit
def head_of_layer(
    unit, row, now, position, projected, q, k, lr, mixed, cos, sin, base_lr, eta_like,
    PROJECTED: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """One sequence and head: convolutions, rotary embedding, learning rate, and the inner net's decode step."""
    sequence, h = unit // HEADS, unit % HEADS
    first = h * HEAD_DIM
    BLOCK: tl.constexpr = triton.next_power_of_2(HEAD_DIM)
    qk_conv_rotary_columns(
        projected + sequence * PROJECTED + first, at(row, 20, q) + sequence * 4 * WIDTH + first, now,
        at(row, 5, q) + first, at(row, 6, q) + first, at(row, 7, q) + first, at(row, 8, q) + first, cos, sin,
        q + unit * HEAD_DIM, k + unit * HEAD_DIM, HEAD_DIM, WIDTH, HEAD_DIM, BLOCK,
    )  # fmt: skip
    logit = tl.load(projected + sequence * PROJECTED + 3 * WIDTH + h)
    tl.store(lr + unit, learning_rate(logit, tl.load(at(row, 9, q) + h), base_lr, HEAD_DIM))
    tl.debug_barrier()  # q, k and lr are read below by other threads
    eta, norm_weight, norm_bias, v = at(row, 10, eta_like), at(row, 11, q), at(row, 12, q), projected + WIDTH
    if MLP:
        mlp_decode_head(
            unit, q, k, v, PROJECTED, lr, eta, position, norm_weight, norm_bias,
            at(row, INNER, q), at(row, INNER + 1, q), at(row, INNER + 2, q), at(row, INNER + 3, q),
            at(row, INNER + 4, q), at(row, INNER + 5, q), at(row, INNER + 6, q), at(row, INNER + 7, q),
            mixed, HEADS, HEAD_DIM, BLOCK, TILE, 1, CHUNK, SLOTS, EPS,
        )  # fmt: skip
    else:
        linear_decode_head(
            unit, q, k, v, PROJECTED, lr, eta, position, norm_weight, norm_bias,
            at(row, INNER, q), at(row, INNER + 1, q), at(row, INNER + 2, q), at(row, INNER + 3, q),
            mixed, HEADS, HEAD_DIM, BLOCK, SLOTS, EPS,
        )  # fmt: skip


@triton.jit
def persistent_step_kernel(
    table, fed, position, embedding, last_norm, cos, sin, base_lr, batch,
    hidden, between, delta, x, projected, q, k, lr, mixed, inner, logits, best, next_tokens, arrived, failed, times,
    LAYERS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, INTERMEDIATE: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PROJECTED: tl.constexpr, VOCAB: tl.constexpr,
    PADDED_VOCAB: tl.constexpr, BATCH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_DOWN: tl.constexpr, WARPS: tl.constexpr, PROGRAMS: tl.constexpr, REDUNDANT: tl.constexpr, MLP: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr, EPS: tl.constexpr, PATIENCE: tl.constexpr,
    TIMELINE: tl.constexpr, AHEAD: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """One token of ``batch`` sequences; see :func:`ttt_mlflow.kernels.persistent.launch.persistent_step`."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    now = tl.load(position)
    newest = now % 4
    met, patience = 0, PATIENCE
    cols = tl.arange(0, BLOCK)
    own = x  # where this program finds the rows that it multiplies
    start, stride, keep = program, programs, True  # the sequences whose norms this program computes
    if REDUNDANT:
        own = x + program * BATCH * WIDTH
        start, stride, keep = 0, 1, program == 0

    for sequence in range(program, batch, programs):
        token = tl.load(fed + sequence)
        word = tl.load(embedding + token * WIDTH + cols, cols < WIDTH, 0.0)
        tl.store(hidden + sequence * WIDTH + cols, word, cols < WIDTH)
        tl.store(delta + sequence * WIDTH + cols, word * 0, cols < WIDTH)

    for layer in range(LAYERS):
        row = table + layer * COLUMNS
        weight = at(row, 4, hidden)
        ahead = first_tile(weight, PROJECTED, WIDTH, BLOCK_K, WARPS, False)
        met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
        for sequence in range(start, batch, stride):
            line = sequence * WIDTH
            conv_rms_norm_row(
                hidden + line, delta + line, at(row, 19, hidden) + 4 * line, newest, at(row, 0, hidden),
                at(row, 1, hidden), at(row, 2, hidden), at(row, 3, hidden), between + line, own + line, keep,
                WIDTH, BLOCK, EPS,
            )  # fmt: skip
        met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
        product(
            ahead, own, WIDTH, weight, projected, PROJECTED, batch, PROJECTED,
            PROJECTED, WIDTH, BATCH, BLOCK_K, WARPS, False, False,
        )  # fmt: skip
        met, patience = meet(arrived, failed, times, met, patience, TIMELINE)

        # programs without a head have nothing to do until the others meet them, and so has the memory
        if AHEAD and program >= batch * HEADS:
            request(at(row, 17, hidden), AHEAD, 2 * INTERMEDIATE, WIDTH, LINES, True)
        for unit in range(program, batch * HEADS, programs):
            head_of_layer(
                unit, row, now, position, projected, q, k, lr, mixed, cos, sin, base_lr, lr,
                PROJECTED, WIDTH, HEADS, HEAD_DIM, MLP, TILE, CHUNK, SLOTS, EPS,
            )  # fmt: skip
        weight = at(row, 15, hidden)
        ahead = first_tile(weight, WIDTH, WIDTH, BLOCK_K, WARPS, False)
        met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
        for sequence in range(start, batch, stride):
            line = sequence * WIDTH
            gated_layer_norm_row(
                mixed + line, projected + sequence * PROJECTED + 2 * WIDTH, at(row, 13, hidden), at(row, 14, hidden),
                own + line, WIDTH, BLOCK, EPS,
            )  # fmt: skip
        met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
        product(
            ahead, own, WIDTH, weight, delta, WIDTH, batch, WIDTH,
            WIDTH, WIDTH, BATCH, BLOCK_K, WARPS, False, False,
        )  # fmt: skip

        weight = at(row, 17, hidden)
        ahead = first_tile(weight, 2 * INTERMEDIATE, WIDTH, BLOCK_K, WARPS, True)
        met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
        for sequence in range(start, batch, stride):
            line = sequence * WIDTH
            add_rms_norm_row(
                between + line, delta + line, at(row, 16, hidden), hidden + line, own + line, keep, WIDTH, BLOCK, EPS
            )  # fmt: skip
        met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
        product(
            ahead, own, WIDTH, weight, inner, INTERMEDIATE, batch, INTERMEDIATE,
            2 * INTERMEDIATE, WIDTH, BATCH, BLOCK_K, WARPS, True, False,
        )  # fmt: skip
        weight = at(row, 18, hidden)
        ahead_down = first_tile(weight, WIDTH, INTERMEDIATE, BLOCK_DOWN, WARPS, False)
        met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
        product(
            ahead_down, inner, INTERMEDIATE, weight, delta, WIDTH, batch, WIDTH,
            WIDTH, INTERMEDIATE, BATCH, BLOCK_DOWN, WARPS, False, False,
        )  # fmt: skip

    ahead = first_tile(embedding, PADDED_VOCAB, WIDTH, BLOCK_K, WARPS, False)
    met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
    for sequence in range(start, batch, stride):
        line = sequence * WIDTH
        add_rms_norm_row(
            hidden + line, delta + line, last_norm, between + line, own + line, keep, WIDTH, BLOCK, EPS
        )  # fmt: skip
    met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
    own_best = product(
        ahead, own, WIDTH, embedding, logits, VOCAB, batch, VOCAB,
        PADDED_VOCAB, WIDTH, BATCH, BLOCK_K, WARPS, False, True,
    )  # fmt: skip
    tl.store(best + program * BATCH + tl.arange(0, BATCH), own_best)
    met, patience = meet(arrived, failed, times, met, patience, TIMELINE)
    for sequence in range(program, batch, programs):
        others = tl.arange(0, PROGRAMS)
        found = tl.load(best + others * BATCH + sequence, others < programs, -0x8000000000000000)
        tl.store(next_tokens + sequence, index_of(tl.max(found, 0)))
    if program == 0:
        tl.store(position, (now + 1) % SLOTS)
