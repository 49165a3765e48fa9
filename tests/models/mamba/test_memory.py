"""What is said of Mamba's memory: the published weights, the state, and what mamba-ssm allocates on the way."""

import pytest
import torch

from tests.models.mamba.test_model import PARAMETERS
from ttt_mlflow.models.allocations import STATE, WEIGHTS, WORKSPACES, Allocate, Allocations, EmptyCache, Free
from ttt_mlflow.models.mamba.memory import GRAPH, MemoryOfMamba
from ttt_mlflow.models.mamba.model import SIZES, VOCAB_SIZE
from ttt_mlflow.run.prediction import replay
from ttt_mlflow.workload import Workload

NAME = "state-spaces/mamba-1.4b"


def made(
    name: str = NAME, batch: int = 2, promptlen: int = 1, cuda_graph: bool = True, mode: str = "decode"
) -> Allocations:
    workload = Workload(mode, batch, promptlen, 4)
    return MemoryOfMamba(*SIZES[name], VOCAB_SIZE, torch.float16, workload).allocations(cuda_graph)


def total(allocations: Allocations, kind: str) -> int:
    return sum(one.size for one in allocations.events if isinstance(one, Allocate) and one.kind == kind)


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_the_published_ones_with_a_and_d_in_float32(name: str) -> None:
    width, layers = SIZES[name]
    assert total(made(name), WEIGHTS) == 2 * PARAMETERS[name] + 2 * layers * 2 * width * (16 + 1)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_state_is_there_once(cuda_graph: bool) -> None:
    """Four inputs of the convolution and sixteen numbers for each of 4,096 channels and 48 layers, recorded: 8.0531."""
    assert total(made(batch=1024, cuda_graph=cuda_graph), STATE) == 1024 * 48 * 4096 * (4 + 16) * 2 == 8_053_063_680


def test_peaks_and_parts_are_those_of_a_recorded_memory_profile() -> None:
    """benchmarks/results/2026-11-24-h200/profiles-3.txt, batch 1024: 11.6251 GB at the peak, in a prompt.

    It was a decode run with a prompt of one token, which only prefill mode gives mamba-ssm's code for prompts today.
    """
    allocator, at_peak = replay(made(batch=1024, mode="prefill"))
    assert allocator.peak_allocated / 1e9 == pytest.approx(11.6251, abs=5e-5)
    assert at_peak[WEIGHTS] / 1e9 == pytest.approx(2.7553, abs=5e-5)
    assert at_peak[STATE] / 1e9 == pytest.approx(8.0531, abs=5e-5)
    assert at_peak[WORKSPACES] == 3 * (32 << 20), "of the default stream, the warm-up's stream and the graph"
    assert allocator.peak_reserved / 1e9 == pytest.approx(12.4885, rel=0.001)


def test_a_prompt_of_one_token_is_the_graphs_step() -> None:
    """So it takes no more than the capture before it; mamba-ssm's code for prompts does."""
    peak, longer, timed = (
        replay(made(batch=1024, **asked))[0].peak_allocated for asked in ({}, {"promptlen": 2}, {"mode": "prefill"})
    )
    in_capture = 1024 * 50280 * 2 * 2  # the logits of the warm-up and of the graph
    kept = total(made(batch=1024), WEIGHTS) + total(made(batch=1024), STATE)
    assert kept + in_capture < peak < kept + in_capture + 0.2e9
    assert timed > peak + 0.4e9
    assert longer > timed


def test_a_graph_keeps_its_logits_and_is_captured_with_an_empty_cache() -> None:
    events = made().events
    assert sum(isinstance(one, EmptyCache) for one in events) == 1
    assert not any(isinstance(one, EmptyCache) for one in made(cuda_graph=False).events)
    in_graph = [one for one in events if isinstance(one, Allocate) and one.pool == GRAPH]
    allocator, _ = replay(made())
    assert sum(one.kind == WORKSPACES for one in in_graph) == 1
    assert allocator.allocated > total(made(), WEIGHTS) + total(made(), STATE) + 2 * 50280 * 2, "logits of the graph"


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_first_norms_are_autotuned_with_a_buffer_of_triton(cuda_graph: bool) -> None:
    """Of the process, that is, before the first matrix product and after it. Its 256 MiB are there one at a time."""
    events = made(cuda_graph=cuda_graph).events
    at = [index for index, one in enumerate(events) if isinstance(one, Allocate) and one.size == 256 << 20]
    assert [events[index + 1] for index in at] == [Free(events[index].number) for index in at]  # type: ignore[union-attr]
    product = next(index for index, one in enumerate(events) if isinstance(one, Allocate) and one.kind == WORKSPACES)
    assert [index < product for index in at] == [True, False]


def test_autotuning_is_the_peak_of_a_small_batch_as_recorded() -> None:
    """benchmarks/results/2026-11-29-h200/memory_model-1.txt, batch 1, the first Mamba model of its process."""
    allocator, _ = replay(made(batch=1))
    assert [allocator.peak_allocated / 1e9, allocator.peak_reserved / 1e9] == pytest.approx([3.065, 3.513], abs=1e-3)


def test_a_prompt_keeps_a_state_for_every_2048_tokens_of_a_layer() -> None:
    """In float32, with the sums of the step sizes: the largest tensor of a long prompt of many sequences."""
    peaks = [replay(made(batch=64, promptlen=length, cuda_graph=False))[0].peak_allocated for length in (2048, 2049)]
    chunk = 64 * 4096 * 2 * 16 * 4
    rows = 64 * 60 * 2048 * 2  # of one more token, at most
    assert chunk <= peaks[1] - peaks[0] <= chunk + rows
