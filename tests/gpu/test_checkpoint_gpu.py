"""A checkpoint of the 1b size in the published layout: three shards and one file are the same model on a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoint_loading import SHARDS, VOCABULARY, random_model, write
from benchmarks.load_once import Order, tokens_of
from ttt_mlflow.models.ttt.sizes import build, check

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("inner_net", ["mlp_1_dual_triton", "mlp_2_dual_triton"])
def test_three_shards_and_one_file_decode_the_same_tokens(inner_net: str, tmp_path: Path) -> None:
    order = Order("", "ttt-1b", inner_net, "float16", "cuda")
    model = random_model(order, vocab_size=VOCABULARY)
    expected, parameters = tokens_of(model), model.parameter_count()
    folders = write(model, tmp_path)
    assert [len(list(folder.glob("*.safetensors"))) for folder in folders] == [1, SHARDS]
    del model
    for folder in folders:
        request = replace(order, checkpoint=str(folder)).request
        check(request)
        loaded = build(request)
        assert (loaded.vocab_size, loaded.parameter_count()) == (VOCABULARY, parameters)
        assert torch.equal(tokens_of(loaded), expected)
        del loaded
    assert len(expected.unique()) > 8, "the tokens say something about the weights"
