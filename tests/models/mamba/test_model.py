"""Mamba without mamba-ssm: what is said then, the published sizes, and our part of the decoding with its stand-in."""

import importlib.machinery
import importlib.util
import math
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.generation import generate
from tests.models.test_tuning import tuned
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.mamba import model as mamba
from ttt_mlflow.models.reference import copy_weights
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.workload import Workload, named_by

CPU = torch.device("cpu")
VOCABULARY = 50277
# of the published models
PARAMETERS = {
    "state-spaces/mamba-130m": 129_135_360,
    "state-spaces/mamba-370m": 371_516_416,
    "state-spaces/mamba-790m": 793_204_224,
    "state-spaces/mamba-1.4b": 1_372_178_432,
    "state-spaces/mamba-2.8b": 2_768_345_600,
}


def install(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Of mamba_ssm and causal_conv1d, let only these be found."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        if name not in ("mamba_ssm", "causal_conv1d"):
            return real(name, package)
        return importlib.machinery.ModuleSpec(name, None) if name in modules else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def parameters_of(width: int, layers: int) -> int:
    """As mamba-ssm builds it: expansion 2, state 16, convolution 4, a rank of width / 16, tied embeddings."""
    inner, state, taps, rank = 2 * width, 16, 4, math.ceil(width / 16)
    layer = width  # norm
    layer += width * 2 * inner + inner * (taps + 1)  # in_proj, conv1d
    layer += inner * (rank + 2 * state) + rank * inner + inner  # x_proj, dt_proj
    layer += inner * state + inner + inner * width  # A, D, out_proj
    return math.ceil(VOCABULARY / 8) * 8 * width + layers * layer + width


def test_published_sizes() -> None:
    assert {name: parameters_of(*size) for name, size in mamba.SIZES.items()} == PARAMETERS
    assert mamba.VOCAB_SIZE == VOCABULARY


def test_entries_say_what_they_are() -> None:
    for name in PARAMETERS:
        entry = find_model(name)
        assert entry.needs_cuda
        assert entry.own_generation
        assert not entry.takes_checkpoint
        assert entry.inner_nets == ()


# With a stand-in of mamba-ssm


@dataclass
class FakeConfig:
    d_model: int
    n_layer: int
    vocab_size: int


@dataclass
class FakeInferenceParams:
    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    key_value_memory_dict: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0


class FakeMamba(nn.Module):
    """The next token is the last one plus its position plus one; ids beyond the vocabulary have the best logits."""

    def __init__(self, config: FakeConfig, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(4, device=device, dtype=dtype))
        self.positions: list[Tensor | None] = []

    def forward(
        self,
        tokens: Tensor,
        position_ids: Tensor | None = None,
        inference_params: FakeInferenceParams | None = None,
        num_last_tokens: int = 0,
    ) -> SimpleNamespace:
        assert inference_params is not None
        assert num_last_tokens == 1
        self.positions.append(position_ids)
        position = inference_params.seqlen_offset + tokens.shape[1]
        logits = torch.zeros(len(tokens), 1, VOCABULARY + 3)
        logits.scatter_(2, (tokens[:, -1] + position)[:, None, None], 1.0)
        logits[:, :, VOCABULARY:] = 2.0
        return SimpleNamespace(logits=logits)


@pytest.fixture
def fake_mamba(monkeypatch: pytest.MonkeyPatch) -> None:
    """mamba_ssm with what our code uses of it, and no way out to a hub."""

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def no_network(*arguments: object) -> None:
        raise AssertionError(f"reached for the network: {arguments}")

    def no_graph(*arguments: object) -> None:
        raise AssertionError("captured a graph without being asked")

    module("mamba_ssm")
    module("mamba_ssm.models")
    module("mamba_ssm.models.config_mamba", MambaConfig=FakeConfig)
    module("mamba_ssm.models.mixer_seq_simple", MambaLMHeadModel=FakeMamba)
    module("mamba_ssm.utils")
    module("mamba_ssm.utils.generation", InferenceParams=FakeInferenceParams, update_graph_cache=no_graph)
    monkeypatch.setattr(socket.socket, "connect", no_network)


REQUEST = ModelRequest("state-spaces/mamba-790m", None, torch.float16, CPU, 0, None)


def build(seed: int = 0) -> mamba.MambaModel:
    return mamba.build(replace(REQUEST, seed=seed))


@pytest.mark.usefixtures("fake_mamba")
def test_built_from_the_published_configuration_with_random_weights() -> None:
    model = build()
    assert model.model.config == FakeConfig(d_model=1536, n_layer=48, vocab_size=VOCABULARY)
    assert model.model.weight.dtype == torch.float16
    assert not model.model.weight.requires_grad
    assert not model.model.training
    assert model.vocab_size == VOCABULARY
    assert model.parameter_count() == 4
    assert torch.equal(build().model.weight, model.model.weight)
    assert not torch.equal(build(seed=1).model.weight, model.model.weight)


@pytest.mark.usefixtures("fake_mamba")
def test_decodes_greedily_and_keeps_count_of_the_position() -> None:
    model = build()
    decoder = model.decoder(batch=2, max_length=32, cuda_graph=False)
    prompt = torch.tensor([[1, 2, 3], [7, 8, 9]])
    tokens = generate(decoder, prompt, 4)
    # from 3 and 9 on, in steps of 3, 4, 5, 6; never one of the padding's ids
    assert tokens.tolist() == [[6, 10, 15, 21], [12, 16, 21, 27]]
    positions = [ids if ids is None else ids.flatten().tolist() for ids in model.model.positions]
    assert positions == [None, [3, 3], [4, 4], [5, 5]]
    assert torch.equal(generate(decoder, prompt, 4), tokens), "a prompt starts afresh"
    decoder.close()


@pytest.mark.usefixtures("fake_mamba")
def test_given_tokens_lead_to_the_logits_of_the_vocabulary() -> None:
    decoder = build().decoder(batch=2, max_length=32, cuda_graph=False)
    logits = [decoder.start(torch.tensor([[1, 2, 3], [7, 8, 9]]))]
    logits += [decoder.feed(torch.tensor([first, 40])) for first in (20, 30)]
    assert {one.shape for one in logits} == {(2, VOCABULARY)}
    # the token that was fed, and its position
    assert [one.argmax(-1).tolist() for one in logits] == [[6, 12], [24, 44], [35, 45]]


@pytest.mark.usefixtures("fake_mamba")
def test_weights_can_be_copied_into_another_dtype() -> None:
    model, twin = build(), build(seed=1)
    twin.model.float()
    copy_weights(model, twin)
    assert torch.equal(twin.model.weight, model.model.weight.float())


@pytest.mark.usefixtures("fake_mamba")
def test_another_batch_or_run_is_tuned_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = tuned()
    module = ModuleType("mamba_ssm.ops")
    vars(module).update(kernel=kernel)
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", module)
    model, of_another_run = build(), build()
    for made, batch, length, again in (
        (model, 2, 32, True),
        (model, 2, 64, False),
        (model, 3, 32, True),
        (of_another_run, 3, 32, True),
    ):
        kernel.cache = {"a key without the batch": "what was best before"}
        made.decoder(batch, length, cuda_graph=False).close()
        assert (kernel.cache == {}) == again, (batch, length)


# A prompt of one token


class FakeStateful(nn.Module):
    """One layer with mamba-ssm's two states: a prompt overwrites them, a step continues them and asks the offset."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls: list[tuple[str, list[int] | None]] = []

    def forward(
        self,
        tokens: Tensor,
        position_ids: Tensor | None = None,
        inference_params: FakeInferenceParams | None = None,
        num_last_tokens: int = 0,
    ) -> SimpleNamespace:
        assert inference_params is not None
        step = inference_params.seqlen_offset > 0
        self.calls.append(("step" if step else "prompt", None if position_ids is None else position_ids[:, 0].tolist()))
        return SimpleNamespace(logits=self.logits(tokens, inference_params, step))

    def logits(self, tokens: Tensor, parameters: FakeInferenceParams, step: bool) -> Tensor:
        if 0 not in parameters.key_value_memory_dict:
            parameters.key_value_memory_dict[0] = (torch.zeros(len(tokens), 4), torch.zeros(len(tokens)))
        inputs, sums = parameters.key_value_memory_dict[0]
        if step:
            assert tokens.shape[1] == 1
        else:
            inputs.zero_()
            sums.zero_()
        for token in tokens.unbind(1):
            inputs.copy_(inputs.roll(-1, 1))
            inputs[:, -1] = token
            sums.mul_(3).add_(inputs.sum(1)).remainder_(1009)
        return torch.zeros(len(tokens), 1, VOCABULARY).scatter_(2, sums.long()[:, None, None], 1.0)


class FakeGraphs:
    """mamba-ssm's cache of graphs. A capture leaves its warm-up's state."""

    def __init__(self, model: FakeStateful, batch: int, max_length: int) -> None:
        self.model = model
        self.inference_params = FakeInferenceParams(max_length, batch)
        self.inference_params.key_value_memory_dict[0] = (torch.full((batch, 4), 5.0), torch.full((batch,), 7.0))

    def run(self, tokens: Tensor, position_ids: Tensor, seqlen: int) -> Tensor:
        assert position_ids[:, 0].tolist() == [seqlen] * len(tokens)
        self.model.calls.append(("graph", position_ids[:, 0].tolist()))
        return self.model.logits(tokens, self.inference_params, step=True)


def decoder_of(model: FakeStateful, cuda_graph: bool, steps_one_token: bool = True) -> mamba.MambaDecoder:
    return mamba.MambaModel(model, mamba.MAMBA, steps_one_token).decoder(2, 32, cuda_graph)


@pytest.fixture
def fake_graphs(fake_mamba: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(model: FakeStateful, cache: object, batch: int, seqlen: int, max_length: int) -> FakeGraphs:
        return FakeGraphs(model, batch, max_length)

    monkeypatch.setattr(sys.modules["mamba_ssm.utils.generation"], "update_graph_cache", update)


@pytest.mark.usefixtures("fake_graphs")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_prompt_of_one_token_is_a_decode_step_from_a_zero_state(cuda_graph: bool) -> None:
    by_step, by_prompt = FakeStateful(), FakeStateful()
    ours = decoder_of(by_step, cuda_graph)
    theirs = decoder_of(by_prompt, cuda_graph, steps_one_token=False)
    for first in (torch.tensor([[3], [40]]), torch.tensor([[40], [9]])):  # the second finds the state of the first
        assert torch.equal(generate(ours, first, 4), generate(theirs, first, 4))
        for one, other in zip(ours.memory_parts()["state"], theirs.memory_parts()["state"], strict=True):
            assert torch.equal(one, other)
    step = "graph" if cuda_graph else "step"
    steps = [(step, [position] * 2) for position in range(4)]
    assert by_step.calls == steps * 2
    assert by_prompt.calls == [("prompt", None), *steps[1:]] * 2


@pytest.mark.usefixtures("fake_graphs")
def test_more_tokens_are_mamba_ssms_prompt() -> None:
    model = FakeStateful()
    generate(decoder_of(model, cuda_graph=True), torch.tensor([[3, 4], [40, 1]]), 2)
    assert model.calls == [("prompt", None), ("graph", [2, 2])]


@pytest.mark.usefixtures("fake_graphs")
def test_the_logits_of_a_prompt_of_one_token_come_without_the_graph() -> None:
    model = FakeStateful()
    decoder = decoder_of(model, cuda_graph=True)
    prompt = torch.tensor([[3], [40]])
    logits = decoder.start(prompt)
    assert model.calls == [("step", [0, 0])]
    assert torch.equal(decoder.prefill(prompt), logits.argmax(-1))


@pytest.mark.usefixtures("fake_mamba")
@pytest.mark.parametrize(("mode", "steps"), [("decode", True), ("prefill", False), (None, True)])
def test_where_the_prompt_is_timed_it_is_mamba_ssms_at_any_length(mode: str | None, steps: bool) -> None:
    workload = Workload(mode, 1, 1, 1) if mode else None
    assert mamba.build(replace(REQUEST, workload=workload)).steps_one_token == steps


# Names for a profiler


class FakeBlock(nn.Module):
    """A layer of mamba-ssm's: a product, and functions that it looks up in its own module."""

    def forward(self, x: Tensor) -> Tensor:
        simple = sys.modules["mamba_ssm.modules.mamba_simple"]
        noted_calls.append("product")
        return simple.selective_state_update(simple.causal_conv1d_update(x))


class FakeLayered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.layers = nn.ModuleList([FakeBlock(), FakeBlock()])

    def forward(self, x: Tensor) -> Tensor:
        noted_calls.append("embedding")
        for layer in self.backbone.layers:  # type: ignore[union-attr]
            x = layer(x)
        noted_calls.append("head")
        return x


noted_calls: list[str] = []


def noting(name: str) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        noted_calls.append(name)
        return x

    return function


@contextmanager
def noted(name: str) -> Iterator[None]:
    noted_calls.append(f"<{name}>")
    yield
    noted_calls.append(f"</{name}>")


def test_layers_and_parts_are_named_while_a_profiler_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    simple = ModuleType("mamba_ssm.modules.mamba_simple")
    # a version without the fused prompt's functions
    own = {"causal_conv1d_update": noting("convolution"), "selective_state_update": noting("scan")}
    vars(simple).update(own, selective_scan_fn=None)
    modules = ModuleType("mamba_ssm.modules")
    vars(modules).update(mamba_simple=simple)
    for name, module in {"": ModuleType("mamba_ssm"), ".modules": modules, ".modules.mamba_simple": simple}.items():
        monkeypatch.setitem(sys.modules, f"mamba_ssm{name}", module)
    model = FakeLayered()
    layer = [
        *("<projections>", "product"),
        *("<convolution state>", "convolution", "</convolution state>"),
        *("<inner net state>", "scan", "</inner net state>", "</projections>"),
    ]

    noted_calls.clear()
    with named_by(noted), mamba.named_parts(model, mamba.MAMBA):
        model(torch.ones(2))
    assert noted_calls == [
        *("<embeddings and head>", "embedding", "<layer 0>", *layer, "</layer 0>", "<layer 1>", *layer, "</layer 1>"),
        *("head", "</embeddings and head>"),
    ]

    noted_calls.clear()
    with mamba.named_parts(model, mamba.MAMBA):
        model(torch.ones(2))
    assert noted_calls == ["embedding", *("product", "convolution", "scan") * 2, "head"]
    assert {name: vars(simple)[name] for name in own} == own
    assert "forward" not in vars(model)


@pytest.mark.usefixtures("fake_mamba")
def test_eagerly_a_step_does_the_same_without_the_graph() -> None:
    prompt = torch.tensor([[1, 2, 3], [7, 8, 9]])
    decoder = build().decoder(batch=2, max_length=32, cuda_graph=False)
    decoder.prefill(prompt)
    assert decoder.step().tolist() == [10, 16]
    decoder.cuda_graph = True  # there is none: a step that used it would fail
    with decoder.eagerly():
        assert decoder.step().tolist() == [15, 21]
    assert decoder.cuda_graph
