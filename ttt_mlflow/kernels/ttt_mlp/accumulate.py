"""TTT-MLP decode step in Triton, accumulating form: the baseline with which the rank-1 form is compared.

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_accumulate`, which defines shapes and meaning.

Layout: one program per head (sequence-major); W1 [F, N] and W2 [N, F] row-major with N = 4 F, and their sums likewise,
in tiles of TILE hidden units. STAGES - 1 tiles are being copied to shared memory while one is processed. A first loop
takes keys and query through the first layer, and the keys through the second. Then the gradient at the output is known.
A second loop computes the first layer's gradient from it, adds the token to both sums, and continues with the query. W2
is needed in both loops and read twice, the second time most likely from the cache. W1 and the sums are read once, and
the sums are written once. The query first uses a sum as it was before the token, (Q S) + (Q·K) g instead of
Q (S + Kᵀ g), so that the reads do not wait for the gradient. The first token of a mini-batch does not read the sums.
The last token writes the matrices instead of the sums, and for that reads W1 again.

Bytes, per head and token, averaged over a mini-batch of M: 2 F N (1 + 2 (M - 1)/M + 1/M) for the matrices, 23.5 F² at
M = 16, and about 20 F for vectors.
Limits: F up to 128 (padded to a power of two), M = 16, state and sums in one dtype, contiguous; any GPU, and Triton's
interpreter. The sums are rounded to their dtype at every token, after the output was computed from them. Over three
mini-batches, the error against float64 stays within the rank-1 form's tolerances, 1e-3 for float16 and 8e-3 for
bfloat16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.checks import check_decode_arguments, head_shape
from ttt_mlflow.kernels.functions import gelu, gelu_and_grad, layer_norm, layer_norm_l2_grad, piece, put_piece
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.launch import launch_options
from ttt_mlflow.kernels.opaque import opaque


@triton.jit
def mlp_accumulate_kernel(
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
    w1_sum,
    b1_sum,
    w2_sum,
    b2_sum,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    TOKENS: tl.constexpr,
    EPS: tl.constexpr,
):
    HIDDEN: tl.constexpr = 4 * HEAD_DIM
    PIECES: tl.constexpr = 4 * BLOCK // TILE
    head = tl.program_id(0).to(tl.int64)  # counts sequences and heads
    sequence, h = head // HEADS, head % HEADS
    now = tl.load(position)
    begun, last = now > 0, now == TOKENS - 1
    cols, units = tl.arange(0, BLOCK), tl.arange(0, TILE)
    mask = cols < HEAD_DIM
    vector = head * HEAD_DIM + cols
    matrix = head * HEAD_DIM * HIDDEN
    w1, w2, w1_sum, w2_sum = w1 + matrix, w2 + matrix, w1_sum + matrix, w2_sum + matrix
    first = cols[:, None] * HIDDEN + units[None, :]  # the first tile of W1 and of its sum
    second = units[:, None] * HEAD_DIM + cols[None, :]  # of W2 and of its sum

    k_cols = tl.load(k + vector, mask, 0.0).to(tl.float32)
    q_cols = tl.load(q + vector, mask, 0.0).to(tl.float32)
    scale = tl.load(eta + now)
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
        bias1 = tl.load(b1 + head * HIDDEN + hidden, real, 0.0).to(tl.float32)
        x2, slope = gelu_and_grad(tl.sum(k_cols[:, None] * w1_tile, 0) + bias1)
        queries = put_piece(queries, tile, tl.sum(q_cols[:, None] * w1_tile, 0) + bias1, PIECES)
        z2 += tl.sum(x2[:, None] * w2_tile, 0)
        inputs = put_piece(inputs, tile, x2, PIECES)
        slopes = put_piece(slopes, tile, slope, PIECES)
    v_cols = tl.load(v + sequence * v_stride + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias2 = tl.load(b2 + vector, mask, 0.0).to(tl.float32)
    rate = tl.load(lr + head)
    g2 = layer_norm_l2_grad(z2 + bias2, v_cols - k_cols, gamma, beta, mask, HEAD_DIM, EPS) * rate

    # the first layer's gradient, and the query through both layers: first the old sum, then this token's gradient
    current1 = tl.sum(k_cols * q_cols, 0) + 1.0
    current2 = 1.0
    z2 = tl.zeros((BLOCK,), tl.float32)
    for tile in tl.range(0, (HIDDEN + TILE - 1) // TILE, num_stages=STAGES):
        hidden = tile * TILE + units
        real = hidden < HIDDEN
        at1, mask1 = first + tile * TILE, mask[:, None] & real[None, :]
        at2, mask2 = second + tile * TILE * HEAD_DIM, real[:, None] & mask[None, :]
        x2 = piece(inputs, tile, PIECES)
        w2_tile = tl.load(w2 + at2, mask2, 0.0).to(tl.float32)
        before1 = tl.load(w1_sum + at1, mask1 & begun, 0.0).to(tl.float32)
        before2 = tl.load(w2_sum + at2, mask2 & begun, 0.0).to(tl.float32)
        bias1_before = tl.load(b1_sum + head * HIDDEN + hidden, real & begun, 0.0).to(tl.float32)
        g1 = tl.sum(w2_tile * g2[None, :], 1) * piece(slopes, tile, PIECES)
        past = tl.sum(q_cols[:, None] * before1, 0) + bias1_before
        query = gelu(piece(queries, tile, PIECES) - scale * (past + current1 * g1))
        z2 += tl.sum(query[:, None] * (w2_tile - scale * before2), 0)
        current2 += tl.sum(query * x2, 0)
        summed1 = before1 + k_cols[:, None] * g1[None, :]
        summed2 = before2 + x2[:, None] * g2[None, :]
        if last:
            w1_tile = tl.load(w1 + at1, mask1, 0.0).to(tl.float32)
            bias1 = tl.load(b1 + head * HIDDEN + hidden, real, 0.0).to(tl.float32)
            tl.store(w1 + at1, w1_tile - scale * summed1, mask1)
            tl.store(w2 + at2, w2_tile - scale * summed2, mask2)
            tl.store(b1 + head * HIDDEN + hidden, bias1 - scale * (bias1_before + g1), real)
        else:
            tl.store(w1_sum + at1, summed1, mask1)
            tl.store(w2_sum + at2, summed2, mask2)
            tl.store(b1_sum + head * HIDDEN + hidden, bias1_before + g1, real)
    # read again, now from the cache, instead of kept in registers
    gamma = tl.load(norm_weight + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    beta = tl.load(norm_bias + h * HEAD_DIM + cols, mask, 0.0).to(tl.float32)
    bias2 = tl.load(b2 + vector, mask, 0.0).to(tl.float32)
    bias2_before = tl.load(b2_sum + vector, mask & begun, 0.0).to(tl.float32)
    z2 += bias2 - scale * (bias2_before + current2 * g2)
    result = q_cols + layer_norm(z2, gamma, beta, mask, HEAD_DIM, EPS)
    tl.store(out + vector, result, mask)
    tl.debug_barrier()  # every warp has read its copy of the biases that are written now
    if last:
        tl.store(b2 + vector, bias2 - scale * (bias2_before + g2), mask)
    else:
        tl.store(b2_sum + vector, bias2_before + g2, mask)


def tiles(dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """Hidden units per tile, and the number of tiles that are processed or being copied.

    For 16-bit state with heads of 64: the fastest of 30 combinations on an H200 (tiles of 16 in four stages take 2.3
    times as long). For the others: the largest tiles without spills.
    """
    return (64, 1) if dim <= 64 and dtype != torch.float32 else (16, 4)


@opaque(
    mutates=["w1", "b1", "w2", "b2", "w1_sum", "b1_sum", "w2_sum", "b2_sum"],
    shapes=lambda q, *_: torch.empty_like(q),
)
def mlp_accumulate(
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
    w1_sum: Tensor,
    b1_sum: Tensor,
    w2_sum: Tensor,
    b2_sum: Tensor,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_accumulate`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, heads, dim = head_shape("b2", b2)
    shapes = {
        "b2": (batch, heads, dim), "b1": (batch, heads, 4 * dim),
        "w1": (batch, heads, dim, 4 * dim), "w2": (batch, heads, 4 * dim, dim),
    }  # fmt: skip
    state = {"b2": b2, "b1": b1, "w1": w1, "w2": w2}
    sums = {"b2": b2_sum, "b1": b1_sum, "w1": w1_sum, "w2": w2_sum}
    check_decode_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={name: (tensor, shapes[name]) for name, tensor in state.items()}
        | {f"{name}_sum": (tensor, shapes[name]) for name, tensor in sums.items()},
    )  # fmt: skip
    out = torch.empty_like(q)
    tile, stages = tiles(dim, w1.dtype)
    options = launch_options("ttt_mlp_accumulate", q.device, w1.dtype, dim)
    mlp_accumulate_kernel[(batch * heads,)](
        q, k, v, v.stride(0), lr, eta, position, norm_weight, norm_bias, w1, b1, w2, b2,
        w1_sum, b1_sum, w2_sum, b2_sum, out,
        heads, dim, triton.next_power_of_2(dim), tile, stages, MINI_BATCH, NORM_EPS, **options,
    )  # fmt: skip
    return out
