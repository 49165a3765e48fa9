"""Attention of one new token over a KV cache, in Triton: split-KV, with the length in device memory.

Twins: the functions of the same names in :mod:`ttt_mlflow.kernels.attention.reference`, which defines shapes and
meaning.

Layout: one program for each KV head of a sequence and each part of its cache. The H / G query heads of a KV head share
the loads: they are the rows of the tensor-core products, padded to 16. A program turns its queries itself, so that
rotary embedding and the write of the new key and value need no launch of their own. The program of the first part
adds the new token from registers and writes it to the cache; all parts read only what earlier steps have written. With
more than one part, a second kernel puts the parts together.

The grid follows from the cache's size, and the parts from the position: they are equal, in whole blocks. Where the
position leaves parts empty, their programs end at once. So one CUDA graph serves every position.

Bytes, for each KV head: 2 F for each token in the cache, 2 F for the new one, and the queries and outputs.
Limits: F is a power of two from 16 to 256; k and v contiguous; qkv's rows may be strided. Nothing is written for a
position beyond the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttt_mlflow.kernels.checks import check_contiguous, check_tensor
from ttt_mlflow.kernels.opaque import opaque
from ttt_mlflow.kernels.overlap import wait_for_inputs

LEAST_ROWS = 16  # of a tensor-core product
LOG2_E = 1.4426950408889634


@triton.jit
def _rotated(x, c, s, ROWS: tl.constexpr, DIM: tl.constexpr):
    """Rotary embedding of x [ROWS, DIM] by c, s [ROWS or 1, DIM / 2]; neighboring dimensions form a pair."""
    even, odd = tl.split(tl.reshape(x, (ROWS, DIM // 2, 2)))
    return tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), (ROWS, DIM))


@triton.jit
def _part(now, splits, BLOCK: tl.constexpr):
    """Positions of each part, in whole blocks."""
    return tl.maximum(tl.cdiv(tl.cdiv(now, splits), BLOCK), 1) * BLOCK


@triton.jit
def _request(x, begin, end, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr):
    """Let rows ``begin`` to ``end`` of x, AHEAD blocks at most, come to the level-2 cache. It waits for nothing."""
    LINES: tl.constexpr = max(HEAD_DIM * x.dtype.element_ty.primitive_bitwidth // 1024, 1)  # of 128 bytes in a row
    lines = tl.arange(0, LINES)[None, :] * (HEAD_DIM // LINES)
    for start in range(begin, tl.minimum(begin + AHEAD * BLOCK, end), BLOCK):
        at = tl.minimum(start + tl.arange(0, BLOCK), end - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [(x + at[:, None] * HEAD_DIM + lines).to(tl.uint64)],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit(do_not_specialize=["length", "splits"])
def decode_attention_kernel(
    qkv,
    qkv_stride,
    position,
    cos,
    sin,
    k,
    v,
    out,
    partial_out,
    partial_lse,
    length,
    splits,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SINGLE: tl.constexpr,
    OVERLAP: tl.constexpr,
    AHEAD: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)  # counts sequences and KV heads
    split = tl.program_id(1)
    now = tl.minimum(tl.load(position), length)
    sequence, h = head // KV_HEADS, (head % KV_HEADS).to(tl.int32)
    dtype = k.dtype.element_ty
    rows, cols, pairs = tl.arange(0, ROWS), tl.arange(0, HEAD_DIM), tl.arange(0, HEAD_DIM // 2)
    own = rows < GROUP
    part = _part(now, splits, BLOCK)
    begin = split * part
    end = tl.minimum(begin + part, now)
    cache = head * length * HEAD_DIM
    if OVERLAP and AHEAD:  # what earlier steps have written; the new token is not in the cache yet
        _request(k + cache, begin, end, HEAD_DIM, BLOCK, AHEAD)
        _request(v + cache, begin, end, HEAD_DIM, BLOCK, AHEAD)
    wait_for_inputs(OVERLAP)
    row = qkv + sequence * qkv_stride
    query = row + (h * GROUP + rows)[:, None] * HEAD_DIM + cols[None, :]
    key = row + (KV_HEADS * GROUP + h) * HEAD_DIM + tl.arange(0, 1)[:, None] * HEAD_DIM + cols[None, :]
    # before the position is known, for which these need not wait
    unturned_q = tl.load(query, own[:, None], 0.0).to(tl.float32)
    unturned_k = tl.load(key).to(tl.float32)
    new_v = tl.load(key + KV_HEADS * HEAD_DIM)
    if (begin < now) | (split == 0):
        angle = tl.minimum(now, length - 1) * (HEAD_DIM // 2) + pairs
        c, s = tl.load(cos + angle)[None, :], tl.load(sin + angle)[None, :]
        q = _rotated(unturned_q, c, s, ROWS, HEAD_DIM).to(dtype)
        new_k = _rotated(unturned_k, c, s, 1, HEAD_DIM).to(dtype)

        slot = cache + now * HEAD_DIM + tl.arange(0, 1)[:, None] * HEAD_DIM + cols[None, :]
        writes = (split == 0) & (now < length)
        tl.store(k + slot, new_k, writes)
        tl.store(v + slot, new_v, writes)

        first = split == 0  # its program also has the new token
        score = tl.sum(q.to(tl.float32) * new_k.to(tl.float32), 1) * scale
        highest = tl.where(first, score, float("-inf"))
        total = tl.where(first, 1.0, 0.0) + tl.zeros([ROWS], tl.float32)
        result = tl.where(first, new_v.to(tl.float32), 0.0) + tl.zeros([ROWS, HEAD_DIM], tl.float32)
        for start in range(begin, end, BLOCK):
            at = start + tl.arange(0, BLOCK)
            there = at < end
            tile = cache + at[:, None] * HEAD_DIM + cols[None, :]
            keys = tl.load(k + tile, there[:, None], 0.0)
            scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
            scores = tl.where(there[None, :], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(highest - higher)
            total = total * shrink + tl.sum(weights, 1)
            values = tl.load(v + tile, there[:, None], 0.0)
            result = tl.dot(weights.to(dtype), values, result * shrink[:, None], input_precision="ieee")
            highest = higher
        result = result / total[:, None]
        if SINGLE:
            target = (head * GROUP + rows)[:, None] * HEAD_DIM + cols[None, :]
            tl.store(out + target, result, own[:, None])
        else:
            target = (head * splits + split) * GROUP + rows
            tl.store(partial_out + target[:, None] * HEAD_DIM + cols[None, :], result, own[:, None])
            tl.store(partial_lse + target, highest + tl.log2(total), own)


@triton.jit(do_not_specialize=["length", "splits"])
def combine_kernel(
    partial_out,
    partial_lse,
    position,
    out,
    length,
    splits,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The parts of one query head together, each by its share of the sum of exponentials."""
    query = tl.program_id(0).to(tl.int64)  # counts sequences and query heads
    now = tl.minimum(tl.load(position), length)
    used = tl.maximum(tl.cdiv(now, _part(now, splits, BLOCK)), 1)
    part, cols = tl.arange(0, SPLITS), tl.arange(0, HEAD_DIM)
    there = part < used
    wait_for_inputs(OVERLAP)
    source = (query // GROUP * splits + part) * GROUP + query % GROUP
    lse = tl.load(partial_lse + source, there, float("-inf"))
    weights = tl.exp2(lse - tl.max(lse, 0))
    parts = tl.load(partial_out + source[:, None] * HEAD_DIM + cols[None, :], there[:, None], 0.0)
    result = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + query * HEAD_DIM + cols, result)


def _result(
    qkv: Tensor, position: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, heads: int, **_: int
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], heads * k.shape[3])


@opaque(mutates=["k", "v"], shapes=_result)
def decode_attention(
    qkv: Tensor,
    position: Tensor,
    cos: Tensor,
    sin: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    splits: int = 1,
    block: int = 64,
    warps: int = 4,
    stages: int = 2,
    overlap: bool = False,
    early: bool = True,
    ahead: int = 0,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.attention.reference.decode_attention`.

    splits: parts of the cache, of at least one block of ``block`` positions each. overlap: a launch may begin before
    the previous kernel on the stream has ended, which must not write the position then. early: so may the first one,
    whose programs then fill the multiprocessors that are free first; otherwise they are spread over all. ahead: blocks
    of its part that a program then requests before it waits for qkv. Raises ValueError with the argument's name for
    unsupported arguments.
    """
    batch, kv_heads, length, dim = _checked(qkv, position, cos, sin, k, v, heads)
    check_tensor("qkv", qkv, (batch, (heads + 2 * kv_heads) * dim), str(k.dtype).removeprefix("torch."), k.device)
    if splits < 1:
        raise ValueError(f"splits is {splits}, must be at least 1")
    group = heads // kv_heads
    out = qkv.new_empty(batch, heads * dim)
    partial_out = partial_lse = out  # not written
    if splits > 1:
        partial_out = qkv.new_empty(batch * kv_heads, splits, group, dim, dtype=torch.float32)
        partial_lse = qkv.new_empty(batch * kv_heads, splits, group, dtype=torch.float32)
    decode_attention_kernel[(batch * kv_heads, splits)](
        qkv, qkv.stride(0), position, cos, sin, k, v, out, partial_out, partial_lse, length, splits,
        LOG2_E / dim**0.5, kv_heads, group, max(triton.next_power_of_2(group), LEAST_ROWS), dim, block, splits == 1,
        overlap, ahead, num_warps=warps, num_stages=stages, launch_pdl=overlap and early,
    )  # fmt: skip
    if splits > 1:
        combine_kernel[(batch * heads,)](
            partial_out, partial_lse, position, out, length, splits, group, dim, block,
            triton.next_power_of_2(splits), overlap, num_warps=4, launch_pdl=overlap,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["tokens", "length"])
def rotate_into_cache_kernel(
    qkv,
    position,
    cos,
    sin,
    k,
    v,
    out,
    tokens,
    length,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    KV_BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # counts sequences and tokens
    sequence, at = row // tokens, tl.load(position) + row % tokens
    cols, pairs = tl.arange(0, HEAD_DIM), tl.arange(0, HEAD_DIM // 2)
    heads, kv_heads = tl.arange(0, HEADS_BLOCK), tl.arange(0, KV_BLOCK)
    query = heads[:, None] * HEAD_DIM + cols[None, :]
    key = kv_heads[:, None] * HEAD_DIM + cols[None, :]
    own, own_kv = (heads < HEADS)[:, None], (kv_heads < KV_HEADS)[:, None]
    x = qkv + row * (HEADS + 2 * KV_HEADS) * HEAD_DIM
    q = tl.load(x + query, own, 0.0).to(tl.float32)
    new_k = tl.load(x + HEADS * HEAD_DIM + key, own_kv, 0.0).to(tl.float32)
    new_v = tl.load(x + (HEADS + KV_HEADS) * HEAD_DIM + key, own_kv, 0.0)
    there = at < length
    angle = at * (HEAD_DIM // 2) + pairs
    c, s = tl.load(cos + angle, there, 0.0)[None, :], tl.load(sin + angle, there, 0.0)[None, :]
    dtype = out.dtype.element_ty
    tl.store(out + row * HEADS * HEAD_DIM + query, _rotated(q, c, s, HEADS_BLOCK, HEAD_DIM).to(dtype), own)
    slot = ((sequence * KV_HEADS + kv_heads) * length + at)[:, None] * HEAD_DIM + cols[None, :]
    tl.store(k + slot, _rotated(new_k, c, s, KV_BLOCK, HEAD_DIM).to(dtype), own_kv & there)
    tl.store(v + slot, new_v, own_kv & there)


def _queries(qkv: Tensor, position: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], heads, k.shape[3])


@opaque(mutates=["k", "v"], shapes=_queries)
def rotate_into_cache(
    qkv: Tensor, position: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, heads: int
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.attention.reference.rotate_into_cache`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, kv_heads, length, dim = _checked(qkv, position, cos, sin, k, v, heads)
    tokens = qkv.shape[1]
    shape = (batch, tokens, (heads + 2 * kv_heads) * dim)
    check_tensor("qkv", qkv, shape, str(k.dtype).removeprefix("torch."), k.device)
    check_contiguous("qkv", qkv)
    out = qkv.new_empty(batch, tokens, heads, dim)
    rotate_into_cache_kernel[(batch * tokens,)](
        qkv, position, cos, sin, k, v, out, tokens, length, heads, kv_heads, dim, triton.next_power_of_2(heads),
        triton.next_power_of_2(kv_heads), num_warps=4,
    )  # fmt: skip
    return out


def _checked(
    qkv: Tensor, position: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, heads: int
) -> tuple[int, int, int, int]:
    """Sequences, KV heads, positions and head dimension. Raises ValueError with the argument's name."""
    if k.dim() != 4:
        raise ValueError(f"k has shape {tuple(k.shape)}, expected (sequences, KV heads, positions, head dimension)")
    batch, kv_heads, length, dim = k.shape
    dtype = str(k.dtype).removeprefix("torch.")
    if dtype not in ("float16", "bfloat16", "float32"):
        raise ValueError(f"k is {dtype}, expected float16, bfloat16 or float32")
    if k.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"k is on {k.device}, this kernel needs a CUDA device")
    if not 16 <= dim <= 256 or dim & (dim - 1):
        raise ValueError(f"k has head dimension {dim}, a power of two from 16 to 256 is supported")
    if heads % kv_heads:
        raise ValueError(f"heads is {heads}, must be a multiple of the {kv_heads} KV heads")
    if qkv.stride(-1) != 1:
        raise ValueError(f"qkv has strides {qkv.stride()}, its rows must be contiguous")
    check_tensor("v", v, tuple(k.shape), dtype, k.device)
    for name, tensor in (("k", k), ("v", v)):
        check_contiguous(name, tensor)
    check_tensor("position", position, (1,), "int32", k.device)
    for name, tensor in (("cos", cos), ("sin", sin)):
        check_tensor(name, tensor, (length, dim // 2), "float32", k.device)
        check_contiguous(name, tensor)
    return batch, kv_heads, length, dim
