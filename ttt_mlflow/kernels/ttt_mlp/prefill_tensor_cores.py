"""TTT-MLP over a whole prompt on the tensor cores, in Gluon: 16-bit state, heads of 64 (see :mod:`.prefill`).

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_prefill`. docs/prefill.md explains the design.

One program of eight warps processes one sequence and head, a mini-batch at a time. Each warp owns 32 of the 256 hidden
units: its rows of W1 transposed and its columns of W2 transposed stay in its registers for the whole prompt, in float32
(128 registers per thread). As in :mod:`ttt_mlflow.kernels.ttt_linear.prefill_tensor_cores`, the sums of their updates
are the operands of their uses, and the queries are one mini-batch behind the keys.

Hidden units never leave their warp. The second layer's results are sums over the warps, which meet in shared memory,
once for keys and queries together. Each warp adds its own part of the scores X2q X2ᵀ to its part of the sum. The way
back through W2 needs it in the other orientation: each warp writes its part to shared memory and reads it transposed.
A mini-batch has three barriers: the arrival of the copies of q, k and v, the sums of the second layer, and its
gradient.

Rounding as for TTT-Linear. Registers: 255 per thread, with about 50 spilled values that are loaded and stored in each
mini-batch. Shared memory: 127,232 bytes, so one program fits on a multiprocessor of sm_80, sm_90 or sm_100.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.gluon_functions import ex2, rcp
from ttt_mlflow.kernels.gluon_prefill import PREFILL_SCALE, begin_copies, moments, turned
from ttt_mlflow.kernels.launch import launch_options


@gluon.jit
def layer_norm_l2_grad(z, gamma, d, WIDTH: gl.constexpr, EPS: gl.constexpr):
    """∂/∂z of ½‖LN(z) - target‖² for rows z [M, F], with d = gamma (beta - target).

    With c = gamma², the gradient behind the norm is c normed + d. All sums are taken at once, before the mean is known.
    """
    c = gamma * gamma
    cz = c * z
    total = gl.sum(z, 1, keep_dims=True)
    squares = gl.sum(z * z, 1, keep_dims=True)
    cz_total = gl.sum(cz, 1, keep_dims=True)
    czz_total = gl.sum(cz * z, 1, keep_dims=True)
    dz_total = gl.sum(d * z, 1, keep_dims=True)
    d_total = gl.sum(d, 1, keep_dims=True)
    c_total = gl.sum(c, 1, keep_dims=True)
    mean, rstd = moments(total, squares, WIDTH, EPS)
    g_total = rstd * (cz_total - mean * c_total) + d_total
    g_along = rstd * (rstd * (czz_total - mean * (2.0 * cz_total - mean * c_total)) + dz_total - mean * d_total)
    normed = z * rstd - mean * rstd
    return (normed * (c - g_along / WIDTH) + (d - g_total / WIDTH)) * rstd


@gluon.jit
def gelu(x):
    """tanh-approximated GELU, x · sigmoid(2u), with the constants of the exponential multiplied out."""
    return x * rcp(1.0 + ex2(x * (-2.302208198144325 - 0.10294323957982 * (x * x))))


@gluon.jit
def gelu_and_grad(x):
    """GELU(x) and its derivative."""
    squared = x * x
    s = rcp(1.0 + ex2(x * (-2.302208198144325 - 0.10294323957982 * squared)))
    y = x * s
    return y, s + (y - y * s) * (1.5957691216057308 + 0.21406632 * squared)


@gluon.jit
def step(
    weight1, bias1, weight2, bias2, scores1, g1_rows, before, k_rows, q_rows, v_rows, q_before, partial, partial_q,
    g2_buffer, g2_scaled, w2_buffer, bias_buffer, rate, scale, last, last_before, gamma, beta, past, g2_slot, k_next,
    q_next, v_next, k_ahead, q_ahead, v_ahead, some, out, at_out, valid, EPS: gl.constexpr,
):  # fmt: skip
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    W: gl.constexpr = 8
    N: gl.constexpr = 32
    dtype: gl.constexpr = k_rows.dtype
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    ROWS: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [W, 1], [1, 0])
    PARTS: gl.constexpr = gl.BlockedLayout([W, 1, 4], [1, 2, 16], [1, W, 1], [2, 1, 0])
    zero = gl.zeros([W, M, F], gl.float32, MMA)
    row = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    column = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]

    # first layer: this mini-batch's keys, and the queries of the one before
    matrix1 = gl.convert_layout(weight1.to(dtype).permute([0, 2, 1]), B, assert_trivial=True)
    key = k_rows.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    query = q_before.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    z1 = mma_v2(key, matrix1, bias1)
    zq1 = mma_v2(query, matrix1, mma_v2(gl.convert_layout(scores1, A, assert_trivial=True), g1_rows, bias1))
    x2, slope = gelu_and_grad(z1)
    hidden = x2.to(dtype)
    xq = gl.convert_layout(gelu(zq1).to(dtype), A, assert_trivial=True)

    # second layer: each warp has the part of its own hidden units; the parts meet in shared memory
    matrix2 = weight2.to(dtype)
    w2_buffer.store(matrix2)
    forward2 = gl.convert_layout(matrix2.permute([0, 2, 1]), B, assert_trivial=True)
    partial.store(mma_v2(gl.convert_layout(hidden, A, assert_trivial=True), forward2, zero))
    before_t = gl.convert_layout(before.permute([0, 2, 1]), B, assert_trivial=True)
    scores2 = mma_v2(xq, before_t, gl.zeros([W, M, M], gl.float32, MMA))
    factor = gl.where(column <= row, last_before - scale, last_before) / PREFILL_SCALE
    scores2 = ((scores2 + 1.0 / W) * factor).to(dtype)
    g2_rows = g2_scaled.load(gl.SliceLayout(0, B)).expand_dims(0).broadcast_to([W, M, F])
    zq2 = mma_v2(gl.convert_layout(scores2, A, assert_trivial=True), g2_rows, mma_v2(xq, forward2, zero))
    partial_q.store(zq2)
    bias_buffer.store(gl.sum(gl.where(row == 0, bias2, 0.0), 1))
    query_rows = q_before.load(ROWS).to(gl.float32)
    d = gamma * (beta + k_rows.load(ROWS).to(gl.float32) - v_rows.load(ROWS).to(gl.float32))

    bias2_rows = bias_buffer.reshape([F]).load(gl.SliceLayout(0, ROWS))[None, :]
    z2 = gl.convert_layout(gl.sum(partial.load(PARTS), 0), ROWS, assert_trivial=True) + bias2_rows
    zq2 = gl.convert_layout(gl.sum(partial_q.load(PARTS), 0), ROWS, assert_trivial=True) + bias2_rows
    async_copy.async_copy_global_to_shared(k_next, k_ahead, some)
    async_copy.async_copy_global_to_shared(q_next, q_ahead, some)
    async_copy.async_copy_global_to_shared(v_next, v_ahead, some)
    async_copy.commit_group()
    gradient = layer_norm_l2_grad(z2, gamma, d, F, EPS) * rate
    row_2 = gl.arange(0, M, layout=gl.SliceLayout(1, ROWS))[:, None]
    col_2 = gl.arange(0, F, layout=gl.SliceLayout(0, ROWS))[None, :]
    early = (row_2 < past).broadcast_to([M, F])  # tokens of the mini-batch from before the prompt
    gradient = gl.where(early, gl.load(g2_slot + row_2 * F + col_2, early, 0.0).to(gl.float32), gradient)
    g2_buffer.store(gradient.to(dtype))
    g2_scaled.store((gradient * PREFILL_SCALE).to(dtype))
    mean, rstd = moments(gl.sum(zq2, 1, keep_dims=True), gl.sum(zq2 * zq2, 1, keep_dims=True), F, EPS)
    result = (zq2 * rstd - mean * rstd) * gamma + (query_rows + beta)
    gl.store(out + at_out, result.to(dtype), valid)

    # the gradient back to the first layer, and the updates
    g2 = g2_buffer.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    g1 = mma_v2(g2, w2_buffer.load(B), gl.zeros([W, M, N], gl.float32, MMA)) * slope
    g1_16 = g1.to(dtype)
    g1_rows = gl.convert_layout(turned((g1 * PREFILL_SCALE).to(dtype)), B, assert_trivial=True)
    query = q_rows.load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, M, F])
    key_t = k_rows.permute([1, 0]).load(gl.SliceLayout(0, B)).expand_dims(0).broadcast_to([W, F, M])
    scores1 = mma_v2(query, key_t, gl.zeros([W, M, M], gl.float32, MMA))
    factor = gl.where(column <= row, last - scale, last) / PREFILL_SCALE
    scores1 = ((scores1 + 1.0) * factor).to(dtype)
    change1 = turned((g1 * -last).to(dtype))
    keys = k_rows.load(gl.SliceLayout(0, B)).expand_dims(0).broadcast_to([W, M, F])
    weight1 = mma_v2(gl.convert_layout(change1.permute([0, 2, 1]), A, assert_trivial=True), keys, weight1)
    ones = gl.full([W, M, M], 1.0, dtype, A)
    bias1 = mma_v2(ones, gl.convert_layout(change1, B, assert_trivial=True), bias1)
    inputs2 = gl.convert_layout(turned((hidden.to(gl.float32) * -last).to(dtype)), B, assert_trivial=True)
    change2 = g2_buffer.permute([1, 0]).load(gl.SliceLayout(0, A)).expand_dims(0).broadcast_to([W, F, M])
    weight2 = mma_v2(change2, inputs2, weight2)
    own_g2 = g2_buffer.reshape([M, W, F // W]).permute([1, 0, 2]).load(B)
    bias2 -= last * mma_v2(ones, own_g2, gl.zeros([W, M, F // W], gl.float32, MMA))
    return weight1, bias1, weight2, bias2, scores1, g1_rows, hidden, g1_16, gradient.to(dtype)


@gluon.jit
def mlp_prefill_tensor_kernel(
    q, k, v, v_stride, lr, eta, position, norm_weight, norm_bias, w1, b1, w2, b2, k_slots, g1_slots, x2_slots,
    g2_slots, out, length, HEADS: gl.constexpr, EPS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    W: gl.constexpr = 8
    N: gl.constexpr = 32
    dtype: gl.constexpr = w1.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [W, 1, 1], [1, 16, 8])
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    ROWS: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [W, 1], [1, 0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    k_buffer = gl.allocate_shared_memory(dtype, [STAGES, M, F], SHARED)
    q_buffer = gl.allocate_shared_memory(dtype, [STAGES, M, F], SHARED)
    v_buffer = gl.allocate_shared_memory(dtype, [STAGES, M, F], SHARED)
    g2_buffer = gl.allocate_shared_memory(dtype, [M, F], SHARED)
    g2_scaled = gl.allocate_shared_memory(dtype, [M, F], SHARED)
    PARTIAL: gl.constexpr = gl.SwizzledSharedLayout(4, 1, 8, [2, 1, 0])
    partial = gl.allocate_shared_memory(gl.float32, [W, M, F], PARTIAL)
    partial_q = gl.allocate_shared_memory(gl.float32, [W, M, F], PARTIAL)
    w2_buffer = gl.allocate_shared_memory(dtype, [W, F, N], gl.SwizzledSharedLayout(8, 2, 4, [2, 1, 0]))
    bias_buffer = gl.allocate_shared_memory(gl.float32, [W, F // W], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))

    chain = gl.program_id(0).to(gl.int64)
    sequence = chain // HEADS
    head = chain % HEADS
    start = gl.load(position)
    total = start + length
    count = (total + M - 1) // M
    whole = total // M
    width: gl.constexpr = HEADS * F

    row_2 = gl.arange(0, M, layout=gl.SliceLayout(1, ROWS))[:, None]
    col_2 = gl.arange(0, F, layout=gl.SliceLayout(0, ROWS))[None, :]
    at_qk = (sequence * length - start + row_2) * width + head * F + col_2
    at_v = (sequence * length - start + row_2) * v_stride + head * F + col_2
    at_slot = chain * M * F + row_2 * F + col_2
    token = row_2 - start  # of the first mini-batch

    begin_copies(
        k_buffer, q_buffer, v_buffer, q, k, v, v_stride, k_slots, at_qk, at_v, at_slot, token, length, width, STAGES
    )
    # nothing comes before the first mini-batch
    q_buffer.index(STAGES - 1).store(gl.zeros([M, F], dtype, ROWS))
    g2_scaled.store(gl.zeros([M, F], dtype, ROWS))

    warp = gl.arange(0, W, layout=gl.SliceLayout(1, gl.SliceLayout(2, MMA)))[:, None, None]
    row_n = gl.arange(0, N, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    col_n = gl.arange(0, N, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    row_f = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    col_f = gl.arange(0, F, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    row = gl.arange(0, M, layout=gl.SliceLayout(0, gl.SliceLayout(2, MMA)))[None, :, None]
    own = gl.arange(0, F // W, layout=gl.SliceLayout(0, gl.SliceLayout(1, MMA)))[None, None, :]
    at_w1 = chain * F * W * N + col_f * (W * N) + warp * N + row_n
    at_w2 = chain * F * W * N + (warp * N + col_n) * F + row_f
    at_b1 = (chain * W * N + warp * N + col_n).broadcast_to([W, M, N])
    at_b2 = (chain * F + warp * (F // W) + own).broadcast_to([W, M, F // W])
    weight1 = gl.load(w1 + at_w1).to(gl.float32)
    weight2 = gl.load(w2 + at_w2).to(gl.float32)
    bias1 = gl.load(b1 + at_b1).to(gl.float32)
    bias2 = gl.load(b2 + at_b2).to(gl.float32)
    scale = gl.load(eta + row)
    last_eta = gl.load(eta + M - 1)
    gamma = gl.load(norm_weight + head * F + col_2).to(gl.float32)
    beta = gl.load(norm_bias + head * F + col_2).to(gl.float32)
    at_out = (sequence * length - start - M + row_2) * width + head * F + col_2
    rates = lr + chain * length - start
    rate = gl.load(rates + row_2, (row_2 >= start) & (row_2 < total), 0.0)
    scores1 = gl.zeros([W, M, M], dtype, MMA)
    g1_rows = gl.zeros([W, M, N], dtype, B)
    before = gl.zeros([W, M, N], dtype, MMA)
    last_before = last_eta

    # the queries are one mini-batch behind, so there is one round more
    for n in range(0, count + 1):
        async_copy.wait_group(STAGES - 3)
        stage = n % STAGES
        rows = n * M + row_2
        next_rate = gl.load(rates + rows + M, rows + M < total, 0.0)
        ahead = n + STAGES - 2
        fill = ahead % STAGES
        some = (token + ahead * M < length).broadcast_to([M, F])
        valid = ((rows - M >= start) & (rows - M < total)).broadcast_to([M, F])
        last = gl.where(n < whole, last_eta, 0.0)
        weight1, bias1, weight2, bias2, scores1, g1_rows, before, g1, g2 = step(
            weight1, bias1, weight2, bias2, scores1, g1_rows, before, k_buffer.index(stage), q_buffer.index(stage),
            v_buffer.index(stage), q_buffer.index((n + STAGES - 1) % STAGES), partial, partial_q, g2_buffer, g2_scaled,
            w2_buffer, bias_buffer, rate, scale, last, last_before, gamma, beta, gl.where(n == 0, start, 0),
            g2_slots + chain * M * F, k_buffer.index(fill), q_buffer.index(fill), v_buffer.index(fill),
            k + at_qk + ahead * M * width, q + at_qk + ahead * M * width, v + at_v + ahead * M * v_stride, some,
            out, at_out + n * M * width, valid, EPS,
        )  # fmt: skip
        rate = next_rate
        last_before = last
        if n == whole:  # keep the vectors of a mini-batch that is not complete
            kept = (row < total - whole * M).broadcast_to([W, M, N])
            at_unit = chain * M * W * N + row * (W * N) + warp * N + col_n
            gl.store(g1_slots + at_unit, g1, kept)
            gl.store(x2_slots + at_unit, before, kept)
            kept_2 = (row_2 < total - whole * M).broadcast_to([M, F])
            gl.store(g2_slots + at_slot, g2, kept_2)
            gl.store(k_slots + at_slot, k_buffer.index(stage).load(ROWS), kept_2)

    gl.store(w1 + at_w1, weight1.to(dtype))
    gl.store(w2 + at_w2, weight2.to(dtype))
    gl.store(b1 + at_b1, bias1.to(dtype), (row == 0).broadcast_to([W, M, N]))
    gl.store(b2 + at_b2, bias2.to(dtype), (row == 0).broadcast_to([W, M, F // W]))


def mlp_prefill_tensor(out: Tensor, *arguments: Tensor) -> None:
    """Launch with the checked arguments of :func:`.prefill.mlp_prefill`. Writes ``out``."""
    q, v, lr = arguments[0], arguments[2], arguments[3]
    batch, heads, length = lr.shape
    options = launch_options("ttt_mlp_prefill_tensor", q.device, q.dtype, 64)
    mlp_prefill_tensor_kernel[(batch * heads,)](
        *arguments[:3], v.stride(1), *arguments[3:], out, length, heads, NORM_EPS, 4, **options,
    )  # fmt: skip
