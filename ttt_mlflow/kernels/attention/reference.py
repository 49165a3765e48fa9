"""Attention of one new token over a KV cache, and rotary embedding into that cache, in plain PyTorch.

Letters of the shapes: B sequences, H query heads, G KV heads (each is shared by H / G neighbors), F head dimension, N
positions of a cache, L tokens of a prompt. Source: Vaswani et al. 2017, arXiv 1706.03762 (attention); Su et al. 2021,
arXiv 2104.09864 (rotary embedding); Ainslie et al. 2023, arXiv 2305.13245 (shared KV heads).

``qkv`` [B, (H + 2 G) F] is the fused projection: the queries of all heads, then the keys, then the values.
``position`` [1] int32 is on the device: the index of the (first) new token, which is the number of tokens in the cache.
``cos`` and ``sin`` [N, F / 2] float32 have one row for each position. ``k`` and ``v`` [B, G, N, F] are the cache; keys
are kept as they are after the rotary embedding. The arithmetic is in float64, and each result is rounded once; see
:mod:`ttt_mlflow.kernels` for the reason.
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels.block.reference import rotate


def rotate_into_cache(
    qkv: Tensor, position: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, heads: int
) -> Tensor:
    """Write the keys and values of L tokens to the cache. Returns their queries [B, L, H, F], turned like the keys.

    qkv [B, L, (H + 2 G) F] is contiguous. The tokens have the positions ``position`` to position + L − 1.
    """
    kv_heads, dim = k.shape[1], k.shape[3]
    query, key, value = (
        rows.unflatten(-1, (-1, dim)) for rows in qkv.split((heads * dim, kv_heads * dim, kv_heads * dim), -1)
    )
    positions = position.long() + torch.arange(qkv.shape[1], device=qkv.device)
    angles = [table.index_select(0, positions).double().unsqueeze(1) for table in (cos, sin)]
    k.index_copy_(2, positions, rotate(key.double(), *angles).to(k.dtype).transpose(1, 2))
    v.index_copy_(2, positions, value.transpose(1, 2))
    return rotate(query.double(), *angles).to(qkv.dtype)


def decode_attention(
    qkv: Tensor, position: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, heads: int
) -> Tensor:
    """One new token of each sequence: its key and value go into the cache, and its queries attend to all up to itself.

    qkv [B, (H + 2 G) F]. Returns softmax(q K^T / sqrt(F)) V for each head, [B, H F] in qkv's dtype. What the cache has
    beyond ``position`` is not read.
    """
    query = rotate_into_cache(qkv.unsqueeze(1), position, cos, sin, k, v, heads)
    batch, kv_heads, length, dim = k.shape
    query = query.double().view(batch, kv_heads, heads // kv_heads, dim)
    there = torch.arange(length, device=k.device) <= position
    scores = query @ k.double().transpose(2, 3) / dim**0.5
    weights = scores.masked_fill(~there, float("-inf")).softmax(-1)
    values = v.double().masked_fill(~there.unsqueeze(1), 0.0)
    return (weights @ values).to(qkv.dtype).view(batch, heads * dim)
