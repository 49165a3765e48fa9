"""How the programs of one launch wait for each other."""

import triton
import triton.language as tl
from triton.language.extra.cuda import globaltimer

# Questions of a waiting program, about 1 µs each, until it gives up. A step takes a thousandth of that.
PATIENCE = 1_000_000


@triton.jit
def arrive(arrived, times, met, TIMELINE: tl.constexpr):
    """Tell the other programs that this one has come to a meeting. Returns the new ``met``, the meetings so far.

    What a program has written before is visible to all that have waited (:func:`wait`). What it requests from memory
    between the two travels meanwhile; requested before, it would have to come first.

    arrived: int32, 0 before the launch. times: with TIMELINE, nanoseconds [meetings, programs, 2] at which each program
    came and went on.
    """
    if TIMELINE:
        tl.store(times + (met * tl.num_programs(0) + tl.program_id(0)) * 2, globaltimer())
    tl.debug_barrier()  # all threads have written before one of them says so
    tl.atomic_add(arrived, 1, sem="release", scope="gpu")
    return met + 1


@triton.jit
def wait(arrived, failed, times, met, patience, TIMELINE: tl.constexpr):
    """Wait until every program has arrived ``met`` times. Returns the new ``patience``.

    All programs must be resident, as in a cooperative launch; should one never come, the others write 1 to ``failed``
    and go on without waiting any more.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    seen = tl.atomic_add(arrived, 0, sem="acquire", scope="gpu")
    asked = patience * 0
    while (seen < met * programs) & (asked < patience):
        seen = tl.atomic_add(arrived, 0, sem="acquire", scope="gpu")
        asked += 1
    if seen < met * programs:
        tl.store(failed, 1)
        patience = patience * 0
    if TIMELINE:
        tl.store(times + ((met - 1) * programs + program) * 2 + 1, globaltimer())
    return patience
