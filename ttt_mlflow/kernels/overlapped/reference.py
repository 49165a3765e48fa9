"""A whole decode step in plain PyTorch: the functions of a layer one after the other."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ttt_mlflow.kernels.attention.reference import decode_attention
from ttt_mlflow.kernels.block.reference import (
    add_rms_norm,
    conv_rms_norm,
    gated_layer_norm,
    qk_conv_rotary,
    swiglu,
)
from ttt_mlflow.kernels.inner_layers import LINEAR, MINI_BATCH
from ttt_mlflow.kernels.overlapped.tensors import StepTensors, TransformerTensors
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode


def overlapped_step(tensors: StepTensors, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Feed tokens [B] int64. Returns logits [B, V] and the largest one's index, the next tokens [B] int64.

    Rings, state, slots and position are updated in place. Products are rounded to the weights' dtype, as they are where
    each is a launch of its own.
    """
    decode = linear_decode if tensors.inner_layer is LINEAR else mlp_decode
    hidden = F.embedding(tokens, tensors.embedding)
    delta, width, position = torch.zeros_like(hidden), hidden.shape[1], tensors.position
    for one in tensors.layers:
        hidden, x = conv_rms_norm(
            hidden, delta, one.conv_ring, position, one.conv_norm, one.conv_taps, one.conv_bias, one.seq_norm
        )
        heads = one.norm_weight.shape[0]
        parts = (width, width, width, heads, one.projection.shape[0] - 3 * width - heads)
        qk, v, gate, logits, _ = _product(x, one.projection).split(parts, dim=1)
        q, k, lr = qk_conv_rotary(
            qk, logits, one.qk_ring, position, one.q_taps, one.q_bias, one.k_taps, one.k_bias, one.lr_bias,
            tensors.cos, tensors.sin, tensors.inner_layer.base_lr,
        )  # fmt: skip
        x = decode(q, k, v, lr, one.eta, position, one.norm_weight, one.norm_bias, *one.state, *one.slots)
        x = gated_layer_norm(x, gate, one.post_norm_weight, one.post_norm_bias)
        hidden, x = add_rms_norm(hidden, _product(x, one.o_proj), one.ffn_norm)
        delta = _product(swiglu(_product(x, one.gate_up)), one.down_proj)
    position.add_(1).remainder_(MINI_BATCH)
    return _head(tensors, hidden, delta)


def transformer_step(tensors: TransformerTensors, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a transformer, whose cache and position are updated in place."""
    hidden = F.embedding(tokens, tensors.embedding)
    delta, heads = torch.zeros_like(hidden), hidden.shape[1] // (2 * tensors.cos.shape[1])
    for one in tensors.layers:
        hidden, x = add_rms_norm(hidden, delta, one.attention_norm)
        qkv = _product(x, one.qkv)
        x = decode_attention(qkv, tensors.position, tensors.cos, tensors.sin, one.k, one.v, heads)
        hidden, x = add_rms_norm(hidden, _product(x, one.o_proj), one.ffn_norm)
        delta = _product(swiglu(_product(x, one.gate_up)), one.down_proj)
    tensors.position.add_(1)
    return _head(tensors, hidden, delta)


def _head(tensors: StepTensors | TransformerTensors, hidden: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    _, x = add_rms_norm(hidden, delta, tensors.last_norm)
    logits = _product(x, tensors.embedding)[:, : tensors.vocab]
    return logits, logits.argmax(-1)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.double(), weight.double()).to(x.dtype)
