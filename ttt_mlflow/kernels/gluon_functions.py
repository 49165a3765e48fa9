"""Device functions of the kernels in Gluon, Triton's language with explicit layouts.

A matrix-vector product W x runs on the tensor cores as the product of W with a matrix of eight columns, the smallest
possible shape (m16n8k16). The even and the odd columns are two different vectors: two inputs in one product, or the
upper and lower bits of one input. Each thread then holds one value of each for its own rows. Four neighboring threads
hold the same values; in the shapes below, this is the last axis, of size four.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

# the barrier's name changed between Triton 3.6 and 3.7
barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier

# scores are divided by it before they are split into 16-bit parts, so that large scores do not overflow float16
SCORE_SCALE = gl.constexpr(256.0)


@gluon.jit
def ex2(x):
    """2 to the power of x, with the approximate instruction. The relative error is about 1e-7."""
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit
def rcp(x):
    """1 / x with the approximate instruction. The relative error is about 1e-7; infinities are handled."""
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return rcp(1.0 + ex2(x * -1.4426950408889634))


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
def normalize(z, WIDTH: gl.constexpr, EPS: gl.constexpr):
    """Layer norm of a whole vector without scale and shift, and the reciprocal of its standard deviation."""
    centered = z - gl.sum(z, 0) / WIDTH
    rstd = gl.rsqrt(gl.sum(centered * centered, 0) / WIDTH + EPS)
    return centered * rstd, rstd


@gluon.jit
def layer_norm_l2_grad(z, target, gamma, beta, WIDTH: gl.constexpr, EPS: gl.constexpr):
    """∂/∂z of ½‖LN(z) - target‖² over a whole vector."""
    normed, rstd = normalize(z, WIDTH, EPS)
    grad = (normed * gamma + beta - target) * gamma
    inner = gl.sum(grad, 0) + normed * gl.sum(grad * normed, 0)
    return (grad - inner / WIDTH) * rstd


@gluon.jit
def even_odd(acc):
    """The even and the odd columns of a product acc [W, R, 8], as two [W, R, 4]."""
    return gl.split(acc.reshape([acc.shape[0], acc.shape[1], 4, 2]))


@gluon.jit
def high_low(x, DTYPE: gl.constexpr):
    """x as the sum of two vectors of DTYPE, which preserves twice the bits of DTYPE."""
    high = x.to(DTYPE)
    return high, (x - high.to(gl.float32)).to(DTYPE)


@gluon.jit
def movmatrix(x):
    """Transpose each 8 x 8 block of 16-bit values. Each thread of a warp holds two neighboring values of a row."""
    return gl.inline_asm_elementwise("movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", [x], x.dtype, False, 2)


@gluon.jit
def operand(even, odd, MMA: gl.constexpr, B: gl.constexpr):
    """even, odd [W, R, 4], 16 bit, as the even and odd columns of an operand [W, R, 8] of the next product.

    The rows stay in their warp, so this needs no shared memory: one instruction per block.
    """
    W: gl.constexpr = even.shape[0]
    R: gl.constexpr = even.shape[1]
    x = gl.convert_layout(gl.join(even, odd).reshape([W, R, 8]), MMA, assert_trivial=True)
    x = movmatrix(x).reshape([W, R // 8, 8, 8]).permute([0, 1, 3, 2]).reshape([W, R, 8])
    return gl.convert_layout(x, B, assert_trivial=True)


@gluon.jit
def add_rows(state, INDEX: gl.constexpr, left, right, scale, MMA: gl.constexpr, A: gl.constexpr):
    """Add scale · left right to quarter INDEX of the rows of ``state`` [W, 64, 64] in shared memory."""
    tile = state.slice(INDEX * 16, 16, dim=1)
    zero = gl.zeros([left.shape[0], 16, 64], gl.float32, MMA)
    change = mma_v2(gl.convert_layout(left, A, assert_trivial=True), right, zero)
    tile.store((tile.load(MMA).to(gl.float32) + scale * change).to(state.dtype))


@gluon.jit
def fold(state, left, right, scale, MMA: gl.constexpr, A: gl.constexpr):
    """state += scale · left right, with operands left [W, 64, 16] and right [W, 16, 64].

    The rows are processed in quarters, because the sums of all rows would not fit into the registers.
    """
    quarters = left.reshape([left.shape[0], 2, 2, 16, 16]).permute([0, 3, 4, 1, 2])
    even, odd = gl.split(quarters)
    first, third = gl.split(even)
    second, fourth = gl.split(odd)
    add_rows(state, 0, first, right, scale, MMA, A)
    add_rows(state, 1, second, right, scale, MMA, A)
    add_rows(state, 2, third, right, scale, MMA, A)
    add_rows(state, 3, fourth, right, scale, MMA, A)


@gluon.jit
def after_previous(x):
    """Wait until the previous kernel is complete and its writes are visible. Returns x unchanged.

    Needs compute capability 9.0. Without the launch attribute (``launch_pdl``), there is nothing to wait for.
    """
    return gl.inline_asm_elementwise("griddepcontrol.wait; mov.b32 $0, $1;", "=r,r", [x], gl.int32, False, 1)


@gluon.jit
def let_next_begin(x):
    """Let the next kernel's programs start as soon as there is room, if it is launched to overlap. Returns x."""
    return gl.inline_asm_elementwise(
        "griddepcontrol.launch_dependents; mov.b32 $0, $1;", "=r,r", [x], gl.int32, False, 1
    )
