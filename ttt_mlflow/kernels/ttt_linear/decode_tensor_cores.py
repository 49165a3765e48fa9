"""TTT-Linear decode step on the tensor cores, in Gluon: 16-bit state, heads of 64 (see :mod:`.ttt_linear_decode`).

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode`.

Persistent programs of one warp, sixteen per multiprocessor (RESIDENT in the launch table), process the heads
(sequence-major). Asynchronous copies bring W and the slots of a head to shared memory. As soon as the products have
read them, the copies for the next head start. They overlap with the layer norms and stores of the current head. A
program of one warp waits for no other warp. Nothing passes through shared memory between the products and the output:
the layer norms use the layout of the products' rows, two of 64 per thread.

The tensor cores compute K W and Q W in one product, Q K_iᵀ of the slots in a second and Σ (Q K_iᵀ + 1) g_i in a third,
with 16-bit inputs and float32 sums. The scores are float32 and enter as two 16-bit parts. Everything else is float32.
At the last position, the update of the mini-batch, a product of the slots, is added to W in shared memory, which is
then written.

OVERLAP: the launch overlaps with the previous kernel. Everything that the previous kernel does not write (position,
state, slots, norms) is read before it has ended. :func:`.ttt_linear_decode.linear_decode` states when that is correct.

Bytes, per head and token, averaged over a mini-batch: the rank-1 form's minimum, F^2 (1 + 1/M), and the vectors and
slots. Shared memory: 12,672 bytes per program. Registers: 128 per thread.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.gluon_functions import (
    SCORE_SCALE,
    after_previous,
    barrier,
    even_odd,
    fold,
    high_low,
    layer_norm_l2_grad,
    let_next_begin,
    movmatrix,
    normalize,
    operand,
)
from ttt_mlflow.kernels.launch import launch_options, programs


@gluon.jit
def transposed(x):
    """x [64] read as a matrix [8, 8], transposed."""
    return x.reshape([8, 8]).permute([1, 0]).reshape([64])


@gluon.jit
def to_rows(x, ROWS: gl.constexpr):
    """x [64], 16 bit, two neighboring values per thread (as loaded) -> ROWS."""
    return gl.convert_layout(transposed(movmatrix(x)), ROWS, assert_trivial=True)


@gluon.jit
def from_rows(x, VECTOR: gl.constexpr):
    """x [64], 16 bit, in ROWS -> two neighboring values per thread (for storing)."""
    return movmatrix(gl.convert_layout(transposed(x), VECTOR, assert_trivial=True))


@gluon.jit
def own_rows(x, ROWS: gl.constexpr):
    """x [1, 64, 4], equal along the last axis -> [64] in ROWS. Each thread keeps two of eight rows."""
    x = x.reshape([4, 2, 8, 4])
    LAYOUT: gl.constexpr = x.type.layout
    row = gl.arange(0, 4, layout=gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(3, LAYOUT))))
    thread = gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT))))
    mine = row[:, None, None, None] == thread[None, None, None, :]
    x = gl.sum(gl.where(mine, x, 0.0), 0)  # [2, 8, 4]; the sum is over registers, without other threads
    return gl.convert_layout(x.permute([2, 0, 1]).reshape([64]), ROWS, assert_trivial=True)


@gluon.jit
def fetch(
    head,
    state,
    both_buffer,
    k_buffer,
    g_buffer,
    q,
    k,
    v,
    v_stride,
    lr,
    norm_weight,
    norm_bias,
    w,
    b,
    k_slots,
    g_slots,
    at,
    at_slots,
    past,
    which,
    f,
    HEADS: gl.constexpr,
):
    """Start to load the inputs of ``head``: into shared memory, and the short vectors into registers."""
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    sequence = head // HEADS
    h = head % HEADS
    async_copy.async_copy_global_to_shared(state, w + head * F * F + at)
    async_copy.async_copy_global_to_shared(both_buffer, gl.where(which == 0, k, q) + head * F + f[None, :])
    async_copy.async_copy_global_to_shared(k_buffer, k_slots + head * M * F + at_slots, past)
    async_copy.async_copy_global_to_shared(g_buffer, g_slots + head * M * F + at_slots, past)
    target = gl.load(v + sequence * v_stride + h * F + f)
    bias = gl.load(b + head * F + f)
    gamma = gl.load(norm_weight + h * F + f)
    beta = gl.load(norm_bias + h * F + f)
    return target, bias, gamma, beta, gl.load(lr + head)


@gluon.jit
def decode_heads(
    state,
    now,
    scale,
    q,
    k,
    v,
    v_stride,
    lr,
    norm_weight,
    norm_bias,
    w,
    b,
    k_slots,
    g_slots,
    out,
    total_heads,
    HEADS: gl.constexpr,
    EPS: gl.constexpr,
    OVERLAP: gl.constexpr,
    LAST: gl.constexpr,
):
    """Process all heads of this program. W of the first is being copied to ``state`` [1, F, F] in shared memory."""
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    dtype: gl.constexpr = w.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [1, 1, 1], [1, 16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    COPY: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 4, 8], [1, 1, 1], [2, 1, 0])
    LINE: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [1, 1], [1, 0])
    VECTOR: gl.constexpr = gl.SliceLayout(0, LINE)
    # a product's rows after own_rows
    ROWS: gl.constexpr = gl.DistributedLinearLayout([[8]], [[16], [32], [1], [2], [4]], [], [], [F])
    # k and q as an operand's even and odd columns: [F, 4, 2]
    PAIRS: gl.constexpr = gl.DistributedLinearLayout(
        [[1, 0, 0], [8, 0, 0], [16, 0, 0], [32, 0, 0]],
        [[2, 0, 0], [4, 0, 0], [0, 0, 1], [0, 1, 0], [0, 2, 0]],
        [],
        [],
        [F, 4, 2],
    )
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [2, 1, 0])

    first_head = gl.program_id(0)
    step = gl.num_programs(0)
    minus = -scale
    k_buffer = gl.allocate_shared_memory(dtype, [1, M, F], SHARED)
    g_buffer = gl.allocate_shared_memory(dtype, [1, M, F], SHARED)
    both_buffer = gl.allocate_shared_memory(dtype, [2, F], FLAT)
    key = both_buffer.slice(0, 1, dim=0)
    query = both_buffer.slice(1, 1, dim=0)
    rows = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY)))[None, :, None]
    cols = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, COPY)))[None, None, :].to(gl.int64)
    slots = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY)))[None, :, None]
    at = rows.to(gl.int64) * F + cols
    at_slots = slots.to(gl.int64) * F + cols
    past = slots < now
    f = gl.arange(0, F, layout=VECTOR)
    which = gl.arange(0, 2, layout=gl.SliceLayout(1, LINE))[:, None]
    zero = gl.zeros([1, F, 8], gl.float32, MMA)
    zero_slots = gl.zeros([1, M, 8], gl.float32, MMA)

    head = first_head.to(gl.int64)
    sequence = head // HEADS
    h = head % HEADS
    async_copy.async_copy_global_to_shared(k_buffer, k_slots + head * M * F + at_slots, past)
    async_copy.async_copy_global_to_shared(g_buffer, g_slots + head * M * F + at_slots, past)
    bias_next = gl.load(b + head * F + f)
    gamma_next = gl.load(norm_weight + h * F + f)
    beta_next = gl.load(norm_bias + h * F + f)
    if OVERLAP:
        after_previous(first_head)
        let_next_begin(first_head)
    async_copy.async_copy_global_to_shared(both_buffer, gl.where(which == 0, k, q) + head * F + f[None, :])
    async_copy.commit_group()
    v_next = gl.load(v + sequence * v_stride + h * F + f)
    rate_next = gl.load(lr + head)

    for this in range(first_head, total_heads, step):
        head = this.to(gl.int64)
        following = this + step
        target = to_rows(v_next, ROWS).to(gl.float32)
        bias = to_rows(bias_next, ROWS).to(gl.float32)
        gamma = to_rows(gamma_next, ROWS).to(gl.float32)
        beta = to_rows(beta_next, ROWS).to(gl.float32)
        rate = rate_next
        async_copy.wait_group(0)
        k_vector = gl.convert_layout(key.load(LINE).reshape([F]), VECTOR, assert_trivial=True)
        q_vector = gl.convert_layout(query.load(LINE).reshape([F]), VECTOR, assert_trivial=True)
        k_wide = to_rows(k_vector, ROWS).to(gl.float32)
        q_wide = to_rows(q_vector, ROWS).to(gl.float32)
        both = both_buffer.permute([1, 0]).load(gl.SliceLayout(1, PAIRS)).expand_dims(1).broadcast_to([F, 4, 2])
        both = gl.convert_layout(both.reshape([1, F, 8]), B, assert_trivial=True)
        z_k, z_q = even_odd(mma_v2(state.permute([0, 2, 1]).load(A), both, zero))
        # contribution of the mini-batch's earlier tokens to the query
        _, score = even_odd(mma_v2(k_buffer.load(A), both, zero_slots))
        high, low = high_low((score + 1.0) / SCORE_SCALE, dtype)
        high, low = even_odd(mma_v2(g_buffer.permute([0, 2, 1]).load(A), operand(high, low, MMA, B), zero))
        z_q += (SCORE_SCALE * minus) * (high + low)
        if not LAST:
            barrier()  # nothing may be overwritten before all threads have read it
            if following < total_heads:
                v_next, bias_next, gamma_next, beta_next, rate_next = fetch(
                    following.to(gl.int64), state, both_buffer, k_buffer, g_buffer, q, k, v, v_stride, lr, norm_weight,
                    norm_bias, w, b, k_slots, g_slots, at, at_slots, past, which, f, HEADS,
                )  # fmt: skip
            async_copy.commit_group()
        current = gl.sum(k_wide * q_wide, 0) + 1.0
        z_k = own_rows(z_k, ROWS) + bias
        z_q = own_rows(z_q, ROWS) + bias
        gradient = (layer_norm_l2_grad(z_k, target - k_wide, gamma, beta, F, EPS) * rate).to(dtype)
        gradient_vector = from_rows(gradient, VECTOR)
        gl.store(k_slots + head * M * F + now * F + f, k_vector)
        gl.store(g_slots + head * M * F + now * F + f, gradient_vector)
        normed, _ = normalize(z_q + minus * current * gradient.to(gl.float32), F, EPS)
        gl.store(out + head * F + f, from_rows((q_wide + normed * gamma + beta).to(dtype), VECTOR))
        if LAST:
            slot_a = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(1, A)))[None, None, :]
            slot_b = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, B)))[None, :, None]
            row = gl.convert_layout(gradient_vector, gl.SliceLayout(0, gl.SliceLayout(1, B)))[None, None, :]
            gradients = gl.where(slot_b == M - 1, row, g_buffer.load(B))
            column = key.permute([1, 0]).load(gl.SliceLayout(0, A)).expand_dims(0)
            keys = gl.where(slot_a == M - 1, column, k_buffer.permute([0, 2, 1]).load(A))
            fold(state, keys, gradients, minus, MMA, A)
            ones = gl.full([1, M, 8], 1.0, dtype, B)
            sums, _ = even_odd(mma_v2(g_buffer.permute([0, 2, 1]).load(A), ones, zero))
            new = bias + minus * (own_rows(sums, ROWS) + gradient.to(gl.float32))
            gl.store(b + head * F + f, from_rows(new.to(dtype), VECTOR))
            gl.store(w + head * F * F + at, state.load(COPY))
            barrier()
            if following < total_heads:
                v_next, bias_next, gamma_next, beta_next, rate_next = fetch(
                    following.to(gl.int64), state, both_buffer, k_buffer, g_buffer, q, k, v, v_stride, lr, norm_weight,
                    norm_bias, w, b, k_slots, g_slots, at, at_slots, past, which, f, HEADS,
                )  # fmt: skip
            async_copy.commit_group()


@gluon.jit
def linear_decode_tensor_kernel(
    q,
    k,
    v,
    v_stride,
    lr,
    eta,
    position,
    norm_weight,
    norm_bias,
    w,
    b,
    k_slots,
    g_slots,
    out,
    total_heads,
    HEADS: gl.constexpr,
    EPS: gl.constexpr,
    OVERLAP: gl.constexpr,
):
    F: gl.constexpr = 64
    COPY: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 4, 8], [1, 1, 1], [2, 1, 0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [2, 1, 0])
    state = gl.allocate_shared_memory(w.dtype.element_ty, [1, F, F], SHARED)
    head = gl.program_id(0).to(gl.int64)
    rows = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY)))[None, :, None].to(gl.int64)
    cols = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, COPY)))[None, None, :].to(gl.int64)
    async_copy.async_copy_global_to_shared(state, w + head * F * F + rows * F + cols)
    now = gl.load(position)
    scale = gl.load(eta + now)
    # two loops, because the registers that the fold needs would slow down the other positions
    if now == 15:
        decode_heads(
            state, 15, scale, q, k, v, v_stride, lr, norm_weight, norm_bias, w, b, k_slots, g_slots, out,
            total_heads, HEADS, EPS, OVERLAP, True,
        )  # fmt: skip
    else:
        decode_heads(
            state, now, scale, q, k, v, v_stride, lr, norm_weight, norm_bias, w, b, k_slots, g_slots, out,
            total_heads, HEADS, EPS, OVERLAP, False,
        )  # fmt: skip


def linear_decode_tensor(out: Tensor, overlap: bool, *arguments: Tensor) -> None:
    """Launch with the checked arguments of :func:`.ttt_linear_decode.linear_decode`. Writes ``out``."""
    v, lr, w = arguments[2], arguments[3], arguments[8]
    total = lr.numel()
    grid = min(total, programs("ttt_linear_decode_tensor", out.device))
    options = launch_options("ttt_linear_decode_tensor", out.device, w.dtype, 64)
    linear_decode_tensor_kernel[(grid,)](
        *arguments[:3], v.stride(0), *arguments[3:], out, total, lr.shape[1], NORM_EPS, overlap,
        launch_pdl=overlap, **options,
    )  # fmt: skip
