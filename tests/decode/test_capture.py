"""What becomes of a capture. That the memory really returns is tested on a GPU (tests/gpu)."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.micro.fake_cuda import POOL, stand_in_for_cuda
from ttt_mlflow.decode.capture import capture_stream, captured


def test_a_capture_that_ends_well_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, object]] = []

    @contextmanager
    def capture(graph: object, pool: object, stream: object) -> Iterator[None]:
        given.append((graph, pool))
        yield

    allocator = stand_in_for_cuda(monkeypatch, capture)
    with captured(torch.cuda.Stream()) as graph:
        pass
    assert given == [(graph, POOL)]
    assert allocator.told == []


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted"), KeyboardInterrupt()])
def test_a_capture_that_fails_ends_for_the_allocator_too(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: object, pool: object, stream: object) -> Iterator[None]:
        yield

    allocator = stand_in_for_cuda(monkeypatch, capture)
    with pytest.raises(type(error)), captured(torch.cuda.Stream()):
        raise error
    assert allocator.told == [("end", 0, POOL), ("release", 0, POOL)]


def test_an_error_after_the_capture_ended_is_the_error_that_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: object, pool: object, stream: object) -> Iterator[None]:
        yield
        allocator.capturing = False
        raise ValueError("cannot be instantiated")

    allocator = stand_in_for_cuda(monkeypatch, capture)
    with pytest.raises(ValueError, match="cannot be instantiated"), captured(torch.cuda.Stream()):
        pass
    assert allocator.told == []


def test_all_captures_have_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS keeps a workspace for each, 32 MiB on an H200."""
    made = []

    def make(device: torch.device) -> object:
        made.append(device)
        return object()

    monkeypatch.setattr(torch.cuda, "Stream", make)
    device = torch.device("cuda", 99)  # no test before this one can have asked for it
    assert capture_stream(device) is capture_stream(device)
    assert made == [device]
    capture_stream.cache_clear()
