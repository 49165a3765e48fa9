"""The arithmetic that the reference functions share: products with the state, norms, GELU.

Norms are over the last dimension. An unrounded result is in the dtype of the arithmetic (float64, or that of
:func:`matrix`). The caller rounds it once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ttt_mlflow.kernels.opaque import opaque

NORM_EPS = 1e-6


def matrix(x: Tensor) -> Tensor:
    """``x`` in the dtype of products with the state: float32, or float64 for float64 state."""
    return x if x.dtype == torch.float64 else x.float()


def _product(x: Tensor, w: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], w.shape[-1], dtype=torch.float64, device=x.device)


@opaque(shapes=_product)
def times(x: Tensor, w: Tensor) -> Tensor:
    """x @ w for vectors x in float64 and a matrix w from :func:`matrix`; the product is in w's dtype, then float64.

    It is opaque because the compiler would pass x with other strides, and the BLAS would sum in another order.
    """
    return (x.to(w.dtype) @ w).double()


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """x [..., D] divided by its root mean square, times ``weight`` [D]; unrounded."""
    x = x.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Layer norm of x [..., F] over its last dimension, scaled by ``weight`` and shifted by ``bias``; unrounded."""
    mean = x.mean(-1, keepdim=True)
    centered = x - mean
    return centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps) * weight + bias


def layer_norm_l2_grad(z: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float = NORM_EPS) -> Tensor:
    """∂/∂z of ½‖LN(z) - target‖² for z, target [..., F], LN with ``weight`` and ``bias``; in z's shape, unrounded."""
    width = z.shape[-1]
    centered = z - z.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    normed = centered * rstd
    grad = (normed * weight + bias - target) * weight
    inner = grad.sum(-1, keepdim=True) + normed * (grad * normed).sum(-1, keepdim=True)
    return (grad - inner / width) * rstd


GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
GELU_CUBIC = 0.044715


def gelu(x: Tensor) -> Tensor:
    """The tanh-approximated GELU, in x's dtype."""
    return F.gelu(x, approximate="tanh")


def gelu_grad(x: Tensor) -> Tensor:
    """Derivative of :func:`gelu` at x, in x's dtype."""
    t = torch.tanh(GELU_SCALE * x * (1 + GELU_CUBIC * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x)
