"""Our decoder beside a package's loop: in alternation, the prompt counted alike, both outputs kept."""

import re
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks import peer_loops
from benchmarks.peer_loops import Side, compare, compare_apart, mamba_loop, own_loop
from ttt_mlflow.models.mamba.model import MAMBA, MambaModel


class Counting:
    """A decoder whose tokens count on from the sum of the prompt."""

    def prefill(self, prompt: Tensor) -> Tensor:
        self.token = prompt.sum(1)
        return self.token

    def step(self) -> Tensor:
        self.token += 1  # in place, as a decoder may
        return self.token

    def close(self) -> None: ...


def test_our_loop_keeps_every_token() -> None:
    found = own_loop(Counting(), 4)(torch.tensor([[1, 2], [5, 5]]))
    assert found.tolist() == [[3, 4, 5, 6], [10, 11, 12, 13]]


def test_mamba_ssms_loop_gives_what_follows_the_prompt() -> None:
    """Greedy, with its graph, and without the ids beyond the vocabulary."""

    class FakeModel:
        vocab_size = 7

        @property
        def model(self) -> "FakeModel":
            return self

        def generate(self, **asked: object) -> Tensor:
            prompt = asked.pop("input_ids")
            assert asked == {"max_length": 5, "cg": True, "top_k": 1, "vocab_size": 7}
            assert isinstance(prompt, Tensor)
            return torch.cat([prompt, torch.arange(3).repeat(len(prompt), 1)], 1)

    assert mamba_loop(FakeModel(), 3)(torch.ones(2, 2, dtype=torch.int64)).tolist() == [[0, 1, 2]] * 2


def test_a_prompt_of_one_token_goes_where_mamba_ssms_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through its code for prompts. Otherwise the two loops would not do the same."""
    model = MambaModel(SimpleNamespace(), MAMBA)
    asked: list[bool] = []

    def make(model: MambaModel, *_: object, cuda_graph: bool) -> Counting:
        assert cuda_graph
        asked.append(model.steps_one_token)
        return Counting()

    monkeypatch.setattr(peer_loops, "make_decoder", make)
    peer_loops.our_side(model, 2, 5, 4, torch.device("cpu"))
    assert asked == [False]


class Stage:
    """Two loops that take a known time. ``order`` has what happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.now = 0.0
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(peer_loops.time, "perf_counter", lambda: self.now)

    def side(self, name: str, seconds: float, shift: int) -> Side:
        def generate(prompt: Tensor) -> Tensor:
            self.order.append(name)
            self.now += seconds
            return torch.arange(4).repeat(len(prompt), 1) // (1 + shift)

        return Side(generate, lambda: self.order.append(f"{name} closed"))

    @property
    def sides(self) -> dict[str, peer_loops.Make]:
        return {"ours": lambda: self.side("ours", 0.5, 0), "theirs": lambda: self.side("theirs", 2.0, 1)}


def says_what_was_timed(text: str, times: int) -> None:
    assert "batch 3, prompt 2, 4 tokens; first generations 2.5 s" in text
    for name, rate, ms in (("ours", "24.0", "125.0000"), ("theirs", "6.0", "500.0000")):
        line = (
            f"{name} +{rate} tokens/s at best, +{rate} in the median, {ms} ms a token; all: ({rate}(, )?){{{times}}}$"
        )
        assert re.search(line.replace(".", r"\."), text, re.MULTILINE)
    assert "ours / theirs 4.0000; 25.0 % of the tokens are the same" in text


def test_both_sides_alternate_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    says_what_was_timed(compare(stage.sides, torch.zeros(3, 2), 4, rounds=2), 4)
    timed = ("ours", "theirs", "theirs", "ours") * 2
    assert stage.order == ["ours", "theirs", *timed, "theirs closed", "ours closed"], "the first two are not timed"


def test_one_side_after_the_other_is_timed_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    says_what_was_timed(compare_apart(stage.sides, torch.zeros(3, 2), 4, rounds=2), 4)
    assert stage.order == [*["ours"] * 5, "ours closed", *["theirs"] * 5, "theirs closed"]


def test_sides_that_do_not_fit_together_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    held: set[str] = set()

    def make(name: str, seconds: float, shift: int) -> Side:
        if held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        held.add(name)
        return Side(stage.side(name, seconds, shift).generate, lambda: held.discard(name))

    monkeypatch.setattr(peer_loops, "our_side", lambda *_: make("ours", 0.5, 0))
    monkeypatch.setattr(peer_loops, "their_side", lambda *_: make("theirs", 2.0, 1))
    model, asked = SimpleNamespace(vocab_size=7), Namespace(promptlen=2, genlen=4, rounds=1)
    text = peer_loops.compare_at(3, "rwkv7-1.3b", model, asked, torch.device("cpu"))
    assert text.endswith(
        "25.0 % of the tokens are the same; one side after the other, because both do not fit into the memory at once"
    )
    assert stage.order == [*["ours"] * 3, *["theirs"] * 3]
    assert not held


def test_a_batch_that_does_not_fit_says_so_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    def too_large(prompt: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")

    for side in ("our_side", "their_side"):
        monkeypatch.setattr(peer_loops, side, lambda *_: Side(too_large, lambda: closed.append(True)))
    model, asked = SimpleNamespace(vocab_size=7), Namespace(promptlen=1, genlen=4, rounds=1)
    text = peer_loops.compare_at(1024, "rwkv7-1.3b", model, asked, torch.device("cpu"))
    assert text.startswith("batch 1024: not compared, because one side alone does not fit into the memory: ")
    assert "3.00 GiB" in text
    assert closed == [True] * 3, "both together, then the first alone"


@pytest.mark.parametrize(("name", "said"), [("ttt-tiny", "is no peer"), ("no-such", "no such model")])
def test_what_is_no_peer_is_refused(name: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        peer_loops._build(name, torch.float16, torch.device("cpu"))
