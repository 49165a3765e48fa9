"""Device functions that several kernels share. Vectors are padded to a power of two; ``mask`` marks real elements."""

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """tanh-approximated GELU, written as x · sigmoid(2u), which is equivalent and needs one exponential."""
    return x * tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))


@triton.jit
def gelu_and_grad(x):
    """GELU(x) and its derivative."""
    s = tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
    return x * s, s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)


@triton.jit
def layer_norm(z, gamma, beta, mask, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """LN over a whole vector."""
    centered = tl.where(mask, z - tl.sum(z, 0) / WIDTH, 0.0)
    rstd = tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
    return centered * rstd * gamma + beta


@triton.jit
def layer_norm_l2_grad(z, target, gamma, beta, mask, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """∂/∂z of ½‖LN(z) - target‖² over a whole vector; zero where masked."""
    centered = tl.where(mask, z - tl.sum(z, 0) / WIDTH, 0.0)
    rstd = tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + EPS)
    normed = centered * rstd
    grad = tl.where(mask, (normed * gamma + beta - target) * gamma, 0.0)
    inner = tl.sum(grad, 0) + normed * tl.sum(grad * normed, 0)
    return tl.where(mask, (grad - inner / WIDTH) * rstd, 0.0)


@triton.jit
def piece(x, index, COUNT: tl.constexpr):
    """Piece ``index`` of a vector that is divided into COUNT pieces, for a loop over parts of a matrix."""
    pieces = tl.reshape(x, (COUNT, x.shape[0] // COUNT))
    return tl.sum(tl.where((tl.arange(0, COUNT) == index)[:, None], pieces, 0.0), 0)


@triton.jit
def put_piece(x, index, part, COUNT: tl.constexpr):
    """The vector x, with ``part`` as its piece ``index`` of COUNT."""
    pieces = tl.reshape(x, (COUNT, x.shape[0] // COUNT))
    return tl.reshape(tl.where((tl.arange(0, COUNT) == index)[:, None], part[None, :], pieces), (x.shape[0],))
