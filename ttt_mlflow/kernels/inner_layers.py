"""A table of the inner layers of TTT, and the bytes and operations that they need.

The state of TTT-Linear is a linear layer. The state of TTT-MLP is a multilayer perceptron (MLP) of two layers. Each
head has its own state, with head dimension F. Source: Sun et al. 2024, arXiv 2407.04620, sections 2.4 to 2.7.
docs/roofline.md derives the counts.

This module does not import torch, so that listing the kernels is fast.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MINI_BATCH = 16  # M, in tokens; the state changes at the last token of a mini-batch


@dataclass(frozen=True)
class InnerElements:
    """Numbers of elements for one sequence and head, as in docs/roofline.md."""

    state: int  # the weight matrices
    biases: int
    vectors: int  # of one token, kept until the mini-batch ends


@dataclass(frozen=True)
class InnerLayer:
    """The properties in which inner layers differ.

    name: its public name, ``KernelEntry.layer_type``. title: its name in the paper.
    widths: of the inputs, of the values between two layers, and of the outputs, in multiples of the head dimension F.
    base_lr: the inner learning rate before its gate (section 2.7 of the paper). state_names: the published weights
    with which the state starts, in the order of :meth:`state_shapes`. state_products: how many times a token is
    multiplied with each matrix, on average: k and q forward through each, and the gradient back through all but the
    first.
    """

    name: str
    title: str
    widths: tuple[int, ...]
    base_lr: float
    state_names: tuple[str, ...]
    state_products: float

    def state_shapes(self, head_dim: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the state of one sequence and head: a matrix [inputs, outputs] and a bias [outputs] per layer."""
        sizes = [width * head_dim for width in self.widths]
        return tuple(shape for ins, outs in pairwise(sizes) for shape in ((ins, outs), (outs,)))

    def slot_widths(self, head_dim: int) -> tuple[int, ...]:
        """Widths of the vectors that are kept for each token of a mini-batch: each layer's input and gradient."""
        matrices = (shape for shape in self.state_shapes(head_dim) if len(shape) == 2)
        return tuple(width for matrix in matrices for width in matrix)

    def elements(self, head_dim: int) -> InnerElements:
        """Numbers of elements for one sequence and head."""
        shapes = self.state_shapes(head_dim)
        return InnerElements(
            state=sum(prod(shape) for shape in shapes if len(shape) == 2),
            biases=sum(prod(shape) for shape in shapes if len(shape) == 1),
            vectors=sum(self.slot_widths(head_dim)),
        )


LINEAR = InnerLayer("linear", "TTT-Linear", widths=(1, 1), base_lr=1.0, state_names=("W1", "b1"), state_products=2)
MLP = InnerLayer(
    "mlp", "TTT-MLP", widths=(1, 4, 1), base_lr=0.1, state_names=("W1", "b1", "W2", "b2"), state_products=2.5
)
INNER_LAYERS = {layer.name: layer for layer in (LINEAR, MLP)}


def inner_layer(layer_type: str) -> InnerLayer:
    """The inner layer with this name. ValueError lists the existing names."""
    if layer_type not in INNER_LAYERS:
        raise ValueError(f"layer_type={layer_type}: {' or '.join(INNER_LAYERS)}")
    return INNER_LAYERS[layer_type]


def decode_kernel_bytes(layer_type: str, batch: int, heads: int, head_dim: int, dtype: "torch.dtype") -> float:
    """The minimum bytes of one layer's inner decode step, averaged over a mini-batch, for all sequences and heads.

    A token reads the state and its biases, which change once per mini-batch. It reads the vectors of the earlier tokens
    of its mini-batch, half of them on average, and writes its own vectors. It reads q, k, v and one learning rate per
    head, and writes the output. Each is counted in the state's dtype.

    These are the minimum bytes of the problem, as in the rank-1 form. A kernel that moves more, such as one in the
    accumulating form, is compared with the same bytes. ValueError for an unknown ``layer_type``.
    """
    m, size = MINI_BATCH, inner_layer(layer_type).elements(head_dim)
    once_a_mini_batch = 1 + 1 / m  # read by every token, written by the last
    elements = (size.state + size.biases) * once_a_mini_batch + size.vectors * ((m - 1) / 2 + 1) + 4 * head_dim + 1
    return batch * heads * elements * dtype.itemsize


def prompt_kernel_bytes(
    layer_type: str, batch: int, tokens: int, heads: int, head_dim: int, dtype: "torch.dtype"
) -> float:
    """The minimum bytes of one layer's inner net for a prompt of ``tokens`` tokens, for all sequences and heads.

    A sequence's state stays on chip while its prompt is processed. It is written at the end, together with the vectors
    of a mini-batch that the prompt does not complete. Each token moves q, k, v, output and learning rate as in a decode
    step. The initial weights of the state are not included. ValueError for an unknown ``layer_type``.
    """
    size = inner_layer(layer_type).elements(head_dim)
    unfinished = tokens % MINI_BATCH
    elements = size.state + size.biases + size.vectors * unfinished + tokens * (4 * head_dim + 1)
    return batch * heads * elements * dtype.itemsize


def inner_flops(layer_type: str, tokens: int, head_dim: int) -> float:
    """Floating-point operations of one sequence and head for ``tokens`` tokens from the start of a mini-batch.

    The count includes the products with the state, the products with the vectors of the tokens up to and including the
    current one, and the fold at the end of each whole mini-batch. Additions of biases and norms are not counted.
    ValueError for an unknown ``layer_type``.
    """
    layer = inner_layer(layer_type)
    size = layer.elements(head_dim)
    whole, rest = divmod(tokens, MINI_BATCH)
    pairs = whole * MINI_BATCH * (MINI_BATCH + 1) / 2 + rest * (rest + 1) / 2
    return (
        2 * size.state * layer.state_products * tokens  # products with the matrices
        + 2 * size.vectors * pairs  # a query's product with a key, and the product of that with a gradient
        + 2 * size.state * MINI_BATCH * whole  # the fold, of rank 16
    )
