"""Greedy generation on a CPU: the same tokens however the step runs and however the prompt was processed."""

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.models.generation import generate
from tests.models.ttt.cases import INNER_NETS, leave_initial_values, make_model, make_tokens
from ttt_mlflow.models import decoder as decoders
from ttt_mlflow.models.decoder import ModelDecoder, make_decoder, tensors_in
from ttt_mlflow.models.entry import DecodeModel, Decoder

CPU = torch.device("cpu")
GENLEN = 40
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def assert_varied(tokens: Tensor) -> None:
    """Equal tokens say nothing if a sequence repeats one of them."""
    assert all(sequence.unique().numel() > GENLEN // 2 for sequence in tokens)


@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
@pytest.mark.parametrize(
    "inner_net", [INNER_NETS[0], *(pytest.param(net, marks=pytest.mark.long) for net in INNER_NETS[1:])]
)
def test_compiled_decode_gives_the_tokens_of_eager_decode(inner_net: str) -> None:
    """Over three ends of a mini-batch, at every position."""
    model = leave_initial_values(make_model(inner_net))
    prompt = make_tokens(3, 5)
    decoder = ModelDecoder(model, 3, CPU)
    eager = generate(decoder, prompt, GENLEN)
    assert_varied(eager)
    decoder.compile()
    decoder.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):  # the warm-up compiles what every position needs
        compiled = generate(decoder, prompt, GENLEN)
    assert torch.equal(compiled, eager)


@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
def test_an_eager_step_between_compiled_ones_is_a_step_like_them() -> None:
    model = leave_initial_values(make_model("mlp_1_dual"))
    prompt = make_tokens(3, 5)
    decoder = ModelDecoder(model, 3, CPU)
    expected = generate(decoder, prompt, 6)
    decoder.compile()
    decoder.warm_up()
    tokens = [decoder.prefill(prompt).clone()]
    for eagerly in (False, True, True, False, False):
        with decoder.eagerly() if eagerly else nullcontext():
            tokens.append(decoder.step().clone())
    assert torch.equal(torch.stack(tokens, 1), expected)


class CountedReplay:
    """Stands for a CUDA graph of the step, where there is no GPU to capture one."""

    def __init__(self, decoder: ModelDecoder) -> None:
        self.decoder, self.replays = decoder, 0

    def replay(self) -> None:
        self.replays += 1
        with self.decoder.eagerly():
            self.decoder.step()


@pytest.mark.parametrize(("length", "replays"), [(1, 1), (16, 0), (35, 3)])
def test_the_graph_takes_what_a_prompt_has_beyond_the_models_multiple(length: int, replays: int) -> None:
    model = leave_initial_values(make_model("mlp_1_dual"))
    vars(model)["prefill_multiple"] = 16  # as a model of another package may have one
    prompt = make_tokens(3, length)
    decoder = ModelDecoder(model, 3, CPU)
    expected = generate(decoder, prompt, 6)
    graph = decoder._graph = CountedReplay(decoder)  # type: ignore[assignment]
    first = decoder.prefill(prompt)
    assert torch.equal(first, expected[:, 0])
    assert graph.replays == replays
    with decoder.eagerly():
        assert torch.equal(decoder.prefill(prompt), expected[:, 0])
    assert graph.replays == replays, "no graph inside"
    assert decoder._graph is graph


class RecordedStep:
    """Stands for a CUDA graph of the fed step: it writes its logits where the capture had them."""

    def __init__(self, decoder: ModelDecoder) -> None:
        self.decoder, self.replays = decoder, 0

    def replay(self) -> None:
        self.replays += 1
        assert self.decoder._feed_graph is not None
        _, logits = self.decoder._feed_graph
        logits.copy_(self.decoder.model.step(self.decoder.token, self.decoder.state))


def test_fed_tokens_replay_a_graph_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = leave_initial_values(make_model("mlp_1_dual")), make_tokens(2, 20)
    made = ModelDecoder(model, 2, CPU)
    expected = [made.start(tokens[:, :3]), *(made.feed(one) for one in tokens[:, 3:].unbind(1))]
    graph = RecordedStep(made)
    monkeypatch.setattr(decoders, "warm_stream", lambda device, warm_up: warm_up())
    monkeypatch.setattr(decoders, "captured", lambda stream: nullcontext(graph))
    with made.replaying_feed():
        found = [made.start(tokens[:, :3]).clone(), *(made.feed(one).clone() for one in tokens[:, 3:].unbind(1))]
        assert graph.replays == 17
        with made.eagerly():
            made.feed(tokens[:, 0])
        assert graph.replays == 17, "no graph inside"
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(made.start(tokens[:, :3]), expected[0])
    assert graph.replays == 17, "nor after it"


def test_the_tensors_that_stay_are_accounted_for_once() -> None:
    decoder = ModelDecoder(make_model("mlp_2_dual"), 3, CPU)
    parts = decoder.memory_parts()
    assert list(parts) == ["weights", "state", "vectors"]
    held = {tensor.data_ptr() for tensor in tensors_in(decoder.state)}
    assert held == {tensor.data_ptr() for name in ("state", "vectors") for tensor in parts[name]}
    assert len(parts["state"]) + len(parts["vectors"]) == len(list(tensors_in(decoder.state)))
    # per layer of the MLP: keys, hidden inputs and both gradients of a token
    assert len(parts["vectors"]) == 4 * len(decoder.state.layers)


def test_a_model_without_an_account_is_looked_through() -> None:
    @dataclass
    class State:
        seen: list[Tensor]
        by_name: dict[str, tuple[Tensor, int]]

    state = State([torch.ones(1), torch.ones(2)], {"a": (torch.ones(3), 4)})
    assert [tensor.numel() for tensor in tensors_in(state)] == [1, 2, 3]

    class Plain(torch.nn.Linear):
        def new_state(self, batch: int) -> State:
            return state

        def step(self, tokens: Tensor, state: State) -> Tensor:
            return tokens

    parts = ModelDecoder(Plain(2, 3), 1, CPU).memory_parts()
    assert [tensor.numel() for tensor in parts["weights"]] == [6, 3]
    assert [tensor.numel() for tensor in parts["state"]] == [1, 2, 3]


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_prompt_in_any_split(inner_net: str) -> None:
    """What was generated goes on as if it had been given: a prompt of any length leads to the same tokens."""
    model = leave_initial_values(make_model(inner_net))
    prompt = make_tokens(2, 3)
    tokens = generate(ModelDecoder(model, 2, CPU), prompt, GENLEN)
    assert_varied(tokens)
    for given in (12, 13, 14, 29, 30):  # prompts of 15, 16, 17, 32 and 33
        longer = torch.cat((prompt, tokens[:, :given]), 1)
        assert torch.equal(generate(ModelDecoder(model, 2, CPU), longer, GENLEN - given), tokens[:, given:])


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_tokens_are_the_best_logits_of_the_model(inner_net: str) -> None:
    model = leave_initial_values(make_model(inner_net))
    prompt = make_tokens(2, 4)
    tokens = generate(ModelDecoder(model, 2, CPU), prompt, 20)
    fed = torch.cat((prompt, tokens), 1)
    state = model.new_state(2)
    best = torch.stack([model.step(token, state).argmax(-1) for token in fed.unbind(1)], 1)
    assert torch.equal(tokens, best[:, 3:-1])


def test_a_decoder_starts_afresh_with_every_prompt() -> None:
    model = leave_initial_values(make_model("mlp_1_dual"))
    one, other = make_tokens(2, 5), make_tokens(2, 18, seed=3)
    decoder = ModelDecoder(model, 2, CPU)
    first = generate(decoder, one, 20)
    generate(decoder, other, 9)
    assert torch.equal(generate(decoder, one, 20), first)


def test_warming_up_leaves_no_trace() -> None:
    model = leave_initial_values(make_model("mlp_1_dual"))
    prompt = make_tokens(2, 5)
    expected = generate(ModelDecoder(model, 2, CPU), prompt, 8)
    decoder = ModelDecoder(model, 2, CPU)
    decoder.warm_up()
    assert int(decoder.state.position) == 0
    assert torch.equal(generate(decoder, prompt, 8), expected)


def test_generate_takes_every_token_away_before_it_is_overwritten() -> None:
    """step returns the tensor that the next step overwrites."""
    model = leave_initial_values(make_model("mlp_1_dual"))
    decoder = ModelDecoder(model, 1, CPU)
    first = decoder.prefill(make_tokens(1, 5))
    kept = first.clone()
    assert decoder.step() is first
    assert not torch.equal(first, kept)


# Other models


@dataclass
class Sums:
    total: Tensor  # [B]


class Adder:
    """The next token is the sum of all tokens so far, modulo 10: no more than the protocol asks for."""

    vocab_size = 10

    def __init__(self) -> None:
        self.calls: list[int] = []  # tokens of each step

    def new_state(self, batch: int) -> Sums:
        return Sums(torch.zeros(batch, dtype=torch.int64))

    def reset_state(self, state: Sums) -> None:
        state.total.zero_()

    def step(self, tokens: Tensor, state: Sums) -> Tensor:
        self.calls.append(tokens.dim())
        state.total.add_(tokens)
        return torch.nn.functional.one_hot(state.total % 10, 10).float()


def test_a_model_with_state_and_step_alone() -> None:
    model = Adder()
    assert isinstance(model, DecodeModel)
    decoder = make_decoder(model, 2, 16, CPU, cuda_graph=False)
    assert isinstance(decoder, ModelDecoder)
    decoder.warm_up()
    model.calls.clear()
    tokens = generate(decoder, torch.tensor([[1, 2, 3], [0, 0, 7]]), 4)
    assert tokens.tolist() == [[6, 2, 4, 8], [7, 4, 8, 6]]
    assert model.calls == [1] * 6, "three tokens of the prompt, then three that were generated"
    decoder.close()


def test_a_model_with_state_and_step_alone_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[Callable[..., Tensor], dict[str, object]]] = []

    def note(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        compiled.append((function, options))
        return function

    monkeypatch.setattr(torch, "compile", note)
    model = Adder()
    decoder = ModelDecoder(model, 2, CPU)
    decoder.compile()
    assert compiled == [(model.step, {"dynamic": False})]
    assert generate(decoder, torch.tensor([[1, 2, 3], [0, 0, 7]]), 4).tolist() == [[6, 2, 4, 8], [7, 4, 8, 6]]


class Countdown:
    """A decoder of its own: counts down from the prompt's last token."""

    def __init__(self, batch: int, max_length: int, cuda_graph: bool) -> None:
        self.asked = (batch, max_length, cuda_graph)
        self.token = torch.zeros(batch, dtype=torch.int64)

    def prefill(self, prompt: Tensor) -> Tensor:
        return self.token.copy_(prompt[:, -1] - 1)

    def step(self) -> Tensor:
        return self.token.sub_(1)

    def close(self) -> None:
        del self.token


class BringsItsOwn:
    vocab_size = 10

    def decoder(self, batch: int, max_length: int, cuda_graph: bool) -> Decoder:
        return Countdown(batch, max_length, cuda_graph)


def test_a_model_with_its_own_decoder() -> None:
    decoder = make_decoder(BringsItsOwn(), 2, 16, CPU, cuda_graph=True)
    assert isinstance(decoder, Countdown)
    assert decoder.asked == (2, 16, True)
    assert generate(decoder, torch.tensor([[1, 9], [2, 8]]), 3).tolist() == [[8, 7, 6], [7, 6, 5]]


class Cached:
    """Remembers every token of each sequence; its logits name the sum of them."""

    vocab_size = 50

    def new_cache(self, batch: int, max_length: int) -> dict[str, Tensor]:
        return {
            "seen": torch.zeros(batch, max_length, dtype=torch.int64),
            "position": torch.zeros(1, dtype=torch.int64),
        }

    def reset_state(self, state: dict[str, Tensor]) -> None:
        state["position"].zero_()

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> Tensor:
        state["seen"].index_copy_(1, state["position"], tokens.unsqueeze(1))
        state["position"].add_(1)
        there = torch.arange(state["seen"].shape[1]) < state["position"]
        return torch.nn.functional.one_hot((state["seen"] * there).sum(1) % self.vocab_size, self.vocab_size).float()

    def choose(self, state: dict[str, Tensor]) -> None:
        state["seen"].fill_(7)
        state["position"].fill_(3)
        self.attn_impl = "chosen"


def test_a_cache_is_made_for_the_longest_sequence() -> None:
    """And takes it whole, however often it begins again; one token more is refused before anything is written."""
    prompt = make_tokens(2, 4, 50)
    decoder = make_decoder(Cached(), 2, 7, CPU, cuda_graph=False)
    assert isinstance(decoder, ModelDecoder)
    assert decoder.state["seen"].shape == (2, 7)
    for _ in range(2):
        tokens = generate(decoder, prompt, 4)
        assert torch.equal(tokens[:, 0], prompt.sum(1) % 50)
        with pytest.raises(ValueError, match="room for 7 tokens of a sequence: 7 were fed, 1 more do not fit"):
            decoder.step()
    assert decoder.state["position"].tolist() == [7]
    with pytest.raises(ValueError, match="0 were fed, 8 more do not fit"):
        decoder.prefill(make_tokens(2, 8, 50))
    with pytest.raises(ValueError, match="Cached has a cache: max_length must be given"):
        ModelDecoder(Cached(), 2, CPU)


def test_a_full_cache_is_made_ready_again() -> None:
    decoder = ModelDecoder(Cached(), 2, CPU, 4)
    expected = generate(decoder, make_tokens(2, 3, 50), 2)
    decoder.warm_up()
    assert torch.equal(generate(decoder, make_tokens(2, 3, 50), 2), expected)


def test_what_a_model_writes_while_it_chooses_is_not_a_part_of_a_sequence() -> None:
    model = Cached()
    decoder = ModelDecoder(model, 2, CPU, 7)
    prompt = make_tokens(2, 4, 50)
    expected = generate(decoder, prompt, 3)
    decoder.choose()
    assert model.attn_impl == "chosen"
    assert torch.equal(generate(decoder, prompt, 3), expected)
    ModelDecoder(make_model("mlp_1_dual"), 2, CPU).choose()  # a model without a choice
