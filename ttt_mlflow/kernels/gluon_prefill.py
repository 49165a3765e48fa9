"""Device functions that the prefill kernels of both inner layers share, in Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from ttt_mlflow.kernels.gluon_functions import movmatrix

# scores are divided by it before they are rounded, and the gradients multiplied, so that neither overflows float16
PREFILL_SCALE = gl.constexpr(16.0)


@gluon.jit
def turned(x):
    """x [W, M, N], 16 bit, in a product's layout: the same values, held as the transposed matrix is held.

    Each thread then has two neighboring values of a column instead of a row, as an operand needs them.
    """
    W: gl.constexpr = x.shape[0]
    M: gl.constexpr = x.shape[1]
    N: gl.constexpr = x.shape[2]
    x = movmatrix(x).reshape([W, M // 8, 8, N // 8, 8]).permute([0, 1, 4, 3, 2])
    return x.reshape([W, M, N])


@gluon.jit
def moments(total, squares, WIDTH: gl.constexpr, EPS: gl.constexpr):
    """Mean and reciprocal standard deviation, from the sums of the values and of their squares."""
    mean = total / WIDTH
    return mean, gl.rsqrt(gl.maximum(squares / WIDTH - mean * mean, 0.0) + EPS)


@gluon.jit
def begin_copies(
    k_buffer, q_buffer, v_buffer, q, k, v, v_stride, k_slots, at_qk, at_v, at_slot, token, length,
    width: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Start to copy the first mini-batches to the buffers [STAGES, M, F], one group of copies for each.

    ``token`` counts from the prompt's begin. The earlier tokens of an unfinished mini-batch have their keys in slots.
    """
    M: gl.constexpr = 16
    F: gl.constexpr = 64
    some = ((token >= 0) & (token < length)).broadcast_to([M, F])
    early = (token < 0).broadcast_to([M, F])
    async_copy.async_copy_global_to_shared(
        k_buffer.index(0), gl.where(early, k_slots + at_slot, k + at_qk), some | early
    )
    async_copy.async_copy_global_to_shared(q_buffer.index(0), q + at_qk, some)
    async_copy.async_copy_global_to_shared(v_buffer.index(0), v + at_v, some)
    async_copy.commit_group()
    for next_batch in gl.static_range(1, STAGES - 2):
        soon = (token + next_batch * M < length).broadcast_to([M, F])
        async_copy.async_copy_global_to_shared(k_buffer.index(next_batch), k + at_qk + next_batch * M * width, soon)
        async_copy.async_copy_global_to_shared(q_buffer.index(next_batch), q + at_qk + next_batch * M * width, soon)
        async_copy.async_copy_global_to_shared(v_buffer.index(next_batch), v + at_v + next_batch * M * v_stride, soon)
        async_copy.commit_group()
