"""PyTorch's caching allocator, as far as it decides how much memory a run takes from a GPU.

Source: c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.11 with its defaults. Sizes are rounded to 512 bytes. Small ones
are parts of segments of 2 MiB. Others are parts of segments of 20 MiB, or, from 10 MiB, have one of their own, rounded
to 2 MiB. A free block is used again for what fits, within its stream or graph; the rest of it is split off.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

SMALLEST, SMALL, LARGE = 512, 1 << 20, 10 << 20
SMALL_SEGMENT, SEGMENT, ROUNDED = 2 << 20, 20 << 20, 2 << 20


def _rounded(size: int, to: int) -> int:
    return -(-size // to) * to


@dataclass
class Block:
    """A part of a segment, beside its neighbors in it."""

    place: tuple[str, bool]  # the stream or graph, and whether it is for small sizes
    order: int
    size: int
    free: bool = False
    previous: "Block | None" = None
    next: "Block | None" = None

    @property
    def key(self) -> tuple[int, int]:
        return self.size, self.order


@dataclass
class CachingAllocator:
    """Sums and their peaks, in bytes. allocated: blocks in use. reserved: segments."""

    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    _free: dict[tuple[str, bool], list[tuple[tuple[int, int], Block]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _orders: Iterator[int] = field(default_factory=count)

    def allocate(self, size: int, pool: str) -> Block:
        """A block of at least ``size`` bytes. pool: the stream, or the graph that is captured."""
        size = _rounded(max(size, 1), SMALLEST)
        block = self._found(size, (pool, size <= SMALL))
        rest = block.size - size
        if rest >= SMALLEST if block.place[1] else rest > SMALL:
            self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        self.allocated -= block.size
        block.free = True
        for other in (block.previous, block.next):
            if other and other.free:
                self._take(other)
                block = self._merged(block, other)
        insort(self._free[block.place], (block.key, block))

    def empty_cache(self) -> None:
        """Give segments without a block in use back to the GPU."""
        for place, blocks in self._free.items():
            whole = [one for one in blocks if one[1].previous is None and one[1].next is None]
            self.reserved -= sum(block.size for _, block in whole)
            self._free[place] = [one for one in blocks if one not in whole]

    def _found(self, size: int, place: tuple[str, bool]) -> Block:
        free = self._free[place]
        at = bisect_left(free, ((size, -1),))
        if at < len(free):
            return free.pop(at)[1]
        segment = SMALL_SEGMENT if place[1] else SEGMENT if size < LARGE else _rounded(size, ROUNDED)
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return Block(place, next(self._orders), segment)

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.place, next(self._orders), block.size - size, True, block, block.next)
        if block.next:
            block.next.previous = rest
        block.size, block.next = size, rest
        insort(self._free[rest.place], (rest.key, rest))

    def _take(self, block: Block) -> None:
        free = self._free[block.place]
        del free[bisect_left(free, (block.key,))]

    def _merged(self, one: Block, other: Block) -> Block:
        first, second = (one, other) if one.next is other else (other, one)
        first.size += second.size
        first.next = second.next
        if second.next:
            second.next.previous = first
        first.free = True
        return first
