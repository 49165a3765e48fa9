"""The inner nets: the decode step of an inner layer, and a whole prompt in the dual form.

An inner net is chosen by name. PyTorch and Triton variants share the state. Shapes as in :mod:`ttt_mlflow.kernels`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import LINEAR, MINI_BATCH, MLP, InnerLayer
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill


@dataclass(frozen=True)
class InnerNet:
    """One implementation of an inner layer.

    decode: one decode step, as :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_decode` or its TTT-MLP
    counterpart. prefill: a prompt, as ``linear_prefill`` of the same module. triton: whether these are Triton kernels.
    """

    name: str
    layer: InnerLayer
    decode: Callable[..., Tensor]
    prefill: Callable[..., Tensor]
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


def _triton_linear_prefill(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_linear.prefill import linear_prefill

    return linear_prefill(*arguments)


def _triton_mlp_prefill(*arguments: Tensor) -> Tensor:
    from ttt_mlflow.kernels.ttt_mlp.prefill import mlp_prefill

    return mlp_prefill(*arguments)


INNER_NETS = {
    net.name: net
    for net in (
        InnerNet("mlp_1_dual", LINEAR, linear_decode, linear_prefill, triton=False),
        InnerNet("mlp_2_dual", MLP, mlp_decode, mlp_prefill, triton=False),
        InnerNet("mlp_1_dual_triton", LINEAR, _triton_linear, _triton_linear_prefill, triton=True),
        InnerNet("mlp_2_dual_triton", MLP, _triton_mlp, _triton_mlp_prefill, triton=True),
    )
}
assert MINI_BATCH % CONV_TAPS == 0  # so that the position determines the ring slot of the convolutions
