"""The inner net of one sequence and head with the convolutions before it: device functions."""

import triton
import triton.language as tl

from ttt_mlflow.kernels.block.rows import learning_rate, qk_conv_inputs, qk_conv_rotary_columns
from ttt_mlflow.kernels.ttt_linear.decode_held import linear_head_state, linear_head_step
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
def head_inputs(
    unit, row, now, like, cos, sin,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr, SLOTS: tl.constexpr,
    WARPS: tl.constexpr,
):  # fmt: skip
    """What :func:`head_step` takes that depends on no other kernel: weights, older tokens, and the state."""
    sequence, h = unit // HEADS, unit % HEADS
    first = h * HEAD_DIM
    convolution = qk_conv_inputs(
        at(row, 20, like) + sequence * 4 * WIDTH + first, now, at(row, 5, like) + first, at(row, 6, like) + first,
        at(row, 7, like) + first, at(row, 8, like) + first, cos, sin, HEAD_DIM, WIDTH, HEAD_DIM, HEAD_DIM,
    )  # fmt: skip
    lr_bias = tl.load(at(row, 9, like) + h)
    eta, norm_weight, norm_bias = at(row, 10, cos), at(row, 11, like), at(row, 12, like)
    pointers = state_pointers(row, like, MLP)
    if MLP:
        state = mlp_head_state(unit, now, eta, norm_weight, norm_bias, pointers, HEADS, HEAD_DIM, SLOTS, WARPS)
    else:
        state = linear_head_state(unit, now, eta, norm_weight, norm_bias, pointers, HEADS, HEAD_DIM, SLOTS)
    return convolution, lr_bias, state


@triton.jit
def head_step(
    unit, inputs, row, now, projected, mixed, base_lr,
    PROJECTED: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, MLP: tl.constexpr,
    CHUNK: tl.constexpr, SLOTS: tl.constexpr, EPS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """A sequence's head: convolutions, rotary embedding, learning rate, and the inner net's decode step.

    ``unit`` counts sequences and heads, sequence-major.
    """
    convolution, lr_bias, state = inputs
    sequence, h = unit // HEADS, unit % HEADS
    first = h * HEAD_DIM
    projected += sequence * PROJECTED
    v = tl.load(projected + WIDTH + first + tl.arange(0, HEAD_DIM))
    q_even, q_odd, k_even, k_odd = qk_conv_rotary_columns(
        convolution, projected + first, at(row, 20, projected) + sequence * 4 * WIDTH + first, now,
        HEAD_DIM, WIDTH, HEAD_DIM,
    )  # fmt: skip
    q = tl.reshape(tl.join(q_even, q_odd).to(v.dtype), (HEAD_DIM,))
    k = tl.reshape(tl.join(k_even, k_odd).to(v.dtype), (HEAD_DIM,))
    rate = learning_rate(tl.load(projected + 3 * WIDTH + h), lr_bias, base_lr, HEAD_DIM)
    pointers = state_pointers(row, mixed, MLP)
    if MLP:
        mlp_head_step(unit, now, state, k, q, v, rate, pointers, mixed, HEAD_DIM, CHUNK, SLOTS, EPS, WARPS)
    else:
        linear_head_step(unit, now, state, k, q, v, rate, pointers, mixed, HEAD_DIM, SLOTS, EPS)
