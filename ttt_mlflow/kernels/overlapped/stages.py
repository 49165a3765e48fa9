"""The kernels of a step that no other decode path has. One program has a sequence, or a sequence and head."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from ttt_mlflow.kernels.overlap import wait_for_inputs
from ttt_mlflow.kernels.overlapped.heads import head_inputs, head_step
from ttt_mlflow.kernels.overlapped.tiles import index_of


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
def heads_kernel(
    table, position, cos, sin, base_lr, projected, mixed,
    PROJECTED: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr,
    CHUNK: tl.constexpr, SLOTS: tl.constexpr, EPS: tl.constexpr, WARPS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Convolutions, rotary embedding, learning rate and the inner net. table: a layer's addresses."""
    unit = tl.program_id(0)
    now = tl.load(position)
    inputs = head_inputs(unit, table, now, mixed, cos, sin, WIDTH, HEADS, HEAD_DIM, MLP, SLOTS, WARPS)
    wait_for_inputs(OVERLAP)
    head_step(
        unit, inputs, table, now, projected, mixed, base_lr,
        PROJECTED, WIDTH, HEADS, HEAD_DIM, MLP, CHUNK, SLOTS, EPS, WARPS,
    )  # fmt: skip


@triton.jit
def sampling_kernel(
    best, next_tokens, position, count, COUNT: tl.constexpr, SLOTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The last kernel of a step: the largest logit of all programs, and the next position.

    COUNT: a power of two. SLOTS: positions after which the next one is 0 again; 0: there is always a next one.
    """
    wait_for_inputs(OVERLAP)
    sequence = tl.program_id(0)
    others = tl.arange(0, COUNT)
    found = tl.load(best + sequence * count + others, others < count, -0x8000000000000000)
    tl.store(next_tokens + sequence, index_of(tl.max(found, 0)))
    if sequence == 0:
        following = tl.load(position) + 1
        if SLOTS:
            following = following % SLOTS
        tl.store(position, following)
