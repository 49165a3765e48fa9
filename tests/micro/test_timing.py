"""How many copies are timed with, in which order, and what becomes of the times. A GPU's part is in tests/gpu."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from triton import testing

from tests.micro.cases import CPU, prompt, shape
from tests.micro.fake_cuda import stand_in_for_cuda
from ttt_mlflow.errors import Killed, RunFailed
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.micro import timing as timing_module
from ttt_mlflow.micro.inputs import StepShape, make_inputs
from ttt_mlflow.micro.task import RandomSource, make_positions
from ttt_mlflow.micro.timing import (
    FREE_SHARE,
    L2_SIZES,
    _capture,
    copies_for,
    replays_for,
    run_calls,
    time_on_cpu,
    time_on_gpu,
)

MB = 1_000_000
MOST_COPIES = StepShape.most_copies


def h200(layer_type: str, batch: int) -> int:
    one = shape(layer_type, batch=batch, heads=32, head_dim=64)
    return copies_for(one, l2_bytes=50 * MB, free_bytes=140_000 * MB)


def test_small_batches_have_many_copies_and_large_ones_two() -> None:
    assert h200("linear", 128) == 5  # 47.2 MB each
    assert h200("linear", 1024) == 2  # one is above the L2, but a launch must not need what the one before it wrote
    assert h200("mlp", 128) == 2
    assert h200("linear", 1) == MOST_COPIES


@given(st.integers(1, 10_000), st.integers(1, 200 * MB), st.integers(0, 10**12))
def test_copies_go_beyond_the_l2_or_are_as_many_as_may_be(batch: int, l2: int, free: int) -> None:
    one = shape("linear", batch=batch, heads=32, head_dim=64)
    copies = copies_for(one, l2, free)
    assert 1 <= copies <= MOST_COPIES
    if copies > 1:
        assert copies * one.copy_bytes <= FREE_SHARE * free
        assert copies == MOST_COPIES or copies * one.floor_bytes >= L2_SIZES * l2
        assert copies == 2 or (copies - 1) * one.floor_bytes < L2_SIZES * l2, "no more than are needed"


def test_a_sample_outweighs_the_l2_and_a_slow_kernel_is_not_replayed_for_minutes() -> None:
    l2 = 60 * MB
    # TTT-Linear at batch 128 on an H200: 5 copies of 47.2 MB at 16 positions in 1.01 ms
    assert replays_for(5 * 16 * 47.2e6, 1.01, l2) == 5
    # the eager one at batch 1 with 8 heads: 128 copies of 70 kB, for which bytes alone would ask for 107 replays
    assert replays_for(128 * 16 * 70e3, 250.0, l2) == 1
    assert replays_for(128 * 16 * 70e3, 4.0, l2) == 3


def test_each_position_goes_over_all_copies_before_the_next() -> None:
    copies = [make_inputs(shape(), RandomSource(seed, CPU)) for seed in range(3)]
    seen: list[tuple[int, int]] = []

    def step(*arguments: Tensor) -> Tensor:
        copy = next(index for index, inputs in enumerate(copies) if inputs.state[0] is arguments[8])
        assert any(arguments[0] is token[0] for token in copies[copy].tokens)
        seen.append((int(arguments[5]), copy))
        return torch.empty(1)

    outputs = run_calls(step, copies, make_positions(CPU))
    assert seen == [(position, copy) for position in range(16) for copy in range(3)]
    assert len({out.data_ptr() for out in outputs}) == 16 * 3


def test_a_prompt_is_one_call_for_each_copy() -> None:
    copies = [make_inputs(prompt(), RandomSource(seed, CPU)) for seed in range(3)]
    seen: list[tuple[int, ...]] = []

    def prefill(*arguments: Tensor) -> Tensor:
        seen.append((*arguments[0].shape, int(arguments[5])))
        return linear_prefill(*arguments)

    outputs = run_calls(prefill, copies, make_positions(CPU))
    assert seen == [(2, 40, 32, 0)] * 3
    assert [out.shape for out in outputs] == [(2, 40, 32)] * 3
    timing = time_on_cpu(prefill, copies[:1], seconds=1e-6, on_section=lambda edge: None)
    assert (timing.launches, timing.copies, len(timing.us)) == (1, 1, 3)


def test_a_prompt_is_timed_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with stand-ins for its cache, its events and a graph."""
    calls: list[int] = []

    def prefill(*arguments: Tensor) -> Tensor:
        calls.append(int(arguments[5]))  # a captured step must not read it back
        return linear_prefill(*arguments)

    def do_bench(sample: Callable[[], None], warmup: float, rep: float, return_mode: str) -> list[float]:
        assert (warmup, rep, return_mode) == (50.0, 200.0, "all")
        before = len(calls)
        sample()
        return [float(len(calls) - before)] * 2  # one millisecond for each call

    monkeypatch.setattr(testing, "do_bench", do_bench)
    monkeypatch.setattr(timing_module, "time_once", lambda launch, device: (launch(), 4.0))
    monkeypatch.setattr(timing_module, "l2_bytes", lambda device: 60 * MB)
    monkeypatch.setattr(timing_module, "_capture", lambda *_: pytest.fail("a prompt is not captured"))
    copies = [make_inputs(prompt(), RandomSource(seed, CPU)) for seed in range(2)]
    edges: list[str] = []
    timing = time_on_gpu(prefill, prompt(), copies, seconds=0.2, on_section=edges.append)
    assert timing.us.tolist() == pytest.approx([1000.0] * 2)
    assert (timing.launches, timing.copies) == (3 * 2, 2), "10 ms: three times both copies"
    assert set(calls) == {0}
    assert edges == ["begin", "end"]


def test_a_cpus_times_are_those_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves with the steps: 2 ms each."""
    clock = [0]

    def step(*arguments: Tensor) -> Tensor:
        clock[0] += 2_000_000
        return torch.empty(1)

    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock[0])
    edges: list[str] = []
    copies = [make_inputs(shape(), RandomSource(0, CPU))]
    timing = time_on_cpu(step, copies, seconds=0.32, on_section=edges.append)
    assert timing.us.tolist() == [2000.0] * 10
    assert (timing.launches, timing.copies) == (16, 1)
    assert edges == ["begin", "end"]


def test_a_few_samples_are_taken_however_long_they_take() -> None:
    copies = [make_inputs(shape(), RandomSource(0, CPU))]
    timing = time_on_cpu(linear_decode, copies, seconds=1e-6, on_section=lambda edge: None)
    assert len(timing.us) == 3
    assert (timing.us > 0).all()
    assert isinstance(timing.us, np.ndarray)


def test_the_section_ends_with_whatever_ends_the_timing() -> None:
    calls = [0]

    def step(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 16 * 2:
            raise KeyboardInterrupt
        return torch.empty(1)

    edges: list[str] = []
    copies = [make_inputs(shape(), RandomSource(0, CPU))]
    with pytest.raises(KeyboardInterrupt):
        time_on_cpu(step, copies, seconds=1e-9, on_section=edges.append)
    assert edges == ["begin", "end"]


@pytest.mark.parametrize("over_it", [True, False])
def test_an_interrupted_capture_is_an_interruption(over_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the end of the capture raises an error of its own, as CUDA's does."""
    killed = Killed(signal.SIGTERM)

    @contextmanager
    def capture(graph: object, pool: object, stream: object) -> Iterator[None]:
        try:
            yield
        finally:
            if over_it:
                raise RuntimeError("the capture was invalidated")

    stand_in_for_cuda(monkeypatch, capture)
    calls = [0]

    def step(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 16 + 3:
            raise killed
        return torch.empty(1)

    with pytest.raises(Killed):
        _capture(step, [make_inputs(shape(), RandomSource(0, CPU))], make_positions(CPU))


def test_a_step_that_cannot_be_captured_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: object, pool: object, stream: object) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    stand_in_for_cuda(monkeypatch, capture)
    inputs = make_inputs(shape(), RandomSource(0, CPU))
    with pytest.raises(RunFailed) as failed:
        _capture(linear_decode, [inputs], make_positions(CPU))
    assert str(failed.value) == (
        "the step cannot be captured in a CUDA graph, which the timing needs: operation not permitted when stream is "
        "capturing"
    )
