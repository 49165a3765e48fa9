"""TTT-MLP decode step on the tensor cores, in Gluon: 16-bit state, heads of 64 (see :mod:`.ttt_mlp_decode`).

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_decode`.

The 64 KB of state of each head must be loaded continuously, while the dependent products of the previous heads are
computed: keys through both layers, the gradient through the layer norm and back through W2, the query through both
layers. Therefore, two programs of four warps stay on each multiprocessor (RESIDENT in the launch table) and process the
heads (sequence-major). Each has three matrices of 32 KB in shared memory as a ring: W1 and W2 of the current head, and
W1 of the next head, which is being copied. When the first product has read W1, the next W2 takes its place. When the
last product has read W2, the W1 of the head after the next takes its place. The vectors are loaded one head ahead, and
the slots while the previous head ends. Each byte is read from memory once per token.

Each warp owns 64 of the 256 hidden units: its rows of the first layer's products, and its part of the second layer's
sum. Hidden units therefore never leave their warp. One instruction turns a product's rows into the next product's
operand. The four partial sums are combined in shared memory. That, the arrival of the copies, and the conversion of g2
to an operand need the only four barriers of a head. The contribution of the slots (scores Q K_iᵀ and X2 X2_iᵀ, and
their sums of gradients) also runs on the tensor cores, with the float32 scores as two 16-bit parts. Products have
16-bit inputs and float32 sums. The inputs are the state, the vectors as they are rounded for their slots, and the
query's hidden units, which have no slot but are rounded too. Everything else is float32.

At the last position, the update of the mini-batch, a product of the slots, is added to the matrices in shared memory,
which are then written. This position has its own loop, because the registers that the fold needs would slow down the
other positions.

OVERLAP: the launch overlaps with the previous kernel. Everything that the previous kernel does not write (position,
state, slots, norms) is read before it has ended. :func:`.ttt_mlp_decode.mlp_decode` states when that is correct.

Bytes, per head and token, averaged over a mini-batch: the minimum of the rank-1 form, 2 F N (1 + 1/M), and the vectors
and slots. Shared memory: 113,856 bytes per program. One program fits on a multiprocessor of sm_80, two fit on one of
sm_90 or sm_100. If none fits, the general kernel runs. Registers: 255 per thread.
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
    gelu,
    gelu_and_grad,
    high_low,
    layer_norm_l2_grad,
    let_next_begin,
    normalize,
    operand,
)
from ttt_mlflow.kernels.launch import launch_options, programs


@gluon.jit
def one_of_four(x):
    """x [W, R, 4], 16 bit, equal along the last axis -> [W, R]."""
    return (gl.sum(x.to(gl.float32), 2) * 0.25).to(x.dtype)


@gluon.jit
def store_results(z2, q, gamma, beta, x2, g1, out, x2_slot, g1_slot, writes, EPS: gl.constexpr):
    """Store the token's output, and the hidden units' vectors in their slots."""
    normed, _ = normalize(z2, 64, EPS)
    gl.store(x2_slot, x2, writes)
    gl.store(g1_slot, g1, writes)
    gl.store(out, (q + normed * gamma + beta).to(x2.dtype))


@gluon.jit
def fetch_inputs(
    head, index, key_buffer, query_buffer, value_buffer, q, k, v, v_stride, at_vector, HEADS: gl.constexpr
):
    """Start to load q, k and v of ``head``."""
    async_copy.async_copy_global_to_shared(key_buffer.index(index), k + head * 64 + at_vector)
    async_copy.async_copy_global_to_shared(query_buffer.index(index), q + head * 64 + at_vector)
    at_value = head // HEADS * v_stride + head % HEADS * 64
    async_copy.async_copy_global_to_shared(value_buffer.index(index), v + at_value + at_vector)


@gluon.jit
def fetch_biases(head, index, bias1_buffer, bias2_buffer, b1, b2, at_bias, at_vector):
    """Start to load b1 and b2 of ``head``."""
    async_copy.async_copy_global_to_shared(bias1_buffer.index(index), b1 + head * 256 + at_bias)
    async_copy.async_copy_global_to_shared(bias2_buffer.index(index), b2 + head * 64 + at_vector)


@gluon.jit
def fetch_slots(
    head, k_buffer, g2_buffer, wide_buffer, k_slots, g2_slots, g1_slots, at_narrow, at_wide, past_narrow, past_wide
):
    """Start to load the used slots of ``head``; the others become zero. Those of x2 go to registers, later."""
    async_copy.async_copy_global_to_shared(k_buffer, k_slots + head * 16 * 64 + at_narrow, past_narrow)
    async_copy.async_copy_global_to_shared(g2_buffer, g2_slots + head * 16 * 64 + at_narrow, past_narrow)
    async_copy.async_copy_global_to_shared(wide_buffer, g1_slots + head * 16 * 256 + at_wide, past_wide)


@gluon.jit
def decode_heads(
    ring,
    now,
    scale,
    q,
    k,
    v,
    v_stride,
    lr,
    norm_weight,
    norm_bias,
    w1,
    b1,
    w2,
    b2,
    k_slots,
    g1_slots,
    x2_slots,
    g2_slots,
    out,
    total_heads,
    HEADS: gl.constexpr,
    EPS: gl.constexpr,
    OVERLAP: gl.constexpr,
    LAST: gl.constexpr,
):
    """Process all heads of this program. W1 and W2 of the first are being copied to the ``ring`` [3, W, F, F]."""
    F: gl.constexpr = 64
    N: gl.constexpr = 256
    M: gl.constexpr = 16
    W: gl.constexpr = 4  # warps; each has its own F hidden units
    dtype: gl.constexpr = w1.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    B_COLUMN: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, B))
    COPY: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 4, 8], [W, 1, 1], [2, 1, 0])
    COPY_NARROW: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [W, 1], [1, 0])
    COPY_VECTOR: gl.constexpr = gl.BlockedLayout([2], [32], [W], [0])
    COPY_BIAS: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [W, 1], [1, 0])
    EXCHANGE: gl.constexpr = gl.BlockedLayout([W, 2], [1, 32], [1, W], [1, 0])
    VECTOR: gl.constexpr = gl.SliceLayout(0, EXCHANGE)
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [2, 1, 0])
    SHARED_NARROW: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    COLUMN_SUMS: gl.constexpr = gl.BlockedLayout([M, 2], [1, 32], [1, W], [1, 0])
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    FLAT_VECTORS: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])

    minus = -scale
    first_head = gl.program_id(0)
    step = gl.num_programs(0)

    k_buffer = gl.allocate_shared_memory(dtype, [M, F], SHARED_NARROW)
    g2_buffer = gl.allocate_shared_memory(dtype, [M, F], SHARED_NARROW)
    wide_buffer = gl.allocate_shared_memory(dtype, [W, M, F], SHARED)
    key_buffer = gl.allocate_shared_memory(dtype, [2, F], FLAT_VECTORS)
    query_buffer = gl.allocate_shared_memory(dtype, [2, F], FLAT_VECTORS)
    value_buffer = gl.allocate_shared_memory(dtype, [2, F], FLAT_VECTORS)
    bias2_buffer = gl.allocate_shared_memory(dtype, [2, F], FLAT_VECTORS)
    bias1_buffer = gl.allocate_shared_memory(dtype, [2, W, F], FLAT)
    exchange = gl.allocate_shared_memory(gl.float32, [W, F], FLAT)
    scalars = gl.allocate_shared_memory(gl.float32, [W, 4], FLAT)

    warp = gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, COPY)))[:, None, None].to(gl.int64)
    row = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY)))[None, :, None].to(gl.int64)
    col = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, COPY)))[None, None, :].to(gl.int64)
    wide_slot = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY)))[None, :, None]
    at1 = row * N + warp * F + col
    at2 = (warp * F + row) * F + col
    at_wide = wide_slot.to(gl.int64) * N + warp * F + col
    past_wide = wide_slot < now
    narrow_slot = gl.arange(0, M, layout=gl.SliceLayout(1, COPY_NARROW))[:, None]
    narrow_col = gl.arange(0, F, layout=gl.SliceLayout(0, COPY_NARROW))[None, :].to(gl.int64)
    at_narrow = narrow_slot.to(gl.int64) * F + narrow_col
    past_narrow = narrow_slot < now
    at_vector = gl.arange(0, F, layout=COPY_VECTOR)
    at_bias = (
        gl.arange(0, W, layout=gl.SliceLayout(1, COPY_BIAS))[:, None] * F
        + gl.arange(0, F, layout=gl.SliceLayout(0, COPY_BIAS))[None, :]
    )
    c = gl.arange(0, F, layout=VECTOR)
    # x2's slots as an operand
    warp_a = gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, A)))[:, None, None].to(gl.int64)
    slot_a = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, A)))[None, :, None]
    unit_a = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, A)))[None, None, :].to(gl.int64)
    at_second = slot_a.to(gl.int64) * N + warp_a * F + unit_a
    past_second = slot_a < now
    column = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, B)))[None, None, :]
    zero = gl.zeros([W, F, 8], gl.float32, MMA)
    zero_slots = gl.zeros([W, M, 8], gl.float32, MMA)

    # first, everything that the previous kernel does not write. Copies complete in the order of their groups: a head's
    # W1 and vectors, its W2, its slots, the next head's W1 and vectors, ...
    head = first_head.to(gl.int64)
    fetch_biases(head, 0, bias1_buffer, bias2_buffer, b1, b2, at_bias, at_vector)
    fetch_slots(
        head, k_buffer, g2_buffer, wide_buffer, k_slots, g2_slots, g1_slots, at_narrow, at_wide, past_narrow, past_wide
    )
    if OVERLAP:
        after_previous(first_head)
        let_next_begin(first_head)
    fetch_inputs(head, 0, key_buffer, query_buffer, value_buffer, q, k, v, v_stride, at_vector, HEADS)
    async_copy.commit_group()
    async_copy.commit_group()  # an empty group here; for later heads, the slots have a group of their own
    second_head = first_head + step
    if second_head < total_heads:
        n = second_head.to(gl.int64)
        async_copy.async_copy_global_to_shared(ring.index(2), w1 + n * F * N + at1)
        fetch_inputs(n, 1, key_buffer, query_buffer, value_buffer, q, k, v, v_stride, at_vector, HEADS)
        fetch_biases(n, 1, bias1_buffer, bias2_buffer, b1, b2, at_bias, at_vector)
    async_copy.commit_group()

    slot = 0
    parity = 0
    for this in range(first_head, total_heads, step):
        head = this.to(gl.int64)
        following = this + step
        after = following + step
        h = head % HEADS
        if not LAST:
            second = gl.load(x2_slots + head * M * N + at_second, past_second, 0.0)
        gamma = gl.load(norm_weight + h * F + c).to(gl.float32)
        beta = gl.load(norm_bias + h * F + c).to(gl.float32)
        rate = gl.load(lr + head)
        next_slot = gl.where(slot == 2, 0, slot + 1)
        second_slot = gl.where(next_slot == 2, 0, next_slot + 1)
        s1 = ring.index(slot)
        s2 = ring.index(next_slot)
        async_copy.wait_group(2)  # the vectors, W1 and W2 have arrived
        k_operand = key_buffer.index(parity).load(B_COLUMN)[None, :, None]
        q_operand = query_buffer.index(parity).load(B_COLUMN)[None, :, None]
        k_vector = key_buffer.index(parity).load(VECTOR)
        q_vector = query_buffer.index(parity).load(VECTOR).to(gl.float32)
        v_vector = value_buffer.index(parity).load(VECTOR).to(gl.float32)
        bias2 = bias2_buffer.index(parity).load(VECTOR).to(gl.float32)
        k_wide = k_vector.to(gl.float32)
        # both through the first layer; the keys through the second
        both = gl.where(column % 2 == 0, k_operand, q_operand)
        both = both.broadcast_to([W, F, 8])
        z_k, z_q = even_odd(mma_v2(s1.permute([0, 2, 1]).load(A), both, zero))
        UNITS: gl.constexpr = z_k.type.layout
        unit = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(2, UNITS)))[None, :, None]
        unit += gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, UNITS)))[:, None, None] * F
        at_unit = unit.broadcast_to([W, F, 4])
        writes = (gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(1, UNITS))) == 0)[None, None, :]
        bias1 = bias1_buffer.index(parity).load(gl.SliceLayout(2, UNITS)).expand_dims(2).to(gl.float32)
        x2, slope = gelu_and_grad(z_k + bias1)
        z_q += bias1
        x2 = x2.to(dtype)
        nothing = gl.zeros([W, F, 4], dtype, UNITS)
        weights2 = s2.permute([0, 2, 1]).load(A)
        z2, _ = even_odd(mma_v2(weights2, operand(x2, nothing, MMA, B), zero))
        exchange.store(gl.sum(z2, 2))
        async_copy.wait_group(1)  # the slots have arrived
        z2 = gl.sum(exchange.load(EXCHANGE), 0) * 0.25 + bias2
        if LAST:  # loaded later, because the fold's loop has fewer free registers
            second = gl.load(x2_slots + head * M * N + at_second, past_second, 0.0)
        # every warp has read W1
        if not LAST and following < total_heads:
            async_copy.async_copy_global_to_shared(s1, w2 + following.to(gl.int64) * F * N + at2)
        async_copy.commit_group()

        # contribution of the mini-batch's earlier tokens to the query's first layer
        current1 = gl.sum(k_wide * q_vector, 0) + 1.0
        keys = k_buffer.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
        _, score = even_odd(mma_v2(keys, both, zero_slots))
        high, low = high_low((score + 1.0) / SCORE_SCALE, dtype)
        even, odd = even_odd(mma_v2(wide_buffer.permute([0, 2, 1]).load(A), operand(high, low, MMA, B), zero))
        past1 = (even + odd) * SCORE_SCALE

        # the gradients of both layers, and the query through them, with the updates of the mini-batch
        g2 = (layer_norm_l2_grad(z2, v_vector - k_wide, gamma, beta, F, EPS) * rate).to(dtype)
        gl.store(k_slots + head * M * F + now * F + c, k_vector)
        gl.store(g2_slots + head * M * F + now * F + c, g2)
        g2_operand = gl.convert_layout(g2, B_COLUMN)[None, :, None].broadcast_to([W, F, 8])
        g1, _ = even_odd(mma_v2(s2.load(A), g2_operand, zero))
        g1 = (g1 * slope).to(dtype)
        query = gelu(z_q + minus * (past1 + current1 * g1.to(gl.float32))).to(dtype)
        current2 = gl.sum(query.to(gl.float32) * x2.to(gl.float32), 1)
        scalars.store(current2)
        query_operand = operand(query, nothing, MMA, B)
        # this warp's part of the scores, and with them its part of the slots' contribution
        score, _ = even_odd(mma_v2(second, query_operand, zero_slots))
        high, low = high_low((score + 1.0 / W) / SCORE_SCALE, dtype)
        gradients = g2_buffer.permute([1, 0]).load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, F, M])
        even, odd = even_odd(mma_v2(gradients, operand(high, low, MMA, B), zero))
        update = even + odd
        z2, _ = even_odd(mma_v2(s2.permute([0, 2, 1]).load(A), query_operand, zero))
        exchange.store(gl.sum(z2 + (SCORE_SCALE * minus) * update, 2))
        partial = exchange.load(EXCHANGE)
        current = scalars.load(gl.BlockedLayout([W, 1], [1, 32], [1, W], [1, 0]))
        current = gl.convert_layout(gl.sum(current, 1), gl.SliceLayout(1, EXCHANGE)).expand_dims(1) * 0.25
        z2 = gl.sum(partial + (4 * minus) * current * g2.to(gl.float32)[None, :], 0) * 0.25 + bias2
        z2 += minus * g2.to(gl.float32)
        if LAST:
            at_slot = head * M * N + now * N + at_unit
            store_results(
                z2, q_vector, gamma, beta, x2, g1, out + head * F + c, x2_slots + at_slot, g1_slots + at_slot, writes,
                EPS,
            )  # fmt: skip
            slot_k = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(1, A)))[None, None, :]
            slot_b = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, B)))[None, :, None]
            # this token's vectors are not in the slot buffers yet
            g1_row = gl.convert_layout(one_of_four(g1), gl.SliceLayout(1, B)).expand_dims(1)
            first = gl.where(slot_b == M - 1, g1_row, wide_buffer.load(B))
            ones = gl.full([W, M, 8], 1.0, dtype, B)
            sums, _ = even_odd(mma_v2(wide_buffer.permute([0, 2, 1]).load(A), ones, zero))
            gl.store(b1 + head * N + at_unit, (bias1 + minus * (sums + g1.to(gl.float32))).to(dtype), writes)
            # the first layer's gradients are in registers, so x2 can take their place
            x2_row = gl.convert_layout(one_of_four(x2), gl.SliceLayout(1, A)).expand_dims(1)
            wide_buffer.store(gl.where(slot_a == M - 1, x2_row, second))
            column_k = key_buffer.index(parity).load(gl.SliceLayout(0, gl.SliceLayout(2, A)))[None, :, None]
            keys_t = k_buffer.permute([1, 0]).load(gl.SliceLayout(0, A)).expand_dims(0)
            keys_t = gl.where(slot_k == M - 1, column_k, keys_t).broadcast_to([W, F, M])
            fold(s1, keys_t, first, minus, MMA, A)
            gl.store(w1 + head * F * N + at1, s1.load(COPY))
            if following < total_heads:
                async_copy.async_copy_global_to_shared(s1, w2 + following.to(gl.int64) * F * N + at2)
            async_copy.commit_group()
            g2_row = gl.convert_layout(g2, gl.SliceLayout(0, gl.SliceLayout(1, B)))[None, None, :]
            every = g2_buffer.load(gl.SliceLayout(0, B)).expand_dims(0)
            every = gl.where(slot_b == M - 1, g2_row, every).broadcast_to([W, M, F])
            fold(s2, wide_buffer.permute([0, 2, 1]).load(A), every, minus, MMA, A)
            sums = gl.convert_layout(gl.sum(g2_buffer.load(COLUMN_SUMS).to(gl.float32), 0), VECTOR)
            gl.store(b2 + head * F + c, (bias2 + minus * (sums + g2.to(gl.float32))).to(dtype))
            gl.store(w2 + head * F * N + at2, s2.load(COPY))
            barrier()
        # every warp has read W2 and the slots
        if following < total_heads:
            n = following.to(gl.int64)
            fetch_slots(
                n, k_buffer, g2_buffer, wide_buffer, k_slots, g2_slots, g1_slots, at_narrow, at_wide, past_narrow,
                past_wide,
            )  # fmt: skip
        async_copy.commit_group()
        if after < total_heads:
            n = after.to(gl.int64)
            async_copy.async_copy_global_to_shared(s2, w1 + n * F * N + at1)
            fetch_inputs(n, parity, key_buffer, query_buffer, value_buffer, q, k, v, v_stride, at_vector, HEADS)
            fetch_biases(n, parity, bias1_buffer, bias2_buffer, b1, b2, at_bias, at_vector)
        async_copy.commit_group()
        if not LAST:
            at_slot = head * M * N + now * N + at_unit
            store_results(
                z2, q_vector, gamma, beta, x2, g1, out + head * F + c, x2_slots + at_slot, g1_slots + at_slot, writes,
                EPS,
            )  # fmt: skip
        slot = second_slot
        parity = 1 - parity


@gluon.jit
def mlp_decode_tensor_kernel(
    q,
    k,
    v,
    v_stride,
    lr,
    eta,
    position,
    norm_weight,
    norm_bias,
    w1,
    b1,
    w2,
    b2,
    k_slots,
    g1_slots,
    x2_slots,
    g2_slots,
    out,
    total_heads,
    HEADS: gl.constexpr,
    EPS: gl.constexpr,
    OVERLAP: gl.constexpr,
):
    F: gl.constexpr = 64
    N: gl.constexpr = 256
    W: gl.constexpr = 4
    COPY: gl.constexpr = gl.BlockedLayout([1, 1, 8], [1, 4, 8], [W, 1, 1], [2, 1, 0])
    ring = gl.allocate_shared_memory(w1.dtype.element_ty, [3, W, F, F], gl.SwizzledSharedLayout(8, 1, 8, [2, 1, 0]))
    first = gl.program_id(0)
    head = first.to(gl.int64)
    warp = gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, COPY)))[:, None, None].to(gl.int64)
    row = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(2, COPY)))[None, :, None].to(gl.int64)
    col = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, COPY)))[None, None, :].to(gl.int64)
    async_copy.async_copy_global_to_shared(ring.index(0), w1 + head * F * N + row * N + warp * F + col)
    async_copy.async_copy_global_to_shared(ring.index(1), w2 + head * F * N + (warp * F + row) * F + col)
    now = gl.load(position)
    scale = gl.load(eta + now)
    # two loops, because the registers that the fold needs would slow down the other positions
    if now == 15:
        decode_heads(
            ring, 15, scale, q, k, v, v_stride, lr, norm_weight, norm_bias, w1, b1, w2, b2,
            k_slots, g1_slots, x2_slots, g2_slots, out, total_heads, HEADS, EPS, OVERLAP, True,
        )  # fmt: skip
    else:
        decode_heads(
            ring, now, scale, q, k, v, v_stride, lr, norm_weight, norm_bias, w1, b1, w2, b2,
            k_slots, g1_slots, x2_slots, g2_slots, out, total_heads, HEADS, EPS, OVERLAP, False,
        )  # fmt: skip


def mlp_decode_tensor(out: Tensor, overlap: bool, *arguments: Tensor) -> None:
    """Launch with the checked arguments of :func:`.ttt_mlp_decode.mlp_decode`. Writes ``out``."""
    v, lr, w1 = arguments[2], arguments[3], arguments[8]
    total = lr.numel()
    grid = min(total, programs("ttt_mlp_decode_tensor", out.device))
    options = launch_options("ttt_mlp_decode_tensor", out.device, w1.dtype, 64)
    mlp_decode_tensor_kernel[(grid,)](
        *arguments[:3], v.stride(0), *arguments[3:], out, total, lr.shape[1], NORM_EPS, overlap,
        launch_pdl=overlap, **options,
    )  # fmt: skip
