"""Device functions of the kernels written in Gluon, Triton's language with explicit layouts.

A matrix-vector product W x runs on the tensor cores as the product of W with a matrix of COLUMNS columns that all hold
x: the smallest shape there is. Summing the columns of the result and dividing by COLUMNS, a power of two, gives W x
without rounding.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

COLUMNS = gl.constexpr(8)

# the barrier's name changed between Triton 3.6 and 3.7
barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) from the approximate instructions, whose relative error is about 1e-7; infinities are fine."""
    e = gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x * -1.4426950408889634], gl.float32, True, 1)
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + e], gl.float32, True, 1)


@gluon.jit
def gelu(x):
    """tanh-approximated GELU."""
    return x * sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))


@gluon.jit
def gelu_and_grad(x):
    """GELU(x) and its derivative."""
    s = sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
    return x * s, s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)


@gluon.jit
def normalise(z, WIDTH: gl.constexpr, EPS: gl.constexpr):
    """Layer norm of a whole vector without scale and shift, and the reciprocal of its standard deviation."""
    centred = z - gl.sum(z, 0) / WIDTH
    rstd = gl.rsqrt(gl.sum(centred * centred, 0) / WIDTH + EPS)
    return centred * rstd, rstd


@gluon.jit
def layer_norm_l2_grad(z, target, gamma, beta, WIDTH: gl.constexpr, EPS: gl.constexpr):
    """∂/∂z of ½‖LN(z) - target‖² over a whole vector."""
    normed, rstd = normalise(z, WIDTH, EPS)
    grad = (normed * gamma + beta - target) * gamma
    inner = gl.sum(grad, 0) + normed * gl.sum(grad * normed, 0)
    return (grad - inner / WIDTH) * rstd


@gluon.jit
def columns(x):
    """x [K] as every column of a [K, COLUMNS] operand."""
    return x[:, None].broadcast_to([x.shape[0], COLUMNS])


@gluon.jit
def two_columns(x, y, LAYOUT: gl.constexpr):
    """x [K] and y [K] as the first two columns of a [K, COLUMNS] operand, the others zero."""
    index = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, LAYOUT))[None, :]
    rest = gl.where(index == 1, y[:, None], gl.zeros([y.shape[0], COLUMNS], y.dtype, LAYOUT))
    return gl.where(index == 0, x[:, None], rest)


@gluon.jit
def column(acc, INDEX: gl.constexpr, LAYOUT: gl.constexpr):
    """Column INDEX of acc [R, COLUMNS]."""
    index = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, LAYOUT))
    return gl.sum(gl.where((index == INDEX)[None, :], acc, 0.0), 1)
