"""TTT-Linear decode step on the tensor cores, in Gluon: 16-bit state, heads of 64 (see :mod:`.ttt_linear_decode`).

Twin: :func:`ttt_mlflow.kernels.reference.linear_decode`.

One program of one warp a head. W goes to shared memory by an asynchronous copy while the vectors are loaded and the
slots' part is computed; the tensor cores then make K W and Q W in one product with 16-bit inputs and float32 sums.
Everything else is float32. A warp alone needs no barrier, and with 80 registers a thread and 8 KB a program two dozen
heads are in flight on a multiprocessor, which is what hides the memory's latency. At the last position the update of
the mini-batch, a product of the slots, is added to W in shared memory, which is then written.

Bytes, per head and token, averaged over a mini-batch: the rank-1 form's floor, F^2 (1 + 1/M) and the vectors and slots.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from ttt_mlflow.kernels.gluon_functions import COLUMNS, barrier, column, layer_norm_l2_grad, normalise, two_columns
from ttt_mlflow.kernels.launch import launch_options
from ttt_mlflow.kernels.reference import NORM_EPS


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
    HEADS: gl.constexpr,
    EPS: gl.constexpr,
):
    F: gl.constexpr = 64
    M: gl.constexpr = 16
    dtype: gl.constexpr = w.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [1, 1], [16, 8])
    A: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    B: gl.constexpr = gl.DotOperandLayout(1, MMA, 2)
    OPERAND: gl.constexpr = gl.SliceLayout(1, B)
    VECTOR: gl.constexpr = gl.BlockedLayout([2], [32], [1], [0])
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [1, 1], [1, 0])
    SHARED: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])

    head = gl.program_id(0).to(gl.int64)
    sequence = head // HEADS
    h = head % HEADS
    now = gl.load(position)

    s = gl.allocate_shared_memory(dtype, [F, F], SHARED)
    rows = gl.arange(0, F, layout=gl.SliceLayout(1, COPY))
    cols = gl.arange(0, F, layout=gl.SliceLayout(0, COPY))
    at = rows[:, None] * F + cols[None, :]
    async_copy.async_copy_global_to_shared(s, w + head * F * F + at)
    async_copy.commit_group()

    f = gl.arange(0, F, layout=VECTOR)
    operand = gl.arange(0, F, layout=OPERAND)
    slots = gl.arange(0, M, layout=gl.SliceLayout(1, COPY))
    at_slots = slots[:, None] * F + cols[None, :]
    past = (slots < now)[:, None]
    keys = gl.load(k_slots + head * M * F + at_slots, past, 0.0)
    gradients = gl.load(g_slots + head * M * F + at_slots, past, 0.0)
    k_operand = gl.load(k + head * F + operand)
    q_operand = gl.load(q + head * F + operand)
    q_cols = gl.load(q + head * F + cols).to(gl.float32)
    k_vector = gl.load(k + head * F + f)
    q_vector = gl.load(q + head * F + f).to(gl.float32)
    v_vector = gl.load(v + sequence * v_stride + h * F + f).to(gl.float32)
    bias = gl.load(b + head * F + f).to(gl.float32)
    gamma = gl.load(norm_weight + h * F + f).to(gl.float32)
    beta = gl.load(norm_bias + h * F + f).to(gl.float32)
    rate = gl.load(lr + head)
    scale = gl.load(eta + now)
    k_wide = k_vector.to(gl.float32)

    # what this mini-batch's earlier tokens add for the query
    score = gl.sum(keys.to(gl.float32) * q_cols[None, :], 1) + 1.0
    past_update = gl.convert_layout(gl.sum(score[:, None] * gradients.to(gl.float32), 0), VECTOR)
    current = gl.sum(k_wide * q_vector, 0) + 1.0

    async_copy.wait_group(0)
    zero = gl.zeros([F, COLUMNS], gl.float32, MMA)
    acc = mma_v2(s.permute([1, 0]).load(A), two_columns(k_operand, q_operand, B), zero)
    z_k = gl.convert_layout(column(acc, 0, MMA), VECTOR) + bias
    z_q = gl.convert_layout(column(acc, 1, MMA), VECTOR) + bias
    gradient = (layer_norm_l2_grad(z_k, v_vector - k_wide, gamma, beta, F, EPS) * rate).to(dtype)
    gl.store(k_slots + head * M * F + now * F + f, k_vector)
    gl.store(g_slots + head * M * F + now * F + f, gradient)
    normed, _ = normalise(z_q - scale * (past_update + current * gradient.to(gl.float32)), F, EPS)
    gl.store(out + head * F + f, (q_vector + normed * gamma + beta).to(dtype))

    if now == M - 1:
        # the fold: this token's vectors, stored above, are read from their slots by other threads
        barrier()
        PART: gl.constexpr = 16  # columns of W folded at a time
        none = gl.zeros([F, PART], gl.float32, MMA)
        m_a = gl.arange(0, M, layout=gl.SliceLayout(0, A))
        f_a = gl.arange(0, F, layout=gl.SliceLayout(1, A))
        m_b = gl.arange(0, M, layout=gl.SliceLayout(1, B))
        f_b = gl.arange(0, PART, layout=gl.SliceLayout(0, B))
        keys_t = gl.load(k_slots + head * M * F + m_a[None, :] * F + f_a[:, None])
        for part in gl.static_range(F // PART):
            grads = gl.load(g_slots + head * M * F + m_b[:, None] * F + (part * PART + f_b)[None, :])
            tile = s.slice(part * PART, PART, dim=1)
            tile.store((tile.load(MMA).to(gl.float32) - scale * mma_v2(keys_t, grads, none)).to(dtype))
        every = gl.load(g_slots + head * M * F + at_slots)
        gl.store(w + head * F * F + at, s.load(COPY))
        new = gl.load(b + head * F + cols).to(gl.float32) - scale * gl.sum(every.to(gl.float32), 0)
        gl.store(b + head * F + cols, new.to(dtype))


def linear_decode_tensor(out: Tensor, *arguments: Tensor) -> None:
    """Launch for the checked arguments of :func:`.ttt_linear_decode.linear_decode`; writes ``out``."""
    v, lr, w = arguments[2], arguments[3], arguments[8]
    options = launch_options("ttt_linear_decode_tensor", out.device, w.dtype, 64)
    linear_decode_tensor_kernel[(lr.numel(),)](
        *arguments[:3], v.stride(0), *arguments[3:], out, lr.shape[1], NORM_EPS, **options
    )
