"""The checkpoints that the benchmark writes are loaded as one model, with one copy of it in the host's memory."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.checkpoint_loading import SHARDS, bytes_of, random_model, write
from benchmarks.load_once import Loaded, Order, tokens_of
from benchmarks.runs import last_line
from ttt_mlflow.models.ttt.sizes import build

ORDER = Order("", "ttt-tiny", "mlp_1_dual", "float32", "cpu")
# about 80 MB, of which the largest weight has 8 MB
LARGER = {"hidden_size": 512, "intermediate_size": 1376, "num_layers": 6, "num_heads": 8, "vocab_size": 4000}


def test_one_file_and_shards_are_the_model_that_was_written(tmp_path: Path) -> None:
    model = random_model(ORDER, vocab_size=300)
    expected = tokens_of(model)
    for folder in write(model, tmp_path):
        loaded = build(replace(ORDER, checkpoint=str(folder)).request)
        assert loaded.vocab_size == 300
        assert tokens_of(loaded).tolist() == expected.tolist()
    assert len(expected.unique()) > 8


@pytest.mark.parametrize(
    "which", [pytest.param(0, id="one file", marks=pytest.mark.long), pytest.param(1, id=f"{SHARDS} shards")]
)
def test_the_host_has_one_copy(which: int, tmp_path: Path) -> None:
    """Of a model on the CPU; what was read of the files is not kept beside it."""
    folder = write(random_model(ORDER, **LARGER), tmp_path)[which]
    order = replace(ORDER, checkpoint=str(folder))
    loaded = Loaded(**json.loads(last_line("benchmarks.load_once", json.dumps(asdict(order)))))
    assert 0.9 < loaded.host_bytes / bytes_of(folder) < 1.5
