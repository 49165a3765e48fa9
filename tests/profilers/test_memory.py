"""The memory by part, out of a composed snapshot; the pass itself needs a GPU."""

import pickle

import torch

from tests.profilers.snapshots import KB, eager_pass
from ttt_mlflow.profilers.memory import MemoryRow, history, memory_table, table_of, totals

OWNER = {100: "weights", 200: "state", 12345: "vectors"}


def test_blocks_belong_to_the_tensor_that_lies_in_them() -> None:
    assert table_of(eager_pass(), OWNER) == [
        MemoryRow("weights", 50 * KB, 50 * KB, 50 * KB),
        MemoryRow("state", 20 * KB, 20 * KB, 20 * KB),
        MemoryRow("graph pool", 10 * KB, 10 * KB, 40 * KB),
        MemoryRow("other", 5 * KB, 5 * KB, 5 * KB),
        MemoryRow("activations", None, 30 * KB, None),
        MemoryRow("cached", None, None, 37 * KB),
    ]


def test_the_columns_add_up_to_what_the_allocator_says() -> None:
    recorded = eager_pass()
    assert totals(table_of(recorded, OWNER)) == recorded.allocator


def test_a_tensor_of_a_part_that_lies_in_a_graphs_pool_is_the_parts() -> None:
    rows = {row.part: row for row in table_of(eager_pass(), {600: "state"})}
    assert rows["state"] == MemoryRow("state", 10 * KB, 10 * KB, 10 * KB)
    assert rows["graph pool"] == MemoryRow("graph pool", 0, 0, 30 * KB)


def test_tensors_are_found_by_their_storage() -> None:
    whole = torch.ones(10)
    recorded = eager_pass()
    recorded.snapshot["segments"][0]["blocks"][0]["address"] = whole.data_ptr()
    rows = memory_table(recorded, {"weights": [whole[4:], whole]})
    assert rows[0] == MemoryRow("weights", 50 * KB, 50 * KB, 50 * KB)


def test_the_history_ends_at_what_is_held() -> None:
    events = history(eager_pass())
    assert [(event.us, event.bytes, event.held) for event in events] == [
        (0, 10 * KB, 95 * KB),
        (2, 20 * KB, 115 * KB),
        (3, -10 * KB, 105 * KB),
        (5, -20 * KB, 85 * KB),
    ]
    assert [event.where for event in events] == ["ttt/model.py:120 step", "", "", ""], "no folders of the host"


def test_the_snapshot_is_pytorchs_own() -> None:
    recorded = eager_pass()
    assert pickle.loads(recorded.pickled()) == recorded.snapshot
