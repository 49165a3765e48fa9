"""Stands for torch.cuda's streams and graphs on a machine without a GPU."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest
import torch

from ttt_mlflow.models import graph_capture as capture_module

Capture = Callable[..., AbstractContextManager[None]]
POOL = (0, 7)


class FakeStream:
    """One that does nothing."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = torch.device("cuda", 0)

    def wait_stream(self, other: object) -> None:
        pass


class FakeGraph:
    """One that holds nothing."""


@dataclass
class Allocator:
    """What it was told about the pool of a graph: it knows which captures are under way."""

    capturing: bool = True
    told: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)

    def end(self, device: int, pool: tuple[int, int]) -> None:
        if not self.capturing:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.capturing = False
        self.told.append(("end", device, pool))

    def release(self, device: int, pool: tuple[int, int]) -> None:
        self.told.append(("release", device, pool))


def stand_in_for_cuda(monkeypatch: pytest.MonkeyPatch, capture: Capture) -> Allocator:
    """Streams that do nothing, ``capture`` in place of a graph's, and an allocator that notes what it is told."""
    allocator = Allocator()
    monkeypatch.setattr(capture_module, "_free_streams", defaultdict(list))
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "stream", lambda given: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: POOL)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", allocator.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", allocator.release, raising=False)
    return allocator
