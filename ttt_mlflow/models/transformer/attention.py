"""The attentions of the transformer: for a prompt, PyTorch's; for one token, ours and those of PyTorch's with a mask.

A name means the same attention for both, if it has both. ``split_kv_triton`` is for one token alone, and ``flash`` for
a prompt alone: it takes no mask, and so no length that the host does not know.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.attention import reference

SPLIT_KV, MATH = "split_kv_triton", "math"
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    MATH: SDPBackend.MATH,
}
PROMPT = tuple(BACKENDS)
STEP = (SPLIT_KV, "cudnn", "efficient", MATH)
NAMES = (SPLIT_KV, *PROMPT)
ON_A_CPU = {"prompt": ("flash", MATH), "step": (MATH,)}
TOGETHER = "+"
Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # qkv, position, cos, sin, k, v


@dataclass(frozen=True)
class Asked:
    """The attentions that were asked for; None: to be chosen."""

    prompt: str | None
    step: str | None


@dataclass
class Choice:
    """The attentions in use. prompt: None is the one that PyTorch chooses. launch: options of ours."""

    prompt: str | None
    step: str
    launch: dict[str, int]


@dataclass(frozen=True)
class Functions:
    """The parts of a layer outside its products: for one token, for prompts, and for the cache."""

    step: ModuleType
    prompt: ModuleType
    cache: ModuleType


def asked_for(attn_impl: str | None) -> Asked:
    """What ``attn_impl`` asks for: one name, or PROMPT+STEP. Raises BadInput for what is neither."""
    if attn_impl is None:
        return Asked(None, None)
    first, together, second = attn_impl.partition(TOGETHER)
    if not together:
        if first not in NAMES:
            raise BadInput(f"attn_impl={attn_impl}: no such attention; there are {', '.join(NAMES)}")
        return Asked(first if first in PROMPT else None, first if first in STEP else None)
    for name, names, what in ((first, PROMPT, "a prompt"), (second, STEP, "a decode step")):
        if name not in names:
            raise BadInput(f"attn_impl={attn_impl}: {name} is no attention for {what}; those are {', '.join(names)}")
    return Asked(first, second)


def check_on(device: torch.device, attn_impl: str | None) -> Asked:
    """:func:`asked_for`, and that it runs on this kind of device. Raises BadInput otherwise."""
    asked = asked_for(attn_impl)
    if device.type == "cpu":
        for name, there in ((asked.prompt, ON_A_CPU["prompt"]), (asked.step, (*ON_A_CPU["step"], SPLIT_KV))):
            if name and name not in there:
                raise BadInput(f"attn_impl={attn_impl}: {name} needs a GPU; on a CPU, use flash or math")
    return asked


def recorded(*chosen: str | None) -> str:
    """The attentions of the prompt and of the step, as far as they are used, as a value of ``attn_impl``."""
    return TOGETHER.join(name for name in chosen if name)


def using(name: str | None) -> AbstractContextManager[object]:
    """PyTorch's attention with this one; None: with the one that PyTorch chooses."""
    return sdpa_kernel(BACKENDS[name]) if name else nullcontext()


def prompt_attention(q: Tensor, k: Tensor, v: Tensor, name: str | None) -> Tensor:
    """Causal attention of queries q [B, P, H, F] over k and v [B, G, P, F]. Returns [B, P, H F]."""
    return _attention(q, k, v, name, causal=True)


def last_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same of the last token's query alone, q [B, 1, H, F], with the attention that PyTorch chooses."""
    return _attention(q, k, v, None, causal=False)


def _attention(q: Tensor, k: Tensor, v: Tensor, name: str | None, causal: bool) -> Tensor:
    shared = q.shape[2] != k.shape[1]
    with using(name):
        out = scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=causal, enable_gqa=shared)
    return out.transpose(1, 2).flatten(2)


def step_mask(position: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of one token [1, 1, 1, N]: 0 up to its position, minus infinity beyond it."""
    beyond = torch.arange(length, device=position.device) > position
    return (
        torch.zeros(length, dtype=dtype, device=position.device).masked_fill_(beyond, float("-inf")).view(1, 1, 1, -1)
    )


def masked_attention(functions: ModuleType, name: str, tensors: Tensors, heads: int, mask: Tensor) -> Tensor:
    """As :func:`ttt_mlflow.kernels.attention.reference.decode_attention`, through PyTorch's attention with a mask.

    tensors: qkv, position, cos, sin, k, v. functions: with ``rotate_into_cache``.
    """
    qkv, position, cos, sin, k, v = tensors
    query = functions.rotate_into_cache(qkv.unsqueeze(1), position, cos, sin, k, v, heads).transpose(1, 2)
    mask = mask.expand(query.shape[0], heads, 1, -1)
    with using(name):
        out = scaled_dot_product_attention(query, k, v, attn_mask=mask, enable_gqa=heads != k.shape[1])
    return out.flatten(1)


def plain_attention(tensors: Tensors, heads: int) -> Tensor:
    """``math`` for one token: the twin of our kernel."""
    return reference.decode_attention(*tensors, heads)


def needs_mask(choice: Choice) -> bool:
    """Whether the attention of one token takes a :func:`step_mask`."""
    return choice.step not in (SPLIT_KV, MATH)


def step_attention(
    functions: ModuleType, choice: Choice, tensors: Tensors, heads: int, mask: Tensor | None, overlap: bool = False
) -> Tensor:
    """The chosen attention of one token. mask: for one that :func:`needs_mask`. overlap: of our kernel's launches."""
    if choice.step == SPLIT_KV:
        return cast(Tensor, functions.decode_attention(*tensors, heads, **choice.launch, overlap=overlap))
    if choice.step == MATH:
        return plain_attention(tensors, heads)
    assert mask is not None
    return masked_attention(functions, choice.step, tensors, heads, mask)
