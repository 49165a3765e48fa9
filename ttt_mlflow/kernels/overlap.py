"""Kernels that start while the one before them still runs (programmatic dependent launch)."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_inputs(OVERLAP: tl.constexpr):
    """Let the next kernel start, and wait until the one before has ended and all that it wrote is visible.

    What a program requests before must depend on no kernel that may still run: weights, and what a decode step before
    wrote. It arrives while the program waits. A kernel that waits like this writes nothing before, so however early
    they start, all of them write in turn. Without OVERLAP, a kernel starts when the one before has ended.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
