"""A kernel that waits on the GPU for the time that a number in its memory gives.

Twin: :func:`benchmarks.spin.spin_on_host`. One program of one warp reads ``ns`` [1] int64 and polls the GPU's clock
until that many nanoseconds have passed. It stores the actual time in ``waited`` [1] int64. The kernel reads the number
when it runs, so a captured graph waits for the time that was written last. Limits: the GPU's clock may advance in steps
of up to a microsecond, and so does the wait.
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
    """Wait on the current stream for ``ns`` [1] int64 nanoseconds. ``waited`` [1] int64 is set to the actual time."""
    spin_kernel[(1,)](ns, waited, num_warps=1)
