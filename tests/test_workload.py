"""What is timed, in tokens; names for profilers: nothing unless switched on, and never inside compiled code."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from ttt_mlflow import workload
from ttt_mlflow.workload import Workload, in_layer, in_part, named_by, recording


class Noted:
    """Notes the ranges that are opened and closed."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.seen.append(name)
        yield
        self.seen.append(f"/{name}")


def test_the_tokens_of_a_pass() -> None:
    assert Workload("decode", batch=4, promptlen=3, genlen=5).tokens_per_pass == 4 * 5
    assert Workload("prefill", batch=4, promptlen=3, genlen=5).tokens_per_pass == 4 * 3


def test_how_far_a_sequence_goes() -> None:
    """A prompt of 3 and steps that feed tokens 3 to 7, after which profiles may feed more."""
    decode, prefill = Workload("decode", 4, 3, 5), Workload("prefill", 4, 3, 5)
    assert (decode.mean_position, prefill.mean_position) == (5, 3)
    assert (decode.max_length(), prefill.max_length()) == (3 + 5 + 16 + 8, 3 + 16 + 8)
    assert decode.max_length(period=24) == 3 + 5 + 24 + 8


def test_off_a_range_is_one_object_that_does_nothing() -> None:
    assert not recording()
    assert in_part("sampling") is in_layer(3) is workload.NOTHING


def test_switched_on_they_are_named_and_afterwards_they_are_off_again() -> None:
    noted = Noted()
    with pytest.raises(ValueError, match="in the block"), named_by(noted):  # noqa: PT012
        assert recording()
        with in_layer(2), in_part("sampling"):
            pass
        raise ValueError("in the block")
    assert noted.seen == ["layer 2", "sampling", "/sampling", "/layer 2"]
    assert not recording()


def test_compiled_code_has_no_ranges_and_is_not_compiled_again_for_them() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(len(graph.graph.nodes))
        return graph

    def doubled(x: Tensor) -> Tensor:
        with in_part("sampling"):
            return x * 2

    noted = Noted()
    step = torch.compile(doubled, backend=backend, fullgraph=True)
    step(torch.ones(3))
    with named_by(noted):
        assert step(torch.ones(3)).tolist() == [2, 2, 2]
        assert noted.seen == []
        with torch.compiler.set_stance("force_eager"):
            step(torch.ones(3))
    assert noted.seen == ["sampling", "/sampling"]
    assert len(compiled) == 1
