"""The copy of PyTorch's allocator takes segments as CUDACachingAllocator.cpp does."""

import random

from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.run.allocator import CachingAllocator

KB, MB = 1 << 10, 1 << 20


def sums(allocator: CachingAllocator) -> tuple[int, int]:
    return allocator.allocated, allocator.reserved


def test_small_sizes_share_segments_of_two_megabytes() -> None:
    allocator = CachingAllocator()
    allocator.allocate(1, "stream")
    assert sums(allocator) == (512, 2 * MB)
    allocator.allocate(MB, "stream")
    assert sums(allocator) == (MB + 512, 2 * MB)
    allocator.allocate(MB, "stream")
    assert sums(allocator) == (2 * MB + 512, 4 * MB), "the rest of the first segment is too small"


def test_middle_sizes_share_segments_of_twenty_megabytes() -> None:
    allocator = CachingAllocator()
    for _ in range(6):
        allocator.allocate(3 * MB, "stream")
    assert sums(allocator) == (18 * MB, 20 * MB)
    allocator.allocate(3 * MB, "stream")
    assert sums(allocator) == (21 * MB, 40 * MB)


def test_large_sizes_have_a_segment_each() -> None:
    allocator = CachingAllocator()
    allocator.allocate(10 * MB + 512, "stream")
    assert sums(allocator) == (10 * MB + 512, 12 * MB)
    allocator = CachingAllocator()
    allocator.allocate(11 * MB, "stream")
    assert sums(allocator) == (12 * MB, 12 * MB), "a rest of up to 1 MB is not split off and counts as allocated"


def test_the_smallest_free_block_that_fits_is_used_again() -> None:
    allocator = CachingAllocator()
    large, middle = allocator.allocate(100 * MB, "stream"), allocator.allocate(50 * MB, "stream")
    allocator.free(large)
    allocator.free(middle)
    allocator.allocate(40 * MB, "stream")
    allocator.allocate(100 * MB, "stream")
    assert sums(allocator) == (140 * MB, 150 * MB)


def test_free_neighbors_become_one_block() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MB, "stream") for _ in range(4)]
    for index in (1, 3, 2, 0):
        allocator.free(blocks[index])
    allocator.allocate(9 * MB, "stream")
    allocator.allocate(9 * MB, "stream")
    assert allocator.reserved == 20 * MB


def test_streams_and_graphs_share_nothing() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(50 * MB, "stream"))
    allocator.allocate(50 * MB, "graph")
    assert sums(allocator) == (50 * MB, 100 * MB)


def test_only_segments_without_a_block_in_use_go_back() -> None:
    allocator = CachingAllocator()
    first, second = allocator.allocate(5 * MB, "stream"), allocator.allocate(5 * MB, "stream")
    allocator.free(first)
    allocator.empty_cache()
    assert sums(allocator) == (5 * MB, 20 * MB)
    allocator.free(second)
    allocator.empty_cache()
    assert sums(allocator) == (0, 0)
    assert (allocator.peak_allocated, allocator.peak_reserved) == (10 * MB, 20 * MB)


@given(st.lists(st.tuples(st.integers(1, 64 * MB), st.sampled_from(["stream", "graph"])), max_size=40), st.integers())
def test_nothing_is_lost(wanted: list[tuple[int, str]], seed: int) -> None:
    allocator, chance, blocks = CachingAllocator(), random.Random(seed), []
    for size, pool in wanted:
        blocks.append(allocator.allocate(size, pool))
        assert sum(block.size for block in blocks) == allocator.allocated <= allocator.reserved
        if chance.random() < 0.5:
            allocator.free(blocks.pop(chance.randrange(len(blocks))))
    chance.shuffle(blocks)
    for block in blocks:
        allocator.free(block)
    allocator.empty_cache()
    assert sums(allocator) == (0, 0)
