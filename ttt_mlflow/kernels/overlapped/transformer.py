"""A transformer's decode step as overlapping kernels, with any attention."""

from collections.abc import Callable

from torch import Tensor

from ttt_mlflow.kernels.launch import has_warpgroups
from ttt_mlflow.kernels.overlapped.launch import DecodeStep
from ttt_mlflow.kernels.overlapped.shape import check_shape
from ttt_mlflow.kernels.overlapped.tensors import TransformerTensors
from ttt_mlflow.kernels.overlapped.tuning import Tuning
from ttt_mlflow.workload import ATTENTION, PROJECTIONS, in_part

# qkv, position, cos, sin, k, v, as :func:`ttt_mlflow.kernels.attention.reference.decode_attention` takes them
Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class TransformerStep(DecodeStep):
    """A decode step of ``batch`` sequences of a transformer as overlapping kernels.

    Twin: :func:`.reference.transformer_step`. Raises ValueError for what it cannot do (:func:`.shape.unsupported`).
    """

    def __init__(
        self,
        tensors: TransformerTensors,
        batch: int,
        attention: Callable[[bool], Attention],
        *,
        tuning: Tuning | None = None,
    ) -> None:
        """attention: called before each step for its attention, with whether launches overlap. One whose launches do
        not is in its place all the same: it starts when all before has ended, and the product after it when it has.
        tuning: another choice than that for the batch.
        """
        shape = check_shape(tensors, batch)
        tuning = tuning or Tuning.of(shape.model, batch, has_warpgroups(tensors.embedding.device))
        super().__init__(tensors, shape, batch, tuning)
        self.tensors, self._attention_of_step = tensors, attention

    def __call__(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        with in_part(ATTENTION):
            self._attention = self._attention_of_step(self.overlap)
        return super().__call__(tokens, next_tokens)

    def _layer(self, index: int, parts: int) -> None:
        shared, layer, tuning = self.tensors, self.tensors.layers[index], self.tuning
        with in_part(PROJECTIONS):
            self._add_norm(self.hidden, self.down_sums, parts, layer.attention_norm, self.between)
            self._product(self.x, layer.qkv, self.projection, tuning.projection)
        with in_part(ATTENTION):
            attended = self._attention(self.projection, shared.position, shared.cos, shared.sin, layer.k, layer.v)
        with in_part(PROJECTIONS):
            self._product(attended.contiguous(), layer.o_proj, self.o_sums, tuning.output, partial=True)
        self._feed_forward(layer.ffn_norm, layer.gate_up, layer.down_proj)
