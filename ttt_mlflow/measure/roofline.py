"""The bytes and operations that a decode step or a prompt cannot do without, and so the time that it cannot beat.

A model counts its work as a list of :class:`Stage`; this module knows the inner nets and what a card needs for a stage.
docs/roofline.md derives the counts and says what is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ttt_mlflow.kernels.reference import MINI_BATCH
from ttt_mlflow.measure.ceilings import CardCeilings

PROJECTIONS = "projections"
FEED_FORWARD = "feed-forward"
CONVOLUTION = "convolution state"
INNER = "inner net state"
HEAD = "embeddings and head"
SAMPLING = "sampling"
PARTS = (PROJECTIONS, FEED_FORWARD, CONVOLUTION, INNER, HEAD, SAMPLING)
TOKEN_BYTES = 8  # a sampled token is an int64
MEASURED_RATES = (torch.float16, torch.bfloat16)  # dtypes whose matrix rate the ceilings give


@dataclass(frozen=True)
class Stage:
    """Work that needs the result of the stage before it, done ``count`` times: once in each layer, for example."""

    part: str  # one of PARTS
    weight_bytes: float  # read once, however large the batch
    state_bytes: float  # all else that must be read or written, of the whole batch
    flops: float
    count: int = 1

    @property
    def bytes(self) -> float:
        """Of all ``count`` times together."""
        return self.count * (self.weight_bytes + self.state_bytes)

    def milliseconds(self, ceilings: CardCeilings) -> float:
        """The larger of the time for the bytes and the time for the operations, ``count`` times."""
        memory_ms = self.bytes / (ceilings.read_gb_per_s * 1e6)
        matrix_ms = self.count * self.flops / (ceilings.matmul_tflops * 1e9)
        return max(memory_ms, matrix_ms)


@dataclass(frozen=True)
class PartWork:
    """A part's stages together; ``milliseconds`` is None where the card's ceilings are not known."""

    part: str
    bytes: float
    flops: float
    milliseconds: float | None


def total_bytes(stages: Sequence[Stage]) -> float:
    return sum(stage.bytes for stage in stages)


def total_flops(stages: Sequence[Stage]) -> float:
    return sum(stage.count * stage.flops for stage in stages)


def floor_ms(stages: Sequence[Stage], ceilings: CardCeilings) -> float:
    """The time of ``stages`` one after the other, each at the card's ceiling."""
    return sum(stage.milliseconds(ceilings) for stage in stages)


def by_part(stages: Sequence[Stage], ceilings: CardCeilings | None) -> list[PartWork]:
    """The parts that the model has, in the order of :data:`PARTS`."""
    work = []
    for part in PARTS:
        own = [stage for stage in stages if stage.part == part]
        if own:
            ms = floor_ms(own, ceilings) if ceilings else None
            work.append(PartWork(part, total_bytes(own), total_flops(own), ms))
    return work


# The inner nets of TTT


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
