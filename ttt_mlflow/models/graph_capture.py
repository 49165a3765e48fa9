"""Captures CUDA graphs that share nothing with each other. A failed capture has no lasting effect."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

# By device: streams on which no living graph was captured. They are reused, because cuBLAS keeps a workspace for every
# stream on which it was used (32 MiB on an H200). A stream is not reused while a graph lives that was captured on it:
# the graph's kernels use that workspace, and PyTorch (2.13) frees a stream's workspaces as soon as any graph captured
# there is destroyed.
_free_streams: dict[int, list[torch.cuda.Stream]] = defaultdict(list)


def warm_stream(device: torch.device, warm_up: Callable[[], object]) -> torch.cuda.Stream:
    """A stream for a capture. ``warm_up`` has run on it, so that nothing is initialized during the capture."""
    free = _free_streams[torch.cuda.current_device() if device.index is None else device.index]
    stream = free.pop() if free else torch.cuda.Stream(device)
    try:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            warm_up()
        torch.cuda.current_stream(device).wait_stream(stream)
    except BaseException:  # the stream becomes free again, and the exception is raised again
        free.append(stream)
        raise
    return stream


@contextmanager
def captured(stream: torch.cuda.Stream) -> Iterator[torch.cuda.CUDAGraph]:
    """A graph of the launches inside the block, on a :func:`warm_stream`. Errors inside or at its end are raised.

    After a failed capture, PyTorch (seen with 2.11) keeps ``stream`` as the current stream, and its allocator still
    treats the capture as active. No cached memory would then be returned to the device until the process ends.
    """
    device = stream.device
    pool = torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    # also for a failed capture, because code that keeps its error keeps the graph
    weakref.finalize(graph, _free_streams[device.index].append, stream)
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device)), torch.cuda.graph(graph, pool=pool, stream=stream):
            yield graph
    except BaseException:  # the allocator is repaired, and the exception is raised again
        with suppress(RuntimeError):  # the capture did end, so the graph returns its pool itself
            torch._C._cuda_endAllocateToPool(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)
        raise
