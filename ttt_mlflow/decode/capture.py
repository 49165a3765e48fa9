"""Capturing a CUDA graph so that a capture that fails costs the process nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of the process: cuBLAS keeps a workspace for every stream that it was used on."""
    return torch.cuda.Stream(device)


@contextmanager
def captured(stream: torch.cuda.Stream) -> Iterator[torch.cuda.CUDAGraph]:
    """A graph of what is launched inside, on ``stream``; what goes wrong inside or at its end is raised.

    A capture that fails leaves PyTorch (seen with 2.11) with ``stream`` as the current one and with an allocator that
    still takes itself to be capturing: nothing cached would be given back to the device until the process ends.
    """
    device = stream.device
    pool = torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device)), torch.cuda.graph(graph, pool=pool, stream=stream):
            yield graph
    except BaseException:  # hides nothing: the allocator is put right, and whatever it was is raised again
        with suppress(RuntimeError):  # the capture did end: the graph gives its pool back itself
            torch._C._cuda_endAllocateToPool(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)
        raise
