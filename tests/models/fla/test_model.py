"""What the models of flash-linear-attention share, without the package: fused weights, parts of a prompt, names."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ttt_mlflow.models.fla import model as shared
from ttt_mlflow.models.fla.model import FlaModel, allocate_rest, named_layers, take_rows
from ttt_mlflow.workload import CONVOLUTION, named_by

noted: list[str] = []


def test_weights_become_rows_of_one_tensor_and_the_rest_gets_memory() -> None:
    with torch.device("meta"):
        block = nn.ModuleDict({"q": nn.Linear(4, 3, bias=False), "k": nn.Linear(4, 2), "norm": nn.LayerNorm(4)})
    fused = torch.arange(24.0).view(6, 4)
    take_rows(fused, [block["q"], block["k"]])
    allocate_rest(block, torch.float16, torch.device("cpu"), single=("bias",))
    weights: dict[str, Tensor] = dict(block.named_parameters())
    assert torch.equal(weights["q.weight"], fused[:3])
    assert torch.equal(weights["k.weight"], fused[3:5])
    fused.zero_()
    assert not weights["k.weight"].any(), "a view"
    assert {name: one.dtype for name, one in weights.items() if "weight" not in name} == {
        "k.bias": torch.float32,
        "norm.bias": torch.float32,
    }
    assert weights["norm.weight"].dtype == torch.float16
    assert not any(one.is_meta or one.requires_grad for one in weights.values())


class FakeMixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        noted.append("mixing")
        return FUNCTIONS.shift(x)


class FakeFeedForward(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        noted.append("feed-forward's work")
        return x


class FakeBlock(nn.Module):
    """A layer of fla's: its result is the hidden state, two things more, and what the next layer is given."""

    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.attn = FakeMixing()
        setattr(self, attribute, FakeFeedForward())
        self.attribute = attribute

    def forward(self, hidden: Tensor, past_key_values: Any, use_cache: bool, **given: Any) -> tuple[Any, ...]:
        assert use_cache
        past_key_values.append(given)
        hidden = getattr(self, self.attribute)(self.attn(hidden))
        return hidden + 1, None, past_key_values, len(past_key_values)


class FakeLayer(nn.Module):
    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.block = FakeBlock(attribute)

    def step(self) -> None: ...


def shift(x: Tensor) -> Tensor:
    noted.append("shift")
    return x


FUNCTIONS = ModuleType("fla.functions")
vars(FUNCTIONS).update(shift=shift)


@contextmanager
def named(name: str) -> Iterator[None]:
    noted.append(f"<{name}>")
    yield
    noted.append(f"</{name}>")


def fake_model(attribute: str = "mlp") -> FlaModel:
    where = {"dtype": torch.float32, "device": torch.device("cpu")}
    made = FlaModel([FakeLayer(attribute), FakeLayer(attribute)], nn.Identity(), 2, 5, where)
    nn.init.zeros_(made.embeddings)
    return made


@pytest.mark.parametrize("attribute", ["mlp", "ffn"])
def test_layers_and_parts_are_named_while_a_profiler_asks(attribute: str) -> None:
    made, functions = fake_model(attribute), [(FUNCTIONS, "shift", CONVOLUTION)]
    inside = [
        *("<projections>", "mixing", "<convolution state>", "shift", "</convolution state>"),
        *("<feed-forward>", "feed-forward's work", "</feed-forward>", "</projections>"),
    ]
    noted.clear()
    with named_by(named), named_layers(made.layers, functions):
        for layer in made.layers:
            layer.block(torch.zeros(1), [], True)  # type: ignore[operator]
    assert noted == [*("<layer 0>", *inside, "</layer 0>"), *("<layer 1>", *inside, "</layer 1>")]
    noted.clear()
    with named_layers(made.layers, functions):
        made.layers[0].block(torch.zeros(1), [], True)  # type: ignore[operator]
    assert noted == ["mixing", "shift", "feed-forward's work"]


def test_a_layer_is_given_what_the_one_before_returns() -> None:
    """RWKV-7's value of the first layer; a gated delta network has nothing of the kind."""
    cache: list[dict[str, Any]] = []
    last = fake_model()._through_layers(torch.zeros(3, 4, dtype=torch.int64), cache, [], v_first=None)
    assert cache == [{"v_first": None}, {"v_first": 1}]
    assert torch.equal(last, torch.full((3, 2), 2.0)), "the last token's hidden state"
    cache.clear()
    fake_model()._through_layers(torch.zeros(3, 4, dtype=torch.int64), cache, [])
    assert cache == [{}, {}]


def test_a_prompt_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PREFILL_TOKENS", 8)
    prompt = torch.arange(14).view(2, 7)
    parts = list(fake_model()._parts_of(prompt))
    assert [part.shape[1] for part in parts] == [4, 3]
    assert torch.equal(torch.cat(parts, 1), prompt)
    assert len(list(fake_model()._parts_of(torch.zeros(20, 3)))) == 3, "one token of each sequence at least"
    with pytest.raises(ValueError, match="a prompt of 0 tokens"):
        list(fake_model()._parts_of(torch.zeros(2, 0)))


def test_weights_have_the_names_of_the_package() -> None:
    made = fake_model()
    made.layers[0].block.weight = nn.Parameter(torch.zeros(1))  # type: ignore[union-attr]
    found = made.package_weights()
    assert set(found) == {"model.embeddings.weight", "lm_head.weight", "model.layers.0.weight"}
    assert found["lm_head.weight"] is found["model.embeddings.weight"] is made.embeddings
