"""Allocations are those of a function's variables, and a function on the device ``meta`` can be watched."""

import torch

from ttt_mlflow.models.allocations import (
    DEFAULT_STREAM,
    STATE,
    WORKSPACE_BYTES,
    WORKSPACES,
    Allocate,
    Allocations,
    EmptyCache,
    Free,
    add_decoder,
    recorded,
    storage_bytes,
)


def kinds(made: Allocations) -> list[str]:
    """``+bytes`` and ``-bytes``, in order."""
    sizes, said = {}, []
    for event in made.events:
        if isinstance(event, Allocate):
            sizes[event.number] = event.size
            said.append(f"+{event.size}")
        elif isinstance(event, Free):
            said.append(f"-{sizes.pop(event.number)}")
        else:
            said.append("empty")
    return said


def test_a_new_value_is_there_before_the_old_one_goes() -> None:
    made = Allocations()
    made.put(x=1, y=2)
    made.put(y=3)
    made.rename("y", "x")
    made.drop("x", "y")
    assert kinds(made) == ["+1", "+2", "+3", "-2", "-1", "-3"]


def test_what_is_kept_is_never_freed_and_has_its_kind() -> None:
    made = Allocations()
    made.keep(STATE, [5, 6])
    assert made.events == [Allocate(0, 5, STATE, DEFAULT_STREAM), Allocate(1, 6, STATE, DEFAULT_STREAM)]


def test_each_stream_has_one_workspace_and_a_graph_that_of_its_capture() -> None:
    made = Allocations()
    made.workspace()
    made.workspace()
    with made.on("side"):
        made.workspace()
    with made.on("graph", workspace_of="side"):
        made.workspace()
    with made.on("another graph", workspace_of="a stream without products"):
        made.workspace()
    pools = [event.pool for event in made.events if isinstance(event, Allocate)]
    assert pools == [DEFAULT_STREAM, "side", "another graph"]
    assert {(event.size, event.kind) for event in made.events if isinstance(event, Allocate)} == {
        (WORKSPACE_BYTES, WORKSPACES)
    }


def test_a_graph_is_captured_after_a_warm_up_and_with_memory_of_its_own() -> None:
    def step(made: Allocations) -> None:
        made.put(row=1)
        made.drop("row")

    eager, captured = Allocations(), Allocations()
    add_decoder(eager, step, None, cuda_graph=False)
    add_decoder(captured, step, lambda made: made.put(prompt=2), cuda_graph=True)
    assert kinds(eager) == ["+1", "-1"]
    assert kinds(captured) == ["+1", "-1", "empty", "+1", "-1", "+2"]
    assert isinstance(captured.events[2], EmptyCache)
    pools = [event.pool for event in captured.events if isinstance(event, Allocate)]
    assert len(set(pools)) == 3
    assert pools[-1] == DEFAULT_STREAM


def test_temporaries_of_another_function_are_added_with_numbers_of_their_own() -> None:
    inner, made = Allocations(), Allocations()
    inner.put(x=1)
    inner.drop("x")
    made.put(y=2)
    made.add(inner)
    made.add(inner)
    made.drop("y")
    assert kinds(made) == ["+2", "+1", "-1", "+1", "-1", "-2"]


def test_a_function_is_watched_without_memory() -> None:
    x = torch.empty(100, 10, device="meta")

    def work() -> torch.Tensor:
        y = x + 1  # 4,000 bytes
        z = y.t()[:5].double()  # 4,000 bytes: half as many, twice as long
        del y
        x.add_(1)
        z.mul_(2)
        return z.sum()  # 8 bytes

    assert kinds(recorded(work)) == ["+4000", "+4000", "-4000", "+8", "-4000", "-8"]


def test_views_have_no_bytes_of_their_own() -> None:
    whole = torch.empty(6, 2, device="meta")
    assert storage_bytes([whole, whole[:3], whole.t(), torch.empty(1, device="meta")]) == [48, 4]
