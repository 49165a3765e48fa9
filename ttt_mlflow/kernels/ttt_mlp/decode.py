"""TTT-MLP decode step in Triton, rank-1 form (inner net ``mlp_2_dual_triton``).

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_decode`, which defines shapes and meaning.

Layout: one program per head (sequence-major); W1 [F, N] and W2 [N, F] row-major with N = 4 F, in tiles of TILE hidden
units. STAGES - 1 tiles are being copied to shared memory while one is processed. A first loop takes keys and query
through the first layer, and the keys through the second. Then the gradient at the output is known. A second loop
computes the first layer's gradient from it and continues with the query. W2 is needed in both loops and read twice, the
second time most likely from the cache. The vectors of the earlier tokens of the mini-batch are read from their slots.
At the last position, the matrices are read again (from the cache) and written with the mini-batch's update folded in.

Bytes, per head and token, averaged over a mini-batch of M: 2 F N (1 + 1/M) for the matrices, plus vectors and slots.
Limits: F up to 128 (padded to a power of two), M = 16, state in one dtype, contiguous. All state dtypes, and Triton's
interpreter. 16-bit state with heads of 64 uses the tensor-core kernel, ``ttt_mlp_decode_tensor``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.checks import check_decode_arguments, head_shape
from ttt_mlflow.kernels.functions import gelu, gelu_and_grad, layer_norm, layer_norm_l2_grad, piece, put_piece
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.launch import launch_options, on_tensor_cores, overlaps
from ttt_mlflow.kernels.opaque import opaque


@triton.jit
def mlp_fold(
    bias2,
    scale,
    w1,
    b1,
    w2,
    b2,
    k_slots,
    g1_slots,
    x2_slots,
    g2_slots,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """At a mini-batch's end: subtract its update from a head's state. The pointers are to the head's own.

    bias2 [BLOCK] float32: b2, as it was. CHUNK: hidden units that are processed at a time.
    """
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    cols, slots = tl.arange(0, BLOCK), tl.arange(0, SLOTS)
    mask = cols < HEAD_DIM
    tl.debug_barrier()  # this position's vectors, stored before, are read below by other threads
    narrow = slots[:, None] * HEAD_DIM + cols[None, :]
    all_narrow = mask[None, :] & (slots >= 0)[:, None]
    all_keys = tl.load(k_slots + narrow, all_narrow, 0.0)
    all_g2 = tl.load(g2_slots + narrow, all_narrow, 0.0)
    tl.store(b2 + cols, bias2 - scale * tl.sum(all_g2.to(tl.float32), 0), mask)
    for start in range(0, HIDDEN, CHUNK):
        unit = start + tl.arange(0, CHUNK)
        all_g1 = tl.load(g1_slots + slots[:, None] * HIDDEN + unit[None, :])
        all_x2 = tl.load(x2_slots + slots[:, None] * HIDDEN + unit[None, :])
        w1_part = w1 + cols[:, None] * HIDDEN + unit[None, :]
        w1_new = tl.load(w1_part, mask[:, None], 0.0).to(tl.float32)
        w1_new -= scale * tl.dot(tl.trans(all_keys), all_g1, input_precision="ieee")
        tl.store(w1_part, w1_new, mask[:, None])
        w2_part = w2 + unit[:, None] * HEAD_DIM + cols[None, :]
        w2_new = tl.load(w2_part, mask[None, :], 0.0).to(tl.float32)
        w2_new -= scale * tl.dot(tl.trans(all_x2), all_g2, input_precision="ieee")
        tl.store(w2_part, w2_new, mask[None, :])
        b1_new = tl.load(b1 + unit).to(tl.float32)
        tl.store(b1 + unit, b1_new - scale * tl.sum(all_g1.to(tl.float32), 0))


@triton.jit
def mlp_decode_head(
    head,
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
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    """``head`` counts sequences and heads, sequence-major."""
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    PIECES: tl.constexpr = 4 * BLOCK // TILE
    sequence, h = head // HEADS, head % HEADS
    now = tl.load(position)
    cols, slots, units = tl.arange(0, BLOCK), tl.arange(0, SLOTS), tl.arange(0, TILE)
    mask, past = cols < HEAD_DIM, (slots < now)[:, None]
    vector = head * HEAD_DIM + cols
    w1, w2 = w1 + head * HEAD_DIM * HIDDEN, w2 + head * HEAD_DIM * HIDDEN
    b1 += head * HIDDEN
    k_slots, g2_slots = k_slots + head * SLOTS * HEAD_DIM, g2_slots + head * SLOTS * HEAD_DIM
    g1_slots, x2_slots = g1_slots + head * SLOTS * HIDDEN, x2_slots + head * SLOTS * HIDDEN
    b2 += head * HEAD_DIM
    first = cols[:, None] * HIDDEN + units[None, :]  # the first tile of W1
    second = units[:, None] * HEAD_DIM + cols[None, :]  # the first tile of W2
    narrow = slots[:, None] * HEAD_DIM + cols[None, :]  # slots of F
    broad = slots[:, None] * HIDDEN + units[None, :]  # the first tile of slots of N

    k_cols = tl.load(k + vector, mask, 0.0)
    q_cols = tl.load(q + vector, mask, 0.0).to(tl.float32)
    scale = tl.load(eta + now)
    k_wide = k_cols.to(tl.float32)

    # the keys through both layers, the query through the first
    inputs = tl.zeros((4 * BLOCK,), tl.float32)
    slopes = tl.zeros((4 * BLOCK,), tl.float32)
    queries = tl.zeros((4 * BLOCK,), tl.float32)
    z2 = tl.zeros((BLOCK,), tl.float32)
    for tile in tl.range(0, (HIDDEN + TILE - 1) // TILE, num_stages=STAGES):
        hidden = tile * TILE + units
        real = hidden < HIDDEN
        w1_tile = tl.load(w1 + first + tile * TILE, mask[:, None] & real[None, :], 0.0).to(tl.float32)
        w2_tile = tl.load(w2 + second + tile * TILE * HEAD_DIM, real[:, None] & mask[None, :], 0.0).to(tl.float32)
        bias1 = tl.load(b1 + hidden, real, 0.0).to(tl.float32)
        x2, slope = gelu_and_grad(tl.sum(k_wide[:, None] * w1_tile, 0) + bias1)
        queries = put_piece(queries, tile, tl.sum(q_cols[:, None] * w1_tile, 0) + bias1, PIECES)
        x2 = x2.to(x2_slots.dtype.element_ty)
        tl.store(x2_slots + now * HIDDEN + hidden, x2, real)
        x2 = x2.to(tl.float32)
        z2 += tl.sum(x2[:, None] * w2_tile, 0)
        inputs = put_piece(inputs, tile, x2, PIECES)
        slopes = put_piece(slopes, tile, slope, PIECES)
    v_cols = tl.load(v + sequence * v_stride + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias2 = tl.load(b2 + cols, mask, 0.0).to(tl.float32)
    rate = tl.load(lr + head)
    g2 = layer_norm_l2_grad(z2 + bias2, v_cols - k_wide, gamma, beta, mask, HEAD_DIM, EPS) * rate
    g2 = g2.to(g2_slots.dtype.element_ty)
    g2_wide = g2.to(tl.float32)
    tl.store(k_slots + now * HEAD_DIM + cols, k_cols, mask)
    tl.store(g2_slots + now * HEAD_DIM + cols, g2, mask)

    # the first layer's gradient, and the query through both layers, with this mini-batch's updates
    keys = tl.load(k_slots + narrow, past & mask[None, :], 0.0)
    score1 = tl.sum(keys.to(tl.float32) * q_cols[None, :], 1) + 1.0
    current1 = tl.sum(k_wide * q_cols, 0) + 1.0
    z2 = tl.zeros((BLOCK,), tl.float32)
    score2 = tl.full((SLOTS,), 1.0, tl.float32)
    current2 = 1.0
    for tile in tl.range(0, (HIDDEN + TILE - 1) // TILE, num_stages=STAGES):
        hidden = tile * TILE + units
        real = hidden < HIDDEN
        w2_tile = tl.load(w2 + second + tile * TILE * HEAD_DIM, real[:, None] & mask[None, :], 0.0).to(tl.float32)
        g1 = tl.sum(w2_tile * g2_wide[None, :], 1) * piece(slopes, tile, PIECES)
        g1 = g1.to(g1_slots.dtype.element_ty)
        tl.store(g1_slots + now * HIDDEN + hidden, g1, real)
        past_g1 = tl.load(g1_slots + broad + tile * TILE, past & real[None, :], 0.0).to(tl.float32)
        past_x2 = tl.load(x2_slots + broad + tile * TILE, past & real[None, :], 0.0).to(tl.float32)
        update = tl.sum(score1[:, None] * past_g1, 0) + current1 * g1.to(tl.float32)
        query = gelu(piece(queries, tile, PIECES) - scale * update)
        z2 += tl.sum(query[:, None] * w2_tile, 0)
        score2 += tl.sum(past_x2 * query[None, :], 1)
        current2 += tl.sum(query * piece(inputs, tile, PIECES), 0)
    past_g2 = tl.load(g2_slots + narrow, past & mask[None, :], 0.0)
    update = tl.sum(score2[:, None] * past_g2.to(tl.float32), 0) + current2 * g2_wide
    # read again, now from the cache, instead of kept in registers
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias2 = tl.load(b2 + cols, mask, 0.0).to(tl.float32)
    result = q_cols + layer_norm(z2 + bias2 - scale * update, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + vector, result, mask)

    if now == SLOTS - 1:
        mlp_fold(bias2, scale, w1, b1, w2, b2, k_slots, g1_slots, x2_slots, g2_slots, HEAD_DIM, BLOCK, CHUNK, SLOTS)


@triton.jit
def mlp_decode_kernel(
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
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    EPS: tl.constexpr,
):
    mlp_decode_head(
        tl.program_id(0).to(tl.int64), q, k, v, v_stride, lr, eta, position, norm_weight, norm_bias, w1, b1, w2, b2,
        k_slots, g1_slots, x2_slots, g2_slots, out, HEADS, HEAD_DIM, BLOCK, TILE, STAGES, CHUNK, SLOTS, EPS,
    )  # fmt: skip


TILE = 16  # hidden units per tile
STAGES = 4  # tiles that are processed or being copied
CHUNK = 32  # hidden units that are folded at a time; tl.dot needs at least 16, and 4 F is a multiple of 32


@opaque(
    mutates=["w1", "b1", "w2", "b2", "k_slots", "g1_slots", "x2_slots", "g2_slots"],
    shapes=lambda q, *_, **__: torch.empty_like(q),
)
def mlp_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    k_slots: Tensor,
    g1_slots: Tensor,
    x2_slots: Tensor,
    g2_slots: Tensor,
    *,
    overlap: bool = False,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_decode`.

    ``overlap``: the launch may begin before the previous kernel on the stream has ended (tensor-core kernel, from
    compute capability 9.0; otherwise without effect). This is correct only if the previous kernel writes nothing but q,
    k, v and lr: state, slots, norms, eta and position are read before it has ended.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, heads, dim = head_shape("b2", b2)
    tokens = (batch, heads, MINI_BATCH)
    check_decode_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={
            "b2": (b2, (batch, heads, dim)), "b1": (b1, (batch, heads, 4 * dim)),
            "w1": (w1, (batch, heads, dim, 4 * dim)), "w2": (w2, (batch, heads, 4 * dim, dim)),
            "k_slots": (k_slots, (*tokens, dim)), "g1_slots": (g1_slots, (*tokens, 4 * dim)),
            "x2_slots": (x2_slots, (*tokens, 4 * dim)), "g2_slots": (g2_slots, (*tokens, dim)),
        },
    )  # fmt: skip
    out = torch.empty_like(q)
    if on_tensor_cores("ttt_mlp_decode_tensor", q.device, w1.dtype, dim):
        from ttt_mlflow.kernels.ttt_mlp.decode_tensor_cores import mlp_decode_tensor

        mlp_decode_tensor(
            out, overlap and overlaps(q.device), q, k, v, lr, eta, position, norm_weight, norm_bias, w1, b1, w2, b2,
            k_slots, g1_slots, x2_slots, g2_slots,
        )  # fmt: skip
        return out
    options = launch_options("ttt_mlp_decode", q.device, w1.dtype, dim)
    mlp_decode_kernel[(batch * heads,)](
        q, k, v, v.stride(0), lr, eta, position, norm_weight, norm_bias, w1, b1, w2, b2,
        k_slots, g1_slots, x2_slots, g2_slots, out,
        heads, dim, triton.next_power_of_2(dim), TILE, STAGES, CHUNK, MINI_BATCH, NORM_EPS, **options,
    )  # fmt: skip
    return out
