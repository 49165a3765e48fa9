"""TTT-Linear over a whole prompt on the tensor cores, in Gluon: 16-bit state, heads of 64 (see :mod:`.prefill`).

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_prefill`. docs/prefill.md explains the design.

One program processes one sequence and head, a mini-batch at a time. Each of its W warps, two or four, owns F / W of the
output features. The state stays in registers for the whole prompt, in float32, as W transposed: the layout of the sums
of a product (its update) is then also the layout of an operand (its use), so that W never moves between threads.
A mini-batch is used as the left operand as it lies in shared memory. Gradients are turned within their warp, by one
instruction for each 8 x 8 block.

The queries are one mini-batch behind the keys. Both are then multiplied with the same W, and the chain of dependent
operations from one mini-batch to the next has only the keys in it. A query of the mini-batch before must not see the
update that W has got since: with S = Q Kᵀ + 1, the scores that add it back are (eta_last - [k ≤ q] eta_q) S.

The layer norms need sums over the features of all warps. All of them, for keys and queries and for the gradient of the
norm, are taken at once, before the mean is known, and exchanged through shared memory in one step. So a mini-batch has
two barriers: that exchange, and the arrival of the copies of q, k and v, which are made two mini-batches ahead.

Rounding: W, the gradients and the scores are rounded to the 16-bit dtype where they are operands. Everything else is
float32. The state is rounded once, at the end.

Registers: 255 per thread. Shared memory: 27,648 bytes per program with two warps, 28,672 with four.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.gluon_prefill import PREFILL_SCALE, begin_copies, moments, turned
from ttt_mlflow.kernels.launch import warps_of_a_chain


@gluon.jit
def exchange(buffer, a, b, c, d, e, f, g, h, W: gl.constexpr, MMA: gl.constexpr):
    """Sums over the features of all warps: eight [W, M, R] -> eight [1, M, 1], through ``buffer`` [W, M, 2, 2, 2]."""
    PARTS: gl.constexpr = gl.BlockedLayout([W, 1, 2, 2, 2], [1, 8, 2, 2, 1], [1, 1, 1, 1, W], [4, 3, 2, 1, 0])
    ROWS: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, MMA))
    first = gl.join(gl.join(gl.sum(a, 2), gl.sum(b, 2)), gl.join(gl.sum(c, 2), gl.sum(d, 2)))
    second = gl.join(gl.join(gl.sum(e, 2), gl.sum(f, 2)), gl.join(gl.sum(g, 2), gl.sum(h, 2)))
    buffer.store(gl.join(first, second))
    first, second = gl.split(gl.sum(buffer.load(PARTS), 0))
    ab, cd = gl.split(first)
    ef, gh = gl.split(second)
    a, b = gl.split(ab)
    c, d = gl.split(cd)
    e, f = gl.split(ef)
    g, h = gl.split(gh)
    a = gl.convert_layout(a, ROWS, assert_trivial=True)[None, :, None]
    b = gl.convert_layout(b, ROWS, assert_trivial=True)[None, :, None]
    c = gl.convert_layout(c, ROWS, assert_trivial=True)[None, :, None]
    d = gl.convert_layout(d, ROWS, assert_trivial=True)[None, :, None]
    e = gl.convert_layout(e, ROWS, assert_trivial=True)[None, :, None]
    f = gl.convert_layout(f, ROWS, assert_trivial=True)[None, :, None]
    g = gl.convert_layout(g, ROWS, assert_trivial=True)[None, :, None]
    h = gl.convert_layout(h, ROWS, assert_trivial=True)[None, :, None]
    return a, b, c, d, e, f, g, h


@gluon.jit
def step(
    weight, bias, scores, g_rows, k_rows, q_rows, v_rows, q_before, sums, out_buffer, rate, scale, last,
    gamma, beta, gamma_squares, past, g_slot, k_next, q_next, v_next, k_ahead, q_ahead, v_ahead, some, out, at_out,
    valid, W: gl.constexpr, EPS: gl.constexpr,
):  # fmt: skip
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    R: gl.constexpr = F // W
    dtype: gl.constexpr = k_rows.dtype
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    STORE: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [W, 1], [1, 0])

    gl.store(out + at_out, out_buffer.load(STORE), valid)  # of the round before
    # this mini-batch's keys, and the queries of the one before
    matrix = gl.convert_layout(weight.to(dtype).permute([0, 2, 1]), B, assert_trivial=True)
    key = k_rows.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    query = q_before.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    z = mma_v2(key, matrix, bias)
    zq = mma_v2(query, matrix, mma_v2(gl.convert_layout(scores, A, assert_trivial=True), g_rows, bias))
    own_q = q_before.reshape([M, W, R]).permute([1, 0, 2]).load(MMA)
    own_k = k_rows.reshape([M, W, R]).permute([1, 0, 2]).load(MMA)
    own_v = v_rows.reshape([M, W, R]).permute([1, 0, 2]).load(MMA)
    row = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    column = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    query = q_rows.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    key_t = k_rows.permute([1, 0]).load(gl.SliceLayout(0, B)).expand_dims(0).broadcast_to([W, F, M])
    scores = mma_v2(query, key_t, gl.zeros([W, M, M], gl.float32, MMA))
    factor = gl.where(column <= row, last - scale, last) / PREFILL_SCALE
    scores = ((scores + 1.0) * factor).to(dtype)
    keys = k_rows.load(gl.SliceLayout(0, B)).expand_dims(0).broadcast_to([W, M, F])
    # with c = gamma^2 and d = gamma (beta - target), the gradient of the loss behind the norm is c normed + d; all that
    # its own norm needs follows from sums that can be taken before the mean is known
    c = gamma * gamma
    d = gamma * (beta + own_k.to(gl.float32) - own_v.to(gl.float32))
    cz = c * z
    total, squares, cz, czz, dz, d_total, total_q, squares_q = exchange(
        sums, z, z * z, cz, cz * z, d * z, d, zq, zq * zq, W, MMA
    )
    async_copy.async_copy_global_to_shared(k_next, k_ahead, some)
    async_copy.async_copy_global_to_shared(q_next, q_ahead, some)
    async_copy.async_copy_global_to_shared(v_next, v_ahead, some)
    async_copy.commit_group()
    mean, rstd = moments(total, squares, F, EPS)
    g_total = rstd * (cz - mean * gamma_squares) + d_total
    g_along = rstd * (rstd * (czz - mean * (2.0 * cz - mean * gamma_squares)) + dz - mean * d_total)
    normed = z * rstd - mean * rstd
    gradient = (normed * (c - g_along / F) + (d - g_total / F)) * (rstd * rate)
    mean, rstd = moments(total_q, squares_q, F, EPS)
    result = ((zq * rstd - mean * rstd) * gamma + (own_q.to(gl.float32) + beta)).to(dtype)
    out_buffer.reshape([M, W, R]).permute([1, 0, 2]).store(result)

    warp = gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, MMA)))[:, None, None]
    own = gl.arange(0, R, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    if past > 0:  # the mini-batch has tokens from before the prompt
        early = (row < past).broadcast_to([W, M, R])
        slots = gl.load(g_slot + row * F + warp * R + own, early, 0.0)
        gradient = gl.where(early, slots.to(gl.float32), gradient)
    g = gradient.to(dtype)
    g_rows = gl.convert_layout(turned((gradient * PREFILL_SCALE).to(dtype)), B, assert_trivial=True)

    change = turned((gradient * -last).to(dtype))
    weight = mma_v2(gl.convert_layout(change.permute([0, 2, 1]), A, assert_trivial=True), keys, weight)
    ones = gl.full([W, M, M], 1.0, dtype, A)
    bias = mma_v2(ones, gl.convert_layout(change, B, assert_trivial=True), bias)
    return weight, bias, scores, g_rows, g


@gluon.jit
def linear_prefill_tensor_kernel(
    q, k, v, v_stride, lr, eta, position, norm_weight, norm_bias, w, b, k_slots, g_slots, out, length,
    HEADS: gl.constexpr, EPS: gl.constexpr, W: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    R: gl.constexpr = F // W
    dtype: gl.constexpr = w.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [W, 1], [1, 0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    SUMS: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [4, 3, 2, 1, 0])
    k_buffer = gl.allocate_shared_memory(dtype, [STAGES, M, F], SHARED)
    q_buffer = gl.allocate_shared_memory(dtype, [STAGES, M, F], SHARED)
    v_buffer = gl.allocate_shared_memory(dtype, [STAGES, M, F], SHARED)
    out_buffer = gl.allocate_shared_memory(dtype, [M, F], SHARED)
    sums = gl.allocate_shared_memory(gl.float32, [W, M, 2, 2, 2], SUMS)

    chain = gl.program_id(0).to(gl.int64)
    sequence = chain // HEADS
    head = chain % HEADS
    start = gl.load(position)
    total = start + length
    count = (total + M - 1) // M
    whole = total // M
    width: gl.constexpr = HEADS * F

    copy_row = gl.arange(0, M, layout=gl.SliceLayout(1, COPY))[:, None]
    copy_col = gl.arange(0, F, layout=gl.SliceLayout(0, COPY))[None, :]
    at_qk = (sequence * length - start + copy_row) * width + head * F + copy_col
    at_v = (sequence * length - start + copy_row) * v_stride + head * F + copy_col
    at_slot = chain * M * F + copy_row * F + copy_col
    token = copy_row - start  # of the first mini-batch

    begin_copies(
        k_buffer, q_buffer, v_buffer, q, k, v, v_stride, k_slots, at_qk, at_v, at_slot, token, length, width, STAGES
    )
    q_buffer.index(STAGES - 1).store(gl.zeros([M, F], dtype, COPY))  # nothing comes before the first mini-batch

    warp = gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, MMA)))[:, None, None]
    row_of_w = gl.arange(0, R, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    own = gl.arange(0, R, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    inputs = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    row = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    at_w = chain * F * F + inputs * F + warp * R + row_of_w
    at_b = (chain * F + warp * R + own).broadcast_to([W, M, R])
    weight = gl.load(w + at_w).to(gl.float32)
    bias = gl.load(b + at_b).to(gl.float32)
    gamma = gl.load(norm_weight + head * F + warp * R + own).to(gl.float32)
    beta = gl.load(norm_bias + head * F + warp * R + own).to(gl.float32)
    whole_gamma = gl.load(norm_weight + head * F + gl.arange(0, F, layout=gl.SliceLayout(0, COPY))).to(gl.float32)
    gamma_squares = gl.sum(whole_gamma * whole_gamma, 0)
    scale = gl.load(eta + row)
    last_eta = gl.load(eta + M - 1)
    at_out = (sequence * length - start - 2 * M + copy_row) * width + head * F + copy_col
    rates = lr + chain * length - start
    rate = gl.load(rates + row, (row >= start) & (row < total), 0.0)
    scores = gl.zeros([W, M, M], dtype, MMA)
    g_rows = gl.zeros([W, M, R], dtype, B)

    # the queries are one mini-batch behind, so there is one round more
    for n in range(0, count + 1):
        async_copy.wait_group(STAGES - 3)
        stage = n % STAGES
        ahead = n + STAGES - 2
        fill = ahead % STAGES
        next_rate = gl.load(rates + n * M + M + row, n * M + M + row < total, 0.0)
        some = (token + ahead * M < length).broadcast_to([M, F])
        stored = n * M - 2 * M + copy_row
        valid = ((stored >= start) & (stored < total)).broadcast_to([M, F])
        last = gl.where(n < whole, last_eta, 0.0)
        weight, bias, scores, g_rows, g = step(
            weight, bias, scores, g_rows, k_buffer.index(stage), q_buffer.index(stage), v_buffer.index(stage),
            q_buffer.index((n + STAGES - 1) % STAGES), sums, out_buffer, rate, scale, last, gamma, beta,
            gamma_squares, gl.where(n == 0, start, 0), g_slots + chain * M * F, k_buffer.index(fill),
            q_buffer.index(fill), v_buffer.index(fill), k + at_qk + ahead * M * width, q + at_qk + ahead * M * width,
            v + at_v + ahead * M * v_stride, some, out, at_out + n * M * width, valid, W, EPS,
        )  # fmt: skip
        rate = next_rate
        if n == whole:  # keep the vectors of a mini-batch that is not complete
            kept = (row < total - whole * M).broadcast_to([W, M, R])
            gl.store(g_slots + chain * M * F + row * F + warp * R + own, g, kept)
            kept_rows = (copy_row < total - whole * M).broadcast_to([M, F])
            gl.store(k_slots + at_slot, k_buffer.index(stage).load(COPY), kept_rows)

    stored = count * M - M + copy_row
    valid = ((stored >= start) & (stored < total)).broadcast_to([M, F])
    gl.store(out + at_out + (count + 1) * M * width, out_buffer.load(COPY), valid)
    gl.store(w + at_w, weight.to(dtype))
    gl.store(b + at_b, bias.to(dtype), (row == 0).broadcast_to([W, M, R]))


def linear_prefill_tensor(out: Tensor, *arguments: Tensor) -> None:
    """Launch with the checked arguments of :func:`.prefill.linear_prefill`. Writes ``out``."""
    q, v, lr = arguments[0], arguments[2], arguments[3]
    batch, heads, length = lr.shape
    warps = warps_of_a_chain(batch * heads, q.device)
    linear_prefill_tensor_kernel[(batch * heads,)](
        *arguments[:3], v.stride(1), *arguments[3:], out, length, heads, NORM_EPS, warps, 4, num_warps=warps,
    )  # fmt: skip
