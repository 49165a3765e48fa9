"""TTT-MLP decode step on the tensor cores, in Gluon: 16-bit state, heads of 64 (see :mod:`.ttt_mlp_decode`).

Twin: :func:`ttt_mlflow.kernels.reference.mlp_decode`.

A head's 64 KB of state have to keep coming while the chain of dependent products of the head before is computed:
keys through both layers, the gradient through the layer norm and back through W2, the query through both layers. So two
programs of four warps stay on each multiprocessor and go through the heads. Both matrices lie in shared memory, brought
by asynchronous copies; W1 is needed first and no longer than the first product, so the next head's W1 is on its way
while the rest of this head is computed, and its W2 during the next head's first product. Each matrix is read from
memory once a token. The products run on the tensor cores with 16-bit inputs and float32 sums: the state, the vectors as
they are rounded for their slots, and the query's hidden units, which have no slot but are rounded too. Everything else
is float32.

At the last position the update of the mini-batch, a product of the slots, is added to the matrices in shared memory,
which are then written.

Bytes, per head and token, averaged over a mini-batch: the floor of the rank-1 form, 2 F N (1 + 1/M) and the vectors and
slots. Shared memory: 75,776 bytes a program, so two fit where a multiprocessor has 164 KB (sm_80) or more.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from ttt_mlflow.kernels.gluon_functions import (
    COLUMNS,
    barrier,
    columns,
    gelu,
    gelu_and_grad,
    layer_norm_l2_grad,
    normalise,
)
from ttt_mlflow.kernels.launch import launch_options, multiprocessors
from ttt_mlflow.kernels.reference import NORM_EPS

PROGRAMS = 2  # resident on a multiprocessor


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
):
    F: gl.constexpr = 64
    N: gl.constexpr = 256
    M: gl.constexpr = 16
    PART: gl.constexpr = 128  # hidden units a product: two shorter chains of accumulation instead of one
    BLOCK: gl.constexpr = 64  # hidden units folded at a time
    WARPS: gl.constexpr = gl.num_warps()
    dtype: gl.constexpr = w1.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1], [16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    # 1-D layouts: hidden units as a product leaves them, an operand's depth, a slot row, a vector of F
    UNITS: gl.constexpr = gl.SliceLayout(1, MMA)
    OPERAND: gl.constexpr = gl.SliceLayout(1, B)
    COPY1: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [WARPS, 1], [1, 0])
    COPY2: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    SLOTS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [1, WARPS], [1, 0])
    ROW: gl.constexpr = gl.SliceLayout(0, SLOTS)
    VECTOR: gl.constexpr = gl.BlockedLayout([2], [32], [WARPS], [0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])

    now = gl.load(position)
    scale = gl.load(eta + now)
    last = now == M - 1
    first_head = gl.program_id(0)
    s1 = gl.allocate_shared_memory(dtype, [F, N], SHARED)
    s2 = gl.allocate_shared_memory(dtype, [N, F], SHARED)
    rows = gl.arange(0, F, layout=gl.SliceLayout(1, COPY1))
    cols = gl.arange(0, N, layout=gl.SliceLayout(0, COPY1))
    at1 = rows[:, None] * N + cols[None, :]
    async_copy.async_copy_global_to_shared(s1, w1 + first_head.to(gl.int64) * F * N + at1)
    async_copy.commit_group()
    rows = gl.arange(0, N, layout=gl.SliceLayout(1, COPY2))
    cols = gl.arange(0, F, layout=gl.SliceLayout(0, COPY2))
    at2 = rows[:, None] * F + cols[None, :]
    async_copy.async_copy_global_to_shared(s2, w2 + first_head.to(gl.int64) * F * N + at2)
    async_copy.commit_group()

    u = gl.arange(0, N, layout=UNITS)
    operand = gl.arange(0, F, layout=OPERAND)
    slots = gl.arange(0, M, layout=gl.SliceLayout(1, SLOTS))
    f = gl.arange(0, F, layout=ROW)
    wide = gl.arange(0, N, layout=ROW)
    at_narrow = slots[:, None] * F + f[None, :]
    at_wide = slots[:, None] * N + wide[None, :]
    past = (slots < now)[:, None]
    is_current = (slots == now).to(gl.float32)[:, None]

    for this in range(first_head, total_heads, gl.num_programs(0)):
        head = this.to(gl.int64)
        following = this + gl.num_programs(0)
        sequence = head // HEADS
        h = head % HEADS
        k_operand = gl.load(k + head * F + operand)
        q_operand = gl.load(q + head * F + operand)
        c = gl.arange(0, F, layout=VECTOR)
        k_vector = gl.load(k + head * F + c)
        q_vector = gl.load(q + head * F + c).to(gl.float32)
        q_row = gl.load(q + head * F + f).to(gl.float32)
        bias1 = gl.load(b1 + head * N + u).to(gl.float32)
        keys = gl.load(k_slots + head * M * F + at_narrow, past, 0.0)
        first = gl.load(g1_slots + head * M * N + at_wide, past, 0.0)
        v_vector = gl.load(v + sequence * v_stride + h * F + c).to(gl.float32)
        bias2 = gl.load(b2 + head * F + c).to(gl.float32)
        gamma = gl.load(norm_weight + h * F + c).to(gl.float32)
        beta = gl.load(norm_bias + h * F + c).to(gl.float32)
        rate = gl.load(lr + head)
        k_wide = k_vector.to(gl.float32)

        # the keys' and the query's first layer: W1 is here, W2 may still be coming
        async_copy.wait_group(1)
        zero1 = gl.zeros([N, COLUMNS], gl.float32, MMA)
        zero2 = gl.zeros([F, COLUMNS], gl.float32, MMA)
        weights1 = s1.permute([1, 0]).load(A)
        acc = mma_v2(weights1, columns(k_operand), zero1)
        x2, slope = gelu_and_grad(gl.sum(acc, 1) / COLUMNS + bias1)
        acc = mma_v2(weights1, columns(q_operand), zero1)
        z1 = gl.sum(acc, 1) / COLUMNS + bias1
        x2 = x2.to(dtype)
        x2_shared = gl.allocate_shared_memory(dtype, [N], FLAT)
        x2_shared.store(x2)
        # every warp has read W1: the next head's may come (at the last position it is still needed)
        if not last and following < total_heads:
            async_copy.async_copy_global_to_shared(s1, w1 + following.to(gl.int64) * F * N + at1)
        async_copy.commit_group()
        second = gl.load(x2_slots + head * M * N + at_wide, past, 0.0)
        gradients = gl.load(g2_slots + head * M * F + at_narrow, past, 0.0)
        # the keys' second layer: W2 is here, the next W1 may still be coming
        async_copy.wait_group(1)
        total = zero2
        for part in gl.static_range(N // PART):
            weights = s2.slice(part * PART, PART, dim=0).permute([1, 0]).load(A)
            total += mma_v2(weights, columns(x2_shared.slice(part * PART, PART).load(OPERAND)), zero2)
        z2 = gl.convert_layout(gl.sum(total, 1), VECTOR) / COLUMNS + bias2
        gl.store(x2_slots + head * M * N + now * N + wide, x2_shared.load(ROW))

        # what this mini-batch's earlier tokens add to the query's first layer
        score1 = gl.sum(keys.to(gl.float32) * q_row[None, :], 1) + 1.0
        past1 = gl.convert_layout(gl.sum(score1[:, None] * first.to(gl.float32), 0), UNITS)
        current1 = gl.sum(k_wide * q_vector, 0) + 1.0
        g2 = (layer_norm_l2_grad(z2, v_vector - k_wide, gamma, beta, F, EPS) * rate).to(dtype)
        g2_shared = gl.allocate_shared_memory(dtype, [F], FLAT)
        g2_shared.store(g2)
        gl.store(k_slots + head * M * F + now * F + c, k_vector)
        gl.store(g2_slots + head * M * F + now * F + c, g2)
        acc = mma_v2(s2.load(A), columns(g2_shared.load(OPERAND)), zero1)
        g1 = (gl.sum(acc, 1) / COLUMNS * slope).to(dtype)
        g1_shared = gl.allocate_shared_memory(dtype, [N], FLAT)
        g1_shared.store(g1)
        query = gelu(z1 - scale * (past1 + current1 * g1.to(gl.float32)))
        query_shared = gl.allocate_shared_memory(dtype, [N], FLAT)
        query_shared.store(query.to(dtype))
        total = zero2
        for part in gl.static_range(N // PART):
            weights = s2.slice(part * PART, PART, dim=0).permute([1, 0]).load(A)
            total += mma_v2(weights, columns(query_shared.slice(part * PART, PART).load(OPERAND)), zero2)
        gl.store(g1_slots + head * M * N + now * N + wide, g1_shared.load(ROW))
        # the same for its second layer; this token's vectors take the place of their empty slot
        query_row = query_shared.load(ROW).to(gl.float32)
        every = second.to(gl.float32) + is_current * x2_shared.load(ROW).to(gl.float32)[None, :]
        score2 = gl.sum(every * query_row[None, :], 1) + 1.0
        every = gradients.to(gl.float32) + is_current * g2_shared.load(ROW).to(gl.float32)[None, :]
        update = gl.convert_layout(gl.sum(score2[:, None] * every, 0), VECTOR)
        z2 = gl.convert_layout(gl.sum(total, 1), VECTOR) / COLUMNS + bias2
        normed, _ = normalise(z2 - scale * update, F, EPS)
        gl.store(out + head * F + c, (q_vector + normed * gamma + beta).to(dtype))

        if last:
            # the fold: this token's vectors, stored above, are read from their slots by other threads
            barrier()
            zero = gl.zeros([F, BLOCK], gl.float32, MMA)
            all_keys = gl.load(k_slots + head * M * F + at_narrow)
            all_first = gl.load(g1_slots + head * M * N + at_wide)
            all_second = gl.load(x2_slots + head * M * N + at_wide)
            all_gradients = gl.load(g2_slots + head * M * F + at_narrow)
            old1 = gl.load(b1 + head * N + wide).to(gl.float32)
            old2 = gl.load(b2 + head * F + f).to(gl.float32)
            narrow_shared = gl.allocate_shared_memory(dtype, [M, F], SHARED)
            wide_shared = gl.allocate_shared_memory(dtype, [M, N], SHARED)
            narrow_shared.store(all_keys)
            wide_shared.store(all_first)
            operand_a = narrow_shared.permute([1, 0]).load(A)
            for part in gl.static_range(N // BLOCK):
                tile = s1.slice(part * BLOCK, BLOCK, dim=1)
                change = mma_v2(operand_a, wide_shared.slice(part * BLOCK, BLOCK, dim=1).load(B), zero)
                tile.store((tile.load(MMA).to(gl.float32) - scale * change).to(dtype))
            gl.store(w1 + head * F * N + at1, s1.load(COPY1))
            if following < total_heads:
                async_copy.async_copy_global_to_shared(s1, w1 + following.to(gl.int64) * F * N + at1)
            async_copy.commit_group()
            narrow_shared.store(all_gradients)
            wide_shared.store(all_second)
            operand_b = narrow_shared.load(B)
            for part in gl.static_range(N // BLOCK):
                tile = s2.slice(part * BLOCK, BLOCK, dim=0)
                change = mma_v2(wide_shared.slice(part * BLOCK, BLOCK, dim=1).permute([1, 0]).load(A), operand_b, zero)
                tile.store((tile.load(MMA).to(gl.float32) - scale * change).to(dtype))
            gl.store(w2 + head * F * N + at2, s2.load(COPY2))
            gl.store(b1 + head * N + wide, (old1 - scale * gl.sum(all_first.to(gl.float32), 0)).to(dtype))
            gl.store(b2 + head * F + f, (old2 - scale * gl.sum(all_gradients.to(gl.float32), 0)).to(dtype))
        if following < total_heads:
            async_copy.async_copy_global_to_shared(s2, w2 + following.to(gl.int64) * F * N + at2)
        async_copy.commit_group()


def mlp_decode_tensor(out: Tensor, *arguments: Tensor) -> None:
    """Launch for the checked arguments of :func:`.ttt_mlp_decode.mlp_decode`; writes ``out``."""
    v, lr, w1 = arguments[2], arguments[3], arguments[8]
    total = lr.numel()
    grid = min(total, PROGRAMS * multiprocessors(out.device))
    options = launch_options("ttt_mlp_decode_tensor", out.device, w1.dtype, 64)
    mlp_decode_tensor_kernel[(grid,)](
        *arguments[:3], v.stride(0), *arguments[3:], out, total, lr.shape[1], NORM_EPS, **options
    )
