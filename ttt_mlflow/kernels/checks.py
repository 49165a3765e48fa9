"""Rejects arguments that a kernel would read incorrectly, without device time or synchronization."""

import torch
import triton
from torch import Tensor

from ttt_mlflow.kernels.inner_layers import MINI_BATCH

STATE_DTYPES = ("float16", "bfloat16", "float32")
Shaped = dict[str, tuple[Tensor, tuple[int, ...]]]  # argument name -> tensor and the shape it must have


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: str, device: torch.device) -> None:
    """Raise ValueError with the argument's name unless shape, dtype and device are as given."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if _dtype(tensor) != dtype:
        raise ValueError(f"{name} is {_dtype(tensor)}, expected {dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}")


def check_contiguous(name: str, tensor: Tensor) -> None:
    """Raise ValueError with the argument's name and strides unless it is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()} for shape {tuple(tensor.shape)}, must be contiguous")


def head_shape(name: str, bias: Tensor) -> tuple[int, int, int]:
    """Sequences, heads and head dimension, from a bias [B, H, F] of the state. Raises ValueError for another shape."""
    if bias.dim() != 3:
        raise ValueError(f"{name} has shape {tuple(bias.shape)}, expected (sequences, heads, head dimension)")
    batch, heads, dim = bias.shape
    if not 32 <= dim <= 128 or dim % 8:
        raise ValueError(f"{name} has head dimension {dim}, a multiple of 8 from 32 to 128 is supported")
    return batch, heads, dim


def check_decode_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    state: Shaped,
) -> None:
    """Raise ValueError with the argument's name unless a kernel accepts the arguments of one decode step.

    ``state``: what the step reads and updates, with one of its biases [B, H, F] first. All others must match it.
    """
    first, (bias, _) = next(iter(state.items()))
    batch, heads, dim = head_shape(first, bias)
    device = bias.device
    if _dtype(bias) not in STATE_DTYPES:
        raise ValueError(f"{first} is {_dtype(bias)}, expected one of {', '.join(STATE_DTYPES)}")
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"{first} is on {device}, this kernel needs a CUDA device")
    _check_tokens(q, k, v, bias, (batch, heads * dim))
    check_tensor("lr", lr, (batch, heads), "float32", device)
    check_contiguous("lr", lr)
    _check_layer(eta, position, norm_weight, norm_bias, state)


def check_prefill_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    state: Shaped,
) -> None:
    """Raise ValueError with the argument's name unless a kernel accepts the arguments of a prompt.

    ``state``: as for :func:`check_decode_arguments`.
    """
    first, (bias, _) = next(iter(state.items()))
    batch, heads, dim = head_shape(first, bias)
    if _dtype(bias) not in STATE_DTYPES:
        raise ValueError(f"{first} is {_dtype(bias)}, expected one of {', '.join(STATE_DTYPES)}")
    if q.dim() != 3 or not q.shape[1]:
        raise ValueError(f"q has shape {tuple(q.shape)}, expected (sequences, tokens, width) with one token or more")
    length = q.shape[1]
    _check_tokens(q, k, v, bias, (batch, length, heads * dim))
    if v.stride(0) != length * v.stride(1):
        raise ValueError(f"v has strides {v.stride()}, all of its rows must have the same distance")
    check_tensor("lr", lr, (batch, heads, length), "float32", bias.device)
    check_contiguous("lr", lr)
    _check_layer(eta, position, norm_weight, norm_bias, state)


def _check_tokens(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shape: tuple[int, ...]) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor, shape, _dtype(bias), bias.device)
    check_contiguous("q", q)
    check_contiguous("k", k)
    if v.stride(-1) != 1:
        raise ValueError(f"v has strides {v.stride()}, its rows must be contiguous")


def _check_layer(eta: Tensor, position: Tensor, norm_weight: Tensor, norm_bias: Tensor, state: Shaped) -> None:
    first, (bias, _) = next(iter(state.items()))
    _, heads, dim = head_shape(first, bias)
    dtype, device = _dtype(bias), bias.device
    for name, (tensor, shape) in state.items():
        check_tensor(name, tensor, shape, dtype, device)
        check_contiguous(name, tensor)
    check_tensor("eta", eta, (MINI_BATCH,), "float32", device)
    check_contiguous("eta", eta)
    check_tensor("position", position, (1,), "int32", device)
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        check_tensor(name, tensor, (heads, dim), dtype, device)
        check_contiguous(name, tensor)
