"""What becomes of a capture. That the memory really returns is tested on a GPU (tests/gpu)."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.micro.fake_cuda import POOL, stand_in_for_cuda
from ttt_mlflow.models.graph_capture import captured, warm_stream

DEVICE = torch.device("cuda", 0)


@contextmanager
def a_capture(graph: object, pool: object, stream: object) -> Iterator[None]:
    yield


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
    allocator = stand_in_for_cuda(monkeypatch, a_capture)
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


def test_a_stream_serves_one_living_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what is destroyed with one graph is no other one's; and cuBLAS keeps few workspaces."""
    stand_in_for_cuda(monkeypatch, a_capture)

    def capture() -> tuple[torch.cuda.Stream, torch.cuda.CUDAGraph]:
        stream = warm_stream(DEVICE, lambda: None)
        with captured(stream) as graph:
            pass
        return stream, graph

    first_stream, first = capture()
    second_stream, second = capture()
    assert second_stream is not first_stream
    del first
    third_stream, third = capture()
    assert third_stream is first_stream
    del second, third
    assert {warm_stream(DEVICE, lambda: None), warm_stream(torch.device("cuda"), lambda: None)} == {
        first_stream,
        second_stream,
    }


@pytest.mark.parametrize("where", ["warm-up", "capture"])
def test_the_stream_of_what_failed_is_used_again(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_cuda(monkeypatch, a_capture)

    def fail(here: str) -> None:
        if here == where:
            raise ValueError(here)

    stream = warm_stream(DEVICE, lambda: None)
    with captured(stream) as graph:
        pass
    del graph
    with pytest.raises(ValueError, match=where), captured(warm_stream(DEVICE, lambda: fail("warm-up"))):
        fail("capture")
    gc.collect()  # the error's traceback holds the graph that failed
    assert warm_stream(DEVICE, lambda: None) is stream


def test_a_graph_whose_capture_failed_keeps_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may come late, with the error that holds it, and takes what belongs to the stream along."""
    stand_in_for_cuda(monkeypatch, a_capture)
    stream = warm_stream(DEVICE, lambda: None)
    held = []

    def fail_with(graph: torch.cuda.CUDAGraph) -> None:
        held.append(graph)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), captured(stream) as graph:
        fail_with(graph)
    assert warm_stream(DEVICE, lambda: None) is not stream
