"""The inner nets: the decode step of an inner layer, and a whole mini-batch in the dual form.

An inner net is chosen by name. PyTorch and Triton variants share the state and the dual form, and differ in the decode
step. Shapes as in :mod:`ttt_mlflow.kernels`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import LINEAR, MINI_BATCH, MLP, InnerLayer
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_dual
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_dual


@dataclass(frozen=True)
class InnerNet:
    """One implementation of an inner layer.

    decode: one decode step, as :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode` or its TTT-MLP
    counterpart. dual: a whole mini-batch, as ``linear_dual`` of the same module. triton: whether the decode step is a
    Triton kernel.
    """

    name: str
    layer: InnerLayer
    decode: Callable[..., Tensor]
    dual: Callable[..., Tensor]
    triton: bool

    @property
    def layer_type(self) -> str:
        return self.layer.name


def _triton_linear(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_linear.decode import linear_decode

    return linear_decode(*arguments, overlap=True)  # the previous launch makes q, k and lr


def _triton_mlp(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_mlp.decode import mlp_decode

    return mlp_decode(*arguments, overlap=True)


INNER_NETS = {
    net.name: net
    for net in (
        InnerNet("mlp_1_dual", LINEAR, linear_decode, linear_dual, triton=False),
        InnerNet("mlp_2_dual", MLP, mlp_decode, mlp_dual, triton=False),
        InnerNet("mlp_1_dual_triton", LINEAR, _triton_linear, linear_dual, triton=True),
        InnerNet("mlp_2_dual_triton", MLP, _triton_mlp, mlp_dual, triton=True),
    )
}
assert MINI_BATCH % CONV_TAPS == 0  # so that the position determines the ring slot of the convolutions
