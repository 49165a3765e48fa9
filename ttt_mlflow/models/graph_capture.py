"""Capturing a CUDA graph so that it shares nothing with another one, and that a capture that fails costs nothing."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

# By device: streams on which no living graph was captured. cuBLAS keeps a workspace for every stream that it was used
# on (32 MiB on an H200), so they are used again; but not while a graph lives that was captured there: its kernels work
# in that workspace, and PyTorch (2.13) gives a stream's workspaces back as soon as any graph captured there is
# destroyed.
_free_streams: dict[int, list[torch.cuda.Stream]] = defaultdict(list)


def warm_stream(device: torch.device, warm_up: Callable[[], object]) -> torch.cuda.Stream:
    """A stream to capture on, on which ``warm_up`` has done what must not happen inside a capture."""
    free = _free_streams[torch.cuda.current_device() if device.index is None else device.index]
    stream = free.pop() if free else torch.cuda.Stream(device)
    try:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            warm_up()
        torch.cuda.current_stream(device).wait_stream(stream)
    except BaseException:  # hides nothing: the stream is free again, and whatever it was is raised again
        free.append(stream)
        raise
    return stream


@contextmanager
def captured(stream: torch.cuda.Stream) -> Iterator[torch.cuda.CUDAGraph]:
    """A graph of what is launched inside, on a :func:`warm_stream`; what goes wrong inside or at its end is raised.

    A capture that fails leaves PyTorch (seen with 2.11) with ``stream`` as the current one and with an allocator that
    still takes itself to be capturing: nothing cached would be given back to the device until the process ends.
    """
    device = stream.device
    pool = torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    # also of a capture that fails: whoever keeps its error keeps the graph
    weakref.finalize(graph, _free_streams[device.index].append, stream)
    try:
        with torch.cuda.stream(torch.cuda.current_stream(device)), torch.cuda.graph(graph, pool=pool, stream=stream):
            yield graph
    except BaseException:  # hides nothing: the allocator is put right, and whatever it was is raised again
        with suppress(RuntimeError):  # the capture did end: the graph gives its pool back itself
            torch._C._cuda_endAllocateToPool(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)
        raise
