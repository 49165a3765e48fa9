"""The inner layers of TTT: the shapes of their state, and the bytes and operations that they need."""

from dataclasses import dataclass

import torch

from ttt_mlflow.kernels.mini_batch import MINI_BATCH


@dataclass(frozen=True)
class InnerElements:
    """Elements of one sequence and head, as docs/roofline.md has them."""

    state: int  # the weight matrices
    biases: int
    vectors: int  # of one token, kept until the mini-batch ends


def inner_elements(layer_type: str, head_dim: int) -> InnerElements:
    """``layer_type`` is linear or mlp; ValueError for another."""
    f = head_dim
    if layer_type == "linear":
        return InnerElements(f * f, f, 2 * f)
    if layer_type == "mlp":
        return InnerElements(8 * f * f, 5 * f, 10 * f)
    raise ValueError(f"layer_type={layer_type}: linear or mlp")


def decode_kernel_bytes(layer_type: str, batch: int, heads: int, head_dim: int, dtype: torch.dtype) -> float:
    """The least bytes of one layer's inner decode step, averaged over a mini-batch; ``layer_type`` linear or mlp.

    A token reads the state and its biases, which change once a mini-batch; it reads the vectors of the earlier tokens
    of its mini-batch, half of them on average, and writes its own; q, k, v and the output, and one learning rate a
    head, each counted in the state's dtype.

    This is the floor of the problem, as the rank-1 form has it. A kernel that moves more, as the accumulating form
    does, is held against the same bytes.
    """
    m, size = MINI_BATCH, inner_elements(layer_type, head_dim)
    once_a_mini_batch = 1 + 1 / m  # read by every token, written by the last
    elements = (size.state + size.biases) * once_a_mini_batch + size.vectors * ((m - 1) / 2 + 1) + 4 * head_dim + 1
    return batch * heads * elements * dtype.itemsize


def prompt_kernel_bytes(
    layer_type: str, batch: int, tokens: int, heads: int, head_dim: int, dtype: torch.dtype
) -> float:
    """The least bytes of one layer's inner net over a prompt; the weights that the state starts from not included.

    A sequence's state stays on chip while its prompt goes through and is written at the end, as are the vectors of a
    mini-batch that the prompt leaves unfinished; each token's q, k, v, output and learning rate as in a decode step.
    """
    size = inner_elements(layer_type, head_dim)
    unfinished = tokens % MINI_BATCH
    elements = size.state + size.biases + size.vectors * unfinished + tokens * (4 * head_dim + 1)
    return batch * heads * elements * dtype.itemsize


def inner_flops(layer_type: str, tokens: int, head_dim: int) -> float:
    """Operations of one sequence and head over ``tokens`` tokens from the start of a mini-batch.

    Products with the state, products with the vectors of the tokens up to one's own, and the fold at the end of each
    whole mini-batch; an addition to a bias or a norm is not counted.
    """
    size = inner_elements(layer_type, head_dim)
    whole, rest = divmod(tokens, MINI_BATCH)
    pairs = whole * MINI_BATCH * (MINI_BATCH + 1) / 2 + rest * (rest + 1) / 2
    # linear: k and q through W; mlp: k and q through both layers, and the gradient back through the second
    products = 2 if layer_type == "linear" else 2.5
    return (
        2 * size.state * products * tokens  # through the matrices
        + 2 * size.vectors * pairs  # a query's product with a key, and that times a gradient
        + 2 * size.state * MINI_BATCH * whole  # the fold, of rank 16
    )
