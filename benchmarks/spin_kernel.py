"""Waits on the GPU for as long as a number in its memory says.

Twin: :func:`benchmarks.spin.spin_on_host`. One program of one warp reads ``ns`` [1] int64 and looks at the GPU's clock
until that many nanoseconds have gone by; it stores what it waited in ``waited`` [1] int64. The number is read when the
kernel runs, so that a captured graph waits for what was written there last. Limits: the GPU's clock may advance in
steps of up to a microsecond, and so does the wait.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def spin_kernel(ns, waited):  # type: ignore[no-untyped-def]
    wanted = tl.load(ns)
    began = tl.extra.cuda.globaltimer()
    gone = began - began
    while gone < wanted:
        gone = tl.extra.cuda.globaltimer() - began
    tl.store(waited, gone)


def spin(ns: Tensor, waited: Tensor) -> None:
    """Wait on the current stream for ``ns`` [1] int64 nanoseconds; ``waited`` [1] int64 is what it became."""
    spin_kernel[(1,)](ns, waited, num_warps=1)
