"""The inner nets: state, one decode step, and a whole mini-batch in the dual form.

An inner net is chosen by name; PyTorch and Triton variants share state and dual form and differ in the decode step.
Shapes as in :mod:`ttt_mlflow.kernels`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.mini_batch import MINI_BATCH
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_dual
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_dual


@dataclass(frozen=True)
class InnerNet:
    """One inner net. ``state_names`` are the published weights that a sequence's state starts from."""

    name: str
    layer_type: str
    decode: Callable[..., Tensor]
    dual: Callable[..., Tensor]
    triton: bool

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("W1", "b1") if self.layer_type == "linear" else ("W1", "b1", "W2", "b2")

    def slot_widths(self, head_dim: int) -> tuple[int, ...]:
        """Widths of the vectors that are kept for each token of a mini-batch."""
        if self.layer_type == "linear":
            return head_dim, head_dim
        return head_dim, 4 * head_dim, 4 * head_dim, head_dim


def _triton_linear(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_linear.decode import linear_decode

    return linear_decode(*arguments, overlap=True)  # the launch before it makes q, k and lr


def _triton_mlp(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_mlp.decode import mlp_decode

    return mlp_decode(*arguments, overlap=True)


INNER_NETS = {
    net.name: net
    for net in (
        InnerNet("mlp_1_dual", "linear", linear_decode, linear_dual, triton=False),
        InnerNet("mlp_2_dual", "mlp", mlp_decode, mlp_dual, triton=False),
        InnerNet("mlp_1_dual_triton", "linear", _triton_linear, linear_dual, triton=True),
        InnerNet("mlp_2_dual_triton", "mlp", _triton_mlp, mlp_dual, triton=True),
    )
}
assert MINI_BATCH % CONV_TAPS == 0  # a ring slot of the convolutions follows from the position
