"""The kernel: a list of stages that every program goes through together.

A layer's stages, in order; ``|`` is a meeting of all programs:

    norms and convolution | projection | inner net, a program a sequence and head | gate and norm | output projection |
    norm | gate and up projections with SwiGLU | down projection |

With REDUNDANT, every program computes the norms of all sequences for itself, which saves three of the eight meetings of
a layer; it pays at one or two sequences. A step begins with the embedding and ends with the head and the arg-max.

Buffers that two stages share are written in one and read in another, with a meeting between them. Only what a program
writes for itself alone, with REDUNDANT x, it reads in the same stage. Weights, older tokens and the state depend on no
other program: a program requests them when it has come to a meeting, and they travel while it waits for the others.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.block.rows import (
    add_rms_norm_row,
    conv_rms_norm_inputs,
    conv_rms_norm_row,
    gated_layer_norm_row,
    learning_rate,
    load_row,
    qk_conv_inputs,
    qk_conv_rotary_columns,
)
from ttt_mlflow.kernels.persistent.grid import arrive, wait
from ttt_mlflow.kernels.persistent.products import all_tiles, first_tiles, index_of, product
from ttt_mlflow.kernels.ttt_linear.decode_held import linear_heads_state, linear_heads_step
from ttt_mlflow.kernels.ttt_mlp.decode_held import mlp_head_state, mlp_head_step

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
def state_pointers(row, like, MLP: tl.constexpr):
    """Pointers to a layer's state and slots, in the order of the inner net's functions."""
    some = (at(row, INNER, like), at(row, INNER + 1, like), at(row, INNER + 2, like), at(row, INNER + 3, like))
    if MLP:
        others = (at(row, INNER + 4, like), at(row, INNER + 5, like), at(row, INNER + 6, like))
        some = some + others + (at(row, INNER + 7, like),)
    return some


@triton.jit
def rows_are_there(arrived, failed, times, met, patience, REDUNDANT: tl.constexpr, TIMELINE: tl.constexpr):
    """Wait for the rows that the next product takes: for this program's own threads, or for all programs."""
    if REDUNDANT:
        tl.debug_barrier()
    else:
        met = arrive(arrived, times, met, TIMELINE)
        patience = wait(arrived, failed, times, met, patience, TIMELINE)
    return met, patience


@triton.jit
def heads_inputs(
    unit, wanted, row, now, like, float_like, cos, sin,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr, TOGETHER: tl.constexpr,
    SLOTS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """What :func:`heads_step` takes that depends on no other stage: weights, older tokens, and the state."""
    sequence, h = unit // HEADS, unit % HEADS
    first = h * HEAD_DIM
    COLUMNS: tl.constexpr = TOGETHER * HEAD_DIM
    convolution = qk_conv_inputs(
        at(row, 20, like) + sequence * 4 * WIDTH + first, now, at(row, 5, like) + first, at(row, 6, like) + first,
        at(row, 7, like) + first, at(row, 8, like) + first, cos, sin, wanted, COLUMNS, WIDTH, HEAD_DIM, COLUMNS,
    )  # fmt: skip
    eta, norm_weight, norm_bias = at(row, 10, float_like), at(row, 11, like), at(row, 12, like)
    if MLP:
        lr_bias = tl.load(at(row, 9, like) + h)
        state = mlp_head_state(
            unit, now, wanted, eta, norm_weight, norm_bias,
            state_pointers(row, like, MLP),
            HEADS, HEAD_DIM, SLOTS, WARPS,
        )  # fmt: skip
    else:
        lr_bias = tl.load(at(row, 9, like) + h + tl.arange(0, TOGETHER))
        state = linear_heads_state(
            unit, now, wanted, eta, norm_weight, norm_bias,
            state_pointers(row, like, MLP),
            TOGETHER, HEADS, HEAD_DIM, SLOTS,
        )  # fmt: skip
    return convolution, lr_bias, state


@triton.jit
def heads_step(
    unit, inputs, row, now, projected, mixed, base_lr,
    PROJECTED: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr,
    TOGETHER: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr, EPS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """TOGETHER heads of a sequence: convolutions, rotary embedding, learning rate, and the inner net's decode step.

    ``unit``: the first one, counting sequences and heads, sequence-major.
    """
    convolution, lr_bias, state = inputs
    sequence, h = unit // HEADS, unit % HEADS
    first = h * HEAD_DIM
    COLUMNS: tl.constexpr = TOGETHER * HEAD_DIM
    projected += sequence * PROJECTED
    v = tl.load(projected + WIDTH + first + tl.arange(0, COLUMNS))
    logits = projected + 3 * WIDTH + h
    q_even, q_odd, k_even, k_odd = qk_conv_rotary_columns(
        convolution, projected + first, at(row, 20, projected) + sequence * 4 * WIDTH + first, now,
        COLUMNS, WIDTH, COLUMNS,
    )  # fmt: skip
    q, k = tl.join(q_even, q_odd).to(v.dtype), tl.join(k_even, k_odd).to(v.dtype)
    if MLP:
        mlp_head_step(
            unit, now, state, tl.reshape(k, (HEAD_DIM,)), tl.reshape(q, (HEAD_DIM,)), v,
            learning_rate(tl.load(logits), lr_bias, base_lr, HEAD_DIM),
            state_pointers(row, mixed, MLP),
            mixed, HEAD_DIM, CHUNK, SLOTS, EPS, WARPS,
        )  # fmt: skip
    else:
        linear_heads_step(
            unit, now, state, tl.reshape(k, (TOGETHER, HEAD_DIM)), tl.reshape(q, (TOGETHER, HEAD_DIM)),
            tl.reshape(v, (TOGETHER, HEAD_DIM)),
            learning_rate(tl.load(logits + tl.arange(0, TOGETHER)), lr_bias, base_lr, HEAD_DIM),
            state_pointers(row, mixed, MLP),
            mixed, TOGETHER, HEAD_DIM, SLOTS, EPS,
        )  # fmt: skip


@triton.jit
def persistent_step_kernel(
    table, fed, position, embedding, last_norm, cos, sin, base_lr, batch,
    hidden, between, delta, x, projected, mixed, inner, logits, best, next_tokens, arrived, failed, times,
    LAYERS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, INTERMEDIATE: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PROJECTED: tl.constexpr, VOCAB: tl.constexpr,
    PADDED_VOCAB: tl.constexpr, BATCH: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
    SPAN_DOWN: tl.constexpr, WARPS: tl.constexpr, PROGRAMS: tl.constexpr, REDUNDANT: tl.constexpr, MLP: tl.constexpr,
    SEQUENCES: tl.constexpr, TOGETHER: tl.constexpr, ROUNDS: tl.constexpr, CHUNK: tl.constexpr, SLOTS: tl.constexpr,
    EPS: tl.constexpr,
    PATIENCE: tl.constexpr,
    TIMELINE: tl.constexpr, EARLY: tl.constexpr, GRID: tl.constexpr,
):  # fmt: skip
    """One token of ``batch`` sequences; see :class:`ttt_mlflow.kernels.persistent.launch.PersistentStep`.

    A program computes the norms of SEQUENCES, and has TOGETHER heads of one sequence in each of ROUNDS, at most.
    """
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
    mine, any_row = start * WIDTH, start < batch  # of this program's first sequence

    for sequence in range(program, batch, programs):
        token = tl.load(fed + sequence)
        word = tl.load(embedding + token * WIDTH + cols, cols < WIDTH, 0.0)
        tl.store(hidden + sequence * WIDTH + cols, word, cols < WIDTH)
        tl.store(delta + sequence * WIDTH + cols, word * 0, cols < WIDTH)
    met = arrive(arrived, times, met, TIMELINE)

    # each stage: say that this program has come, request what does not depend on the others, wait for them
    for layer in range(LAYERS):
        row = table + layer * COLUMNS
        ring, conv_norm, conv_taps = at(row, 19, hidden), at(row, 0, hidden), at(row, 1, hidden)
        conv_bias, seq_norm, weight = at(row, 2, hidden), at(row, 3, hidden), at(row, 4, hidden)
        inputs = conv_rms_norm_inputs(
            ring + 4 * mine, newest, conv_norm, conv_taps, conv_bias, seq_norm, any_row, WIDTH, BLOCK
        )
        tiles = first_tiles(weight, PROJECTED, WIDTH, SPAN, WARPS, False, EARLY, GRID)
        patience = wait(arrived, failed, times, met, patience, TIMELINE)
        hidden_row, delta_row = (
            load_row(hidden + mine, any_row, WIDTH, BLOCK),
            load_row(delta + mine, any_row, WIDTH, BLOCK),
        )
        tiles = all_tiles(tiles, weight, PROJECTED, WIDTH, SPAN, WARPS, False, EARLY, GRID)
        if any_row:
            conv_rms_norm_row(
                inputs, hidden_row, delta_row, ring + 4 * mine, newest, between + mine, own + mine, keep,
                WIDTH, BLOCK, EPS,
            )  # fmt: skip
        for more in tl.static_range(1, SEQUENCES):
            if start + more * stride < batch:
                line = (start + more * stride) * WIDTH
                others = conv_rms_norm_inputs(
                    ring + 4 * line, newest, conv_norm, conv_taps, conv_bias, seq_norm, True, WIDTH, BLOCK
                )
                conv_rms_norm_row(
                    others, load_row(hidden + line, True, WIDTH, BLOCK), load_row(delta + line, True, WIDTH, BLOCK),
                    ring + 4 * line, newest, between + line, own + line, keep, WIDTH, BLOCK, EPS,
                )  # fmt: skip
        met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
        product(
            tiles, own, WIDTH, weight, projected, PROJECTED, batch, PROJECTED,
            PROJECTED, WIDTH, BATCH, SPAN, WARPS, False, False, GRID,
        )  # fmt: skip
        met = arrive(arrived, times, met, TIMELINE)

        unit = program * TOGETHER
        if ROUNDS == 1:
            heads = heads_inputs(
                unit, unit < batch * HEADS, row, now, hidden, cos, cos, sin,
                WIDTH, HEADS, HEAD_DIM, MLP, TOGETHER, SLOTS, WARPS,
            )  # fmt: skip
        patience = wait(arrived, failed, times, met, patience, TIMELINE)
        if ROUNDS == 1:
            if unit < batch * HEADS:
                heads_step(
                    unit, heads, row, now, projected, mixed, base_lr,
                    PROJECTED, WIDTH, HEADS, HEAD_DIM, MLP, TOGETHER, CHUNK, SLOTS, EPS, WARPS,
                )  # fmt: skip
        else:
            for first in range(unit, batch * HEADS, programs * TOGETHER):
                some = heads_inputs(
                    first, True, row, now, hidden, cos, cos, sin,
                    WIDTH, HEADS, HEAD_DIM, MLP, TOGETHER, SLOTS, WARPS,
                )  # fmt: skip
                heads_step(
                    first, some, row, now, projected, mixed, base_lr,
                    PROJECTED, WIDTH, HEADS, HEAD_DIM, MLP, TOGETHER, CHUNK, SLOTS, EPS, WARPS,
                )  # fmt: skip
        met = arrive(arrived, times, met, TIMELINE)

        weight = at(row, 15, hidden)
        norm_row = load_row(at(row, 13, hidden), True, WIDTH, BLOCK)
        bias_row = load_row(at(row, 14, hidden), True, WIDTH, BLOCK)
        tiles = first_tiles(weight, WIDTH, WIDTH, SPAN, WARPS, False, EARLY, GRID)
        patience = wait(arrived, failed, times, met, patience, TIMELINE)
        gates = projected + 2 * WIDTH
        mixed_row = load_row(mixed + mine, any_row, WIDTH, BLOCK)
        gate_row = load_row(gates + start * PROJECTED, any_row, WIDTH, BLOCK)
        tiles = all_tiles(tiles, weight, WIDTH, WIDTH, SPAN, WARPS, False, EARLY, GRID)
        if any_row:
            gated_layer_norm_row(mixed_row, gate_row, norm_row, bias_row, own + mine, WIDTH, BLOCK, EPS)
        for more in tl.static_range(1, SEQUENCES):
            if start + more * stride < batch:
                line = (start + more * stride) * WIDTH
                gate_row = load_row(gates + (start + more * stride) * PROJECTED, True, WIDTH, BLOCK)
                gated_layer_norm_row(
                    load_row(mixed + line, True, WIDTH, BLOCK), gate_row, norm_row, bias_row, own + line,
                    WIDTH, BLOCK, EPS,
                )  # fmt: skip
        met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
        product(
            tiles, own, WIDTH, weight, delta, WIDTH, batch, WIDTH, WIDTH, WIDTH, BATCH, SPAN, WARPS, False, False,
            GRID,
        )  # fmt: skip
        met = arrive(arrived, times, met, TIMELINE)

        weight = at(row, 17, hidden)
        norm_row = load_row(at(row, 16, hidden), True, WIDTH, BLOCK)
        tiles = first_tiles(weight, 2 * INTERMEDIATE, WIDTH, SPAN, WARPS, True, EARLY, GRID)
        patience = wait(arrived, failed, times, met, patience, TIMELINE)
        between_row, delta_row = (
            load_row(between + mine, any_row, WIDTH, BLOCK),
            load_row(delta + mine, any_row, WIDTH, BLOCK),
        )
        tiles = all_tiles(tiles, weight, 2 * INTERMEDIATE, WIDTH, SPAN, WARPS, True, EARLY, GRID)
        if any_row:
            add_rms_norm_row(
                between_row, delta_row, norm_row, hidden + mine, own + mine, keep, WIDTH, BLOCK, EPS
            )  # fmt: skip
        for more in tl.static_range(1, SEQUENCES):
            if start + more * stride < batch:
                line = (start + more * stride) * WIDTH
                add_rms_norm_row(
                    load_row(between + line, True, WIDTH, BLOCK), load_row(delta + line, True, WIDTH, BLOCK), norm_row,
                    hidden + line, own + line, keep, WIDTH, BLOCK, EPS,
                )  # fmt: skip
        met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
        product(
            tiles, own, WIDTH, weight, inner, INTERMEDIATE, batch, INTERMEDIATE,
            2 * INTERMEDIATE, WIDTH, BATCH, SPAN, WARPS, True, False, GRID,
        )  # fmt: skip
        met = arrive(arrived, times, met, TIMELINE)

        weight = at(row, 18, hidden)
        tiles = first_tiles(weight, WIDTH, INTERMEDIATE, SPAN_DOWN, WARPS, False, EARLY, GRID)
        patience = wait(arrived, failed, times, met, patience, TIMELINE)
        tiles = all_tiles(tiles, weight, WIDTH, INTERMEDIATE, SPAN_DOWN, WARPS, False, EARLY, GRID)
        product(
            tiles, inner, INTERMEDIATE, weight, delta, WIDTH, batch, WIDTH,
            WIDTH, INTERMEDIATE, BATCH, SPAN_DOWN, WARPS, False, False, GRID,
        )  # fmt: skip
        met = arrive(arrived, times, met, TIMELINE)

    norm_row = load_row(last_norm, True, WIDTH, BLOCK)
    tiles = first_tiles(embedding, PADDED_VOCAB, WIDTH, SPAN, WARPS, False, EARLY, GRID)
    patience = wait(arrived, failed, times, met, patience, TIMELINE)
    tiles = all_tiles(tiles, embedding, PADDED_VOCAB, WIDTH, SPAN, WARPS, False, EARLY, GRID)
    for sequence in range(start, batch, stride):
        line = sequence * WIDTH
        add_rms_norm_row(
            load_row(hidden + line, True, WIDTH, BLOCK), load_row(delta + line, True, WIDTH, BLOCK), norm_row,
            between + line, own + line, keep, WIDTH, BLOCK, EPS,
        )  # fmt: skip
    met, patience = rows_are_there(arrived, failed, times, met, patience, REDUNDANT, TIMELINE)
    own_best = product(
        tiles, own, WIDTH, embedding, logits, VOCAB, batch, VOCAB,
        PADDED_VOCAB, WIDTH, BATCH, SPAN, WARPS, False, True, GRID,
    )  # fmt: skip
    tl.store(best + program * BATCH + tl.arange(0, BATCH), own_best)
    met = arrive(arrived, times, met, TIMELINE)
    patience = wait(arrived, failed, times, met, patience, TIMELINE)
    for sequence in range(program, batch, programs):
        others = tl.arange(0, PROGRAMS)
        found = tl.load(best + others * BATCH + sequence, others < programs, -0x8000000000000000)
        tl.store(next_tokens + sequence, index_of(tl.max(found, 0)))
    if program == 0:
        tl.store(position, (now + 1) % SLOTS)
