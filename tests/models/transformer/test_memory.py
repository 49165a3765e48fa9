"""What is said of a transformer's memory is what the model has and does."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.models.ttt.test_memory import NoKernel, kept_temporaries
from ttt_mlflow.kernels.block import prefill
from ttt_mlflow.kernels.overlapped.transformer import TransformerStep
from ttt_mlflow.kernels.overlapped.tuning import MANY
from ttt_mlflow.models.allocations import (
    STATE,
    WEIGHTS,
    WORKSPACES,
    Allocate,
    Allocations,
    recorded,
    storage_bytes,
)
from ttt_mlflow.models.entry import Execution, ModelRequest
from ttt_mlflow.models.transformer import attention, memory
from ttt_mlflow.models.transformer import model as transformer
from ttt_mlflow.models.transformer.memory import META, MemoryOfTransformer
from ttt_mlflow.models.transformer.model import TransformerModel
from ttt_mlflow.models.transformer.sizes import SIZES, allocations
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.run.prediction import replay
from ttt_mlflow.workload import Workload

HALF, BATCH, CPU = torch.float16, 3, torch.device("cpu")
NAMES = ["transformer-tiny", "transformer-1b-gqa4"]


def memory_of(name: str, batch: int = BATCH, promptlen: int = 1) -> MemoryOfTransformer:
    return MemoryOfTransformer(SIZES[name], HALF, Workload("decode", batch, promptlen, 5))


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_cache_are_those_of_the_model(name: str) -> None:
    model = TransformerModel(SIZES[name], HALF, META)
    said = memory_of(name).allocations(cuda_graph=False)
    parts = model.memory_parts(model.new_cache(BATCH, 1 + 5 + 16 + 8))
    kept = {
        kind: [event.size for event in said.events if isinstance(event, Allocate) and event.kind == kind]
        for kind in (WEIGHTS, STATE)
    }
    assert kept[WEIGHTS] == storage_bytes(parts["weights"])
    assert kept[STATE] == storage_bytes(parts["state"])


@pytest.fixture
def model_without_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TransformerModel]:
    """The real model on the device ``meta``. Kernels do nothing; their outputs are allocated by the real code."""
    from ttt_mlflow.kernels.attention import decode
    from ttt_mlflow.kernels.block import fused

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # operators, which know their outputs' shapes
    for module in (transformer, memory):
        monkeypatch.setattr(module, "PREFILL_TOKENS", 60)
    for name in ("rms_norm", "swiglu"):
        monkeypatch.setattr(prefill, f"{name}_kernel", NoKernel())

    def attended(q: Tensor, *_: object) -> Tensor:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        del lse
        return out.flatten(2)

    monkeypatch.setattr(attention, "prompt_attention", attended)
    monkeypatch.setattr(attention, "last_attention", attended)

    def make(name: str) -> TransformerModel:
        model = TransformerModel(SIZES[name], HALF, META)
        functions = attention.Functions(fused, prefill, decode)
        model.functions, model.choice.step = functions, attention.SPLIT_KV
        for layer in model.layers:
            layer.functions = functions
        return model

    return make


Made = Callable[[str], TransformerModel]


def peak(made: Allocations) -> int:
    """Without the workspaces of matrix products, which no tensor has."""
    counted = Allocations()
    counted.events = [event for event in made.events if getattr(event, "kind", "") != "cuBLAS workspaces"]
    allocator, _ = replay(counted)
    return allocator.peak_allocated


@pytest.mark.parametrize("batch", [1, 4096])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_allocates_what_is_said(name: str, batch: int, model_without_memory: Made) -> None:
    model = model_without_memory(name)
    state, tokens = model.new_cache(batch, 9), torch.empty(batch, dtype=torch.int64, device=META)
    real = recorded(lambda: model.step(tokens, state).argmax(-1))
    said = Allocations()
    memory_of(name, batch)._step(said)
    assert peak(said) == pytest.approx(peak(real), rel=0.01)


@pytest.mark.parametrize("promptlen", [1, 20])
def test_kernels_that_overlap_keep_their_buffers(promptlen: int) -> None:
    """And no workspace, but for a prompt, which cuBLAS multiplies."""
    request = ModelRequest("transformer-tiny", None, HALF, CPU, 0, None, attention.SPLIT_KV)
    workload, execution = Workload("decode", BATCH, promptlen, 5), Execution(compiled=False, cuda_graph=True)
    launched, other = (
        allocations(replace(request, decode_path=path), workload, execution) for path in (LAUNCHES, OVERLAPPED)
    )
    step = TransformerModel(SIZES[request.name], HALF, CPU, decode_path=OVERLAPPED).new_cache(BATCH, 9).whole_step
    assert isinstance(step, TransformerStep)
    assert kept_temporaries(other) - kept_temporaries(launched) == Counter(storage_bytes(step.buffers))
    workspaces = [sum(getattr(e, "kind", "") == WORKSPACES for e in made.events) for made in (launched, other)]
    assert workspaces == [1 + (promptlen > 1), int(promptlen > 1)]


def test_the_buffers_of_many_sequences() -> None:
    many = MemoryOfTransformer(SIZES["transformer-1b"], HALF, Workload("decode", 128, 1, 5), staged=True)
    kept = kept_temporaries(many.allocations(cuda_graph=True))
    assert kept[128 * 50304 * 2] == 1, "the logits"
    assert kept[MANY.down.parts_of(5504) * 128 * 2048 * 4] >= 1, "the sums of the down projection's parts"


@pytest.mark.parametrize("promptlen", [2, 20, 33, 100])
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_allocates_what_is_said(name: str, promptlen: int, model_without_memory: Made) -> None:
    """Three sequences: at once, in two groups, and each alone."""
    model = model_without_memory(name)
    state, tokens = model.new_cache(BATCH, promptlen), torch.empty(BATCH, promptlen, dtype=torch.int64, device=META)
    real = recorded(lambda: model.prefill(tokens, state).argmax(-1))
    said = Allocations()
    memory_of(name, promptlen=promptlen)._prompt(said)
    assert peak(said) == pytest.approx(peak(real), rel=0.03)


def test_a_longer_context_needs_more() -> None:
    """A token of a sequence has 49,152 bytes in the cache of four KV heads."""
    short, long = (memory_of("transformer-1b-gqa4", 16, tokens).allocations(cuda_graph=True) for tokens in (1, 2048))
    kept = [sum(e.size for e in made.events if isinstance(e, Allocate) and e.kind == STATE) for made in (short, long)]
    tables = 2047 * 2 * 64 * 4
    assert kept[1] - kept[0] == 16 * 2047 * 49_152 + tables
