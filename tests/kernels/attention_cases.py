"""Attention over a KV cache: a kernel against float64, with outputs and the unwritten cache poisoned."""

from typing import Any

import torch

from tests.kernels.decode_cases import poisoned_memory, relative_error
from ttt_mlflow.kernels.attention import decode, reference
from ttt_mlflow.models.transformer.attention import Tensors

# weights and outputs are rounded once each; bfloat16 has eight bits
TOLERANCE = {torch.float16: 6e-4, torch.bfloat16: 5e-3, torch.float32: 2e-6}
POISON = float("nan")


def make_case(
    dtype: torch.dtype, batch: int, heads: int, kv_heads: int, dim: int, length: int, position: int, device: str = "cpu"
) -> Tensors:
    """qkv with strided rows, position, cos, sin, k and v; the cache has NaN from ``position`` on."""
    width = (heads + 2 * kv_heads) * dim
    qkv = torch.randn(batch, width + 8, device=device).to(dtype)[:, :width]
    angles = torch.rand(length, dim // 2, device=device) * 6
    cache = torch.randn(2, batch, kv_heads, length, dim, device=device).to(dtype)
    cache[:, :, :, position:] = POISON
    k, v = cache.unbind(0)
    return qkv, torch.tensor([position], dtype=torch.int32, device=device), angles.cos(), angles.sin(), k, v


def check_decode(case: Tensors, heads: int, **launch: Any) -> None:
    """The result, and that the new token alone was written to the cache."""
    qkv, now, cos, sin, k, v = case
    dtype, position = k.dtype, int(now)
    own, twin = (k.clone(), v.clone()), (k.clone(), v.clone())
    with poisoned_memory():
        found = decode.decode_attention(qkv, now, cos, sin, own[0], own[1], heads, **launch)
    reference.decode_attention(qkv, now, cos, sin, *twin, heads)
    wide = [tensor.double() for tensor in (qkv, cos, sin, k, v)]
    expected = reference.decode_attention(wide[0], now, wide[1], wide[2], wide[3], wide[4], heads)
    assert found.dtype == dtype
    assert relative_error(found, expected) < TOLERANCE[dtype]
    for mine, theirs, before in zip(own, twin, (k, v), strict=True):
        assert relative_error(mine[:, :, position], theirs[:, :, position]) < TOLERANCE[dtype]
        mine[:, :, position] = before[:, :, position]
        assert torch.equal(mine.nan_to_num(7), before.nan_to_num(7)), "another position was written"


def check_rotation(case: Tensors, tokens: int, heads: int) -> None:
    """Some tokens' keys and values in the cache, and their queries."""
    _, now, cos, sin, k, v = case
    batch, kv_heads, _, dim = k.shape
    qkv = torch.randn(batch, tokens, (heads + 2 * kv_heads) * dim, device=k.device).to(k.dtype)
    own, twin = (k.clone(), v.clone()), (k.clone(), v.clone())
    with poisoned_memory():
        found = decode.rotate_into_cache(qkv, now, cos, sin, *own, heads)
    expected = reference.rotate_into_cache(qkv, now, cos, sin, *twin, heads)
    assert relative_error(found, expected) < TOLERANCE[k.dtype]
    assert relative_error(own[0].nan_to_num(7), twin[0].nan_to_num(7)) < TOLERANCE[k.dtype]
    assert torch.equal(own[1].nan_to_num(7), twin[1].nan_to_num(7))
