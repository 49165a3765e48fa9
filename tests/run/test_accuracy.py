"""profile=accuracy on a CPU: a model against its own weights in float32, whatever kind of model it is."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.ttt.cases import leave_initial_values, make_model
from tests.runs import Carried, measured_in
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import Killed
from ttt_mlflow.models import registry
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import models, register_model
from ttt_mlflow.run import accuracy
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prepare import make_prompt

# forty positions: over two ends of a mini-batch
SHORT = {"device": "cpu", "warmup": 0, "repeats": 2, "profile": "accuracy"}
TINY = {**SHORT, "model_name": "ttt-tiny", "batch": 3, "genlen": 40}
FILES = {f"profiles/accuracy/{name}" for name in ("accuracy.json", "accuracy.md", "positions.csv", "positions.png")}
Measure = Callable[..., Carried]
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    return partial(measured_in, tmp_path / "runs")


def known(measured: Carried) -> dict[str, Any]:
    assert measured.failure is None, measured.log
    return json.loads((measured.journal.artifacts / "profiles/accuracy/accuracy.json").read_text())


def positions(measured: Carried) -> list[dict[str, float]]:
    text = (measured.journal.artifacts / "profiles/accuracy/positions.csv").read_text()
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def test_a_float32_run_is_its_own_reference(measure: Measure) -> None:
    measured = measure(TINY)
    found = known(measured)
    assert measured.artifacts >= FILES
    assert (measured.metrics["accuracy_sequences"], measured.metrics["accuracy_positions"]) == (3, 40)
    for name in ("logits_error", "total_variation", "differing_tokens_pct", "parted_sequences_pct"):
        assert measured.metrics[f"accuracy_{name}"] == 0, name
        assert f"accuracy_yardstick_{name}" not in measured.metrics
    assert "accuracy_first_difference" not in measured.metrics
    assert found["reference"] == "plain PyTorch, float32"
    assert found["notes"] == ["The run is in float32, as the reference is, so there is no yardstick."]
    assert [row["position"] for row in positions(measured)] == list(range(1, 41))
    # the measurement is that of a run without the pass
    assert len(measured.steps) == 2 * 40


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_a_half_precision_run_has_an_error_and_is_its_own_yardstick(dtype: str, measure: Measure) -> None:
    measured = measure({**TINY, "dtype": dtype, "promptlen": 21})
    found = known(measured)
    error = {"float16": 1e-3, "bfloat16": 1e-2}[dtype]
    assert error / 10 < measured.metrics["accuracy_logits_error"] < error
    assert measured.metrics["accuracy_total_variation"] > 0
    # on a CPU this inner net is plain PyTorch, so that the run is the yardstick
    for name in ("logits_error", "total_variation", "differing_tokens_pct", "parted_sequences_pct"):
        assert measured.metrics[f"accuracy_{name}"] == measured.metrics[f"accuracy_yardstick_{name}"]
    assert found["yardstick"] == f"plain PyTorch, {dtype}"
    assert all(row["logits_error"] > 0 for row in positions(measured))


@pytest.mark.long
@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
def test_compiled_decode_is_compared_with_eager_decode_too(measure: Measure) -> None:
    measured = measure({**TINY, "use_compile": True, "genlen": 20})
    known(measured)
    assert measured.metrics["accuracy_eager_differing_tokens_pct"] == 0
    assert measured.metrics["accuracy_logits_error"] < 1e-5


def test_decode_that_is_not_that_of_eager_code_is_seen(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a graph would that was captured at one position: its third token is another one."""
    eager, seen = ModelDecoder._eager_step, {"steps": 0, "eagerly": False}

    def step(self: ModelDecoder) -> Tensor:
        seen["steps"] += 1
        token = eager(self)
        return token if seen["eagerly"] else token.add_(1).remainder_(512)

    @contextmanager
    def eagerly(self: ModelDecoder) -> Iterator[None]:
        seen["eagerly"] = True
        yield
        seen["eagerly"] = False

    plan = make_plan(RunConfig.parse({**TINY, "genlen": 8}))
    plan = replace(plan, used=plan.used.model_copy(update={"cuda_graph": True}))
    model = plan.entry.factory(plan.request)
    decoder = ModelDecoder(model, 3, torch.device("cpu"))
    monkeypatch.setattr(ModelDecoder, "_eager_step", step)
    monkeypatch.setattr(ModelDecoder, "eagerly", eagerly)
    one = accuracy.AccuracyPass(plan, make_prompt(plan.used, 512, plan.device), 512, lambda what: None)
    predicted = one.predict(decoder)
    seen["eagerly"] = True  # the reference decodes by the same class
    found = one.compare(predicted, model).accuracy
    assert found.eager_differing_pct is not None
    assert found.eager_differing_pct > 50
    assert found.own.first == [1, 1, 1]
    assert found.own.deviations is not None
    assert found.own.deviations.differing_tokens_pct == 0, "the logits are those of the kernels, launched one by one"


def test_a_prompt_is_compared_by_what_follows_from_it(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "MOST_POSITIONS", 20)
    measured = measure({**TINY, "mode": "prefill", "promptlen": 40, "dtype": "bfloat16"})
    assert "and the steps after it eagerly" in known(measured)["notes"][-1]
    assert measured.metrics["accuracy_positions"] == 20
    assert measured.metrics["accuracy_logits_error"] > 0


def test_a_part_of_a_large_batch_is_compared(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "MOST_SEQUENCES", 2)
    measured = measure({**TINY, "batch": 5, "dtype": "bfloat16", "genlen": 3})
    assert known(measured)["notes"] == ["The first 2 of 5 sequences were compared."]
    assert measured.metrics["accuracy_sequences"] == 2
    assert len(known(measured)["first_differences"]) == 2


@pytest.mark.parametrize(("promptlen", "sequences"), [(1, 64), (1024, 64), (2048, 32), (32768, 2), (100000, 1)])
def test_of_long_prompts_fewer_are_compared(promptlen: int, sequences: int) -> None:
    plan = make_plan(RunConfig.parse({**TINY, "batch": 100, "promptlen": promptlen}))
    prompt = torch.zeros(1, dtype=torch.int64)
    assert accuracy.AccuracyPass(plan, prompt, 512, lambda what: None).sequences == sequences


def test_given_tokens_are_fed_as_the_model_takes_them_one_by_one() -> None:
    """Over two ends of a mini-batch, after a prompt that ends within one: the logits are those of the steps."""
    model = leave_initial_values(make_model("mlp_1_dual"))
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(model.vocab_size, (2, 40), generator=generator)
    state = model.new_state(2)
    with torch.no_grad():
        expected = torch.stack([model.step(one, state) for one in tokens.unbind(1)], 1)
    decoder = ModelDecoder(model, 2, torch.device("cpu"))
    found = [decoder.start(tokens[:, :1]), *(decoder.feed(one) for one in tokens[:, 1:].unbind(1))]
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=0, atol=0)
    after = decoder.start(tokens[:, :21])
    assert torch.linalg.norm(after - expected[:, 20]) < 1e-4 * torch.linalg.norm(expected[:, 20])


@pytest.mark.parametrize("steps", [False, True])
def test_a_step_that_cannot_be_captured_is_launched_kernel_by_kernel(
    steps: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = ModelDecoder(make_model("mlp_1_dual"), 2, torch.device("cpu"))
    with ExitStack() as graphs:
        accuracy._replay(decoder, "the reference", graphs, steps=steps)  # nothing is captured on a CPU
    asked: list[str] = []

    def fail(error: RuntimeError) -> Callable[[ModelDecoder], None]:
        def capture(self: ModelDecoder) -> None:
            asked.append("capture")
            raise error

        return capture

    decoder.device = torch.device("cuda")
    unsupported = RuntimeError("operation not permitted when stream is capturing")
    for name in ("capture", "replaying_feed"):
        monkeypatch.setattr(ModelDecoder, name, fail(unsupported))
    with ExitStack() as graphs:
        accuracy._replay(decoder, "the reference", graphs, steps=steps)
    assert asked == ["capture"]
    assert "the reference: its kernels are launched one by one: RuntimeError: operation not permitted" in caplog.text
    for name in ("capture", "replaying_feed"):
        monkeypatch.setattr(ModelDecoder, name, fail(torch.OutOfMemoryError("CUDA out of memory.")))
    with ExitStack() as graphs, pytest.raises(torch.OutOfMemoryError) if steps else nullcontext():
        accuracy._replay(decoder, "the reference", graphs, steps=steps)


# Models of other packages


class Sum(nn.Module):
    """A leaky sum of embeddings. offset: added to one of the logits, which is what a fault of its kernel would be."""

    vocab_size = 97

    def __init__(self, request: ModelRequest, offset: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(request.seed)
        self.table = nn.Embedding(self.vocab_size, 32, dtype=request.dtype)
        self.offset = offset

    def new_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 32, dtype=self.table.weight.dtype)

    def reset_state(self, state: Tensor) -> None:
        state.zero_()

    def step(self, tokens: Tensor, state: Tensor) -> Tensor:
        state.mul_(0.9).add_(self.table(tokens))
        logits = state @ self.table.weight.T
        logits[:, 5] += self.offset
        return logits


SUM = {**SHORT, "model_name": "sum", "batch": 2, "genlen": 30}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(registry, "_registered", models())

    def add(factory: Callable[[ModelRequest], Any], **says: Any) -> None:
        register_model(ModelEntry("sum", factory, "a leaky sum", **says))

    return add


def test_a_faulty_model_is_seen_where_there_is_a_plain_one(register: Callable[..., None], measure: Measure) -> None:
    register(partial(Sum, offset=500.0), plain=Sum)
    measured = measure({**SUM, "dtype": "bfloat16"})
    assert known(measured)["reference"] == "plain PyTorch, float32"
    assert measured.metrics["accuracy_differing_tokens_pct"] > 90
    assert measured.metrics["accuracy_first_difference"] == 1
    assert measured.metrics["accuracy_yardstick_differing_tokens_pct"] < 20
    assert measured.metrics["accuracy_logits_error"] > 10 * measured.metrics["accuracy_yardstick_logits_error"]


def test_weights_are_copied_even_if_a_seed_gives_others_in_another_dtype(
    register: Callable[..., None], measure: Measure
) -> None:
    def build(request: ModelRequest) -> Sum:
        seed = request.seed + (1 if request.dtype == torch.float32 else 2)
        return Sum(replace(request, seed=seed))

    register(build)
    measured = measure({**SUM, "dtype": "float16"})
    assert 0 < measured.metrics["accuracy_logits_error"] < 1e-2


def test_without_a_plain_model_the_note_says_what_is_not_seen(register: Callable[..., None], measure: Measure) -> None:
    register(partial(Sum, offset=50.0))
    measured = measure({**SUM, "dtype": "bfloat16"})
    found = known(measured)
    assert found["reference"] == "the model's own code, float32"
    assert found["yardstick"] is None
    assert "an error that this code makes in every dtype is not seen" in found["notes"][0]
    assert not any("yardstick" in name for name in measured.metrics)


class OwnDecoder:
    """A model with its own generation, which shows no logits."""

    vocab_size = Sum.vocab_size

    def __init__(self, request: ModelRequest) -> None:
        self.model = Sum(request)

    def decoder(self, batch: int, max_length: int, cuda_graph: bool) -> Any:
        inner = ModelDecoder(self.model, batch, torch.device("cpu"))

        class Blind:
            prefill, step, close = inner.prefill, inner.step, inner.close

        return Blind()

    def state_dict(self) -> Any:
        return self.model.state_dict()

    def load_state_dict(self, weights: Any) -> None:
        self.model.load_state_dict(weights)


def test_a_decoder_without_logits_is_compared_by_its_tokens(register: Callable[..., None], measure: Measure) -> None:
    register(OwnDecoder, own_generation=True)
    measured = measure({**SUM, "dtype": "bfloat16"})
    assert any("only the tokens of free-running decode" in note for note in known(measured)["notes"])
    assert "accuracy_parted_sequences_pct" in measured.metrics
    assert "accuracy_logits_error" not in measured.metrics
    assert "profiles/accuracy/positions.csv" not in measured.artifacts


class NoWeights(OwnDecoder):
    state_dict = property()


def test_weights_that_cannot_be_copied_end_the_pass_alone(register: Callable[..., None], measure: Measure) -> None:
    register(NoWeights, own_generation=True)
    measured = measure({**SUM, "dtype": "bfloat16"})
    assert str(measured.failure) == (
        "profile=accuracy: the model has no state_dict() and load_state_dict(), so that its weights cannot be copied "
        "into a float32 model; let it offer both, or make it a torch.nn.Module; the measurement before it is complete"
    )
    assert measured.metrics["decode_tokens_per_s"] > 0
    assert not any(name.startswith("accuracy") for name in measured.metrics)


def test_a_reference_that_does_not_fit_ends_the_pass_alone(register: Callable[..., None], measure: Measure) -> None:
    def build(request: ModelRequest) -> Sum:
        if request.dtype == torch.float32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.30 GiB.")
        return Sum(request)

    register(build)
    measured = measure({**SUM, "dtype": "bfloat16"})
    assert str(measured.failure) == (
        "profile=accuracy: out of memory: the profiling pass does not fit; 5.30 GiB more was requested; the "
        "measurement before it is complete"
    )


def test_fewer_sequences_are_compared_where_all_do_not_fit(
    register: Callable[..., None], measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(Sum):
        def new_state(self, batch: int) -> Tensor:
            if batch > 2 and self.table.weight.dtype == torch.float32:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.30 GiB.")
            return super().new_state(batch)

    register(Large)
    measured = measure({**SUM, "batch": 5, "dtype": "bfloat16"})
    assert known(measured)["notes"][0] == "The first 2 of 5 sequences were compared."
    assert measured.metrics["accuracy_sequences"] == 2
    assert measured.metrics["accuracy_logits_error"] > 0


def test_ctrl_c_in_the_pass_leaves_the_measurement(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise Killed(signal.SIGINT)

    monkeypatch.setattr(accuracy.Deviations, "add", interrupted)
    measured = measure(TINY)
    assert isinstance(measured.failure, Killed)
    status = measured.journal.status
    assert status["status"] == "killed"
    assert "during profile=accuracy, after a complete measurement" in status["message"]
    assert measured.metrics["decode_tokens_per_s"] > 0


def test_the_fed_tokens_are_those_of_the_seed_and_not_the_prompts() -> None:
    plan = make_plan(RunConfig.parse({**TINY, "promptlen": 39}))
    prompt = torch.zeros(3, 39, dtype=torch.int64)
    one, again = (accuracy.AccuracyPass(plan, prompt, 512, lambda what: None)._fed for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == (3, 39)
    random = torch.randint(512, (3, 39), generator=torch.Generator().manual_seed(plan.used.seed))
    assert not torch.equal(one, random)
    other = make_plan(RunConfig.parse({**TINY, "promptlen": 39, "seed": 1}))
    assert not torch.equal(one, accuracy.AccuracyPass(other, prompt, 512, lambda what: None)._fed)
