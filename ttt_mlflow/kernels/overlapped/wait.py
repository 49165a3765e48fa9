"""Where a kernel of a step waits for the one before it."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_inputs(OVERLAP: tl.constexpr):
    """Let the next kernel start, and wait until the one before has ended and all that it wrote is visible.

    What a program requests before depends on no other kernel of the step, and arrives while it waits. Every kernel of a
    step waits, and none writes before. So all of them write in turn, however early they start. Without OVERLAP, a
    kernel starts when the one before has ended.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
