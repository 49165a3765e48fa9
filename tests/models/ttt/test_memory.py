"""What is said of a TTT model's memory is what the model has and does, line by line."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.ttt.cases import make_model
from ttt_mlflow.kernels.block import prefill
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep
from ttt_mlflow.kernels.overlapped.tuning import MANY
from ttt_mlflow.models.allocations import (
    STATE,
    TEMPORARIES,
    WEIGHTS,
    WORKSPACES,
    Allocate,
    Allocations,
    Free,
    recorded,
    storage_bytes,
)
from ttt_mlflow.models.decoder import tensors_in
from ttt_mlflow.models.entry import Execution, ModelRequest
from ttt_mlflow.models.ttt import model as ttt_model
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS, InnerNet
from ttt_mlflow.models.ttt.memory import META, MemoryOfTTT
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import allocations, build, config_of
from ttt_mlflow.run.prediction import replay
from ttt_mlflow.workload import Workload

BATCH = 3
NETS = ["mlp_1_dual_triton", "mlp_2_dual_triton"]


def memory_of(
    net: InnerNet, promptlen: int = 1, dtype: torch.dtype = torch.float16, name: str = "ttt-tiny", batch: int = BATCH
) -> MemoryOfTTT:
    workload = Workload("decode", batch, promptlen, 1)
    return MemoryOfTTT(config_of(name, net.layer_type), net, dtype, workload, compiled=False)


def sizes(made: Allocations, kind: str) -> list[int]:
    return [event.size for event in made.events if isinstance(event, Allocate) and event.kind == kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inner_net", ["mlp_1_dual", "mlp_2_dual"])
def test_weights_and_state_are_those_of_the_model(inner_net: str, dtype: torch.dtype) -> None:
    model = make_model(inner_net, dtype=dtype)
    made = memory_of(INNER_NETS[inner_net], dtype=dtype).allocations(cuda_graph=False)
    weights, state = [*model.parameters(), *model.buffers()], list(tensors_in(model.new_state(BATCH)))
    assert sizes(made, WEIGHTS) == storage_bytes(weights)
    assert sizes(made, STATE) == [tensor.nbytes for tensor in state]


class NoKernel:
    """Stands in for a Triton kernel, which computes only on a GPU."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@pytest.fixture
def model_without_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[TTTModel, InnerNet]]:
    """The real model on the device ``meta``. Kernels do nothing; their outputs are allocated by the real code."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # operators, which know their outputs' shapes
    monkeypatch.setattr(ttt_model, "PREFILL_TOKENS", 60)
    for name in ("conv_rms_norm", "qk_conv_rotary", "gated_layer_norm", "rms_norm", "swiglu"):
        monkeypatch.setattr(prefill, f"{name}_kernel", NoKernel())

    def make(inner_net: str) -> tuple[TTTModel, InnerNet]:
        net = replace(INNER_NETS[inner_net], prefill=lambda q, *_: torch.empty_like(q))
        return TTTModel(config_of("ttt-tiny", net.layer_type), net, torch.float16, META), net

    return make


Made = Callable[[str], tuple[TTTModel, InnerNet]]


def state_of(model: TTTModel, batch: int) -> Any:
    return ttt_model.allocate(model.config, model.net, batch, model.dtype, META)


def sampled(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def peaks(made: Allocations) -> tuple[int, int]:
    allocator, _ = replay(made)
    return allocator.peak_allocated, allocator.peak_reserved


@pytest.mark.parametrize("batch", [1, 64, 4096])
@pytest.mark.parametrize("inner_net", NETS)
def test_a_step_allocates_what_is_said(inner_net: str, batch: int, model_without_memory: Made) -> None:
    model, net = model_without_memory(inner_net)
    state, tokens = state_of(model, batch), torch.empty(batch, dtype=torch.int64, device=META)
    real = recorded(lambda: sampled(model.step(tokens, state)))
    said = Allocations()
    memory_of(net, batch=batch)._step(said)
    without_workspace = Allocations()
    without_workspace.events = [event for event in said.events if getattr(event, "kind", "") != "cuBLAS workspaces"]
    assert peaks(without_workspace) == pytest.approx(peaks(real), rel=0.01)


def kept_temporaries(made: Allocations) -> Counter[int]:
    """The bytes of those that are never freed."""
    freed = {event.number for event in made.events if isinstance(event, Free)}
    new = [event for event in made.events if isinstance(event, Allocate) and event.kind == TEMPORARIES]
    return Counter(event.size for event in new if event.number not in freed)


@pytest.mark.parametrize("promptlen", [1, 20])
@pytest.mark.parametrize("inner_net", NETS)
def test_kernels_that_overlap_keep_their_buffers(inner_net: str, promptlen: int) -> None:
    """And no workspace, but for a prompt, which cuBLAS multiplies."""
    request = ModelRequest("ttt-tiny", inner_net, torch.float16, torch.device("cpu"), 0, None)
    workload, execution = Workload("decode", BATCH, promptlen, 5), Execution(compiled=False, cuda_graph=True)
    launched, other = (
        allocations(replace(request, decode_path=path), workload, execution) for path in (LAUNCHES, OVERLAPPED)
    )
    step = build(replace(request, decode_path=OVERLAPPED)).new_state(BATCH).whole_step
    assert isinstance(step, OverlappedStep)
    assert kept_temporaries(other) - kept_temporaries(launched) == Counter(storage_bytes(step.buffers))
    assert [len(sizes(made, WORKSPACES)) for made in (launched, other)] == [1 + (promptlen > 1), int(promptlen > 1)]


def test_the_buffers_of_many_sequences() -> None:
    """Their logits alone are 13 MB."""
    net = INNER_NETS["mlp_1_dual_triton"]
    memory = replace(memory_of(net, name="ttt-1b", batch=128), staged=True)
    kept = kept_temporaries(memory.allocations(cuda_graph=True))
    assert kept[128 * 50304 * 2] == 1, "the logits"
    assert kept[MANY.down.parts_of(5504) * 128 * 2048 * 4] >= 1, "the sums of the down projection's parts"


@pytest.mark.parametrize("promptlen", [2, 20, 33, 100])
@pytest.mark.parametrize("inner_net", NETS)
def test_a_prompt_allocates_what_is_said(
    inner_net: str, promptlen: int, model_without_memory: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a prompt in parts: 20 tokens of each of the three sequences at once."""
    model, net = model_without_memory(inner_net)
    monkeypatch.setattr("ttt_mlflow.models.ttt.memory.PREFILL_TOKENS", 60)
    state, tokens = state_of(model, BATCH), torch.empty(BATCH, promptlen, dtype=torch.int64, device=META)
    real = recorded(lambda: sampled(model.prefill(tokens, state)))
    said = Allocations()
    memory_of(net, promptlen)._prompt(said)
    without_workspace = Allocations()
    without_workspace.events = [event for event in said.events if getattr(event, "kind", "") != "cuBLAS workspaces"]
    assert peaks(without_workspace)[0] == pytest.approx(peaks(real)[0], rel=0.03)


def cpu_peak(function: Callable[[], object]) -> int:
    """The most bytes at once that ``function`` allocates on the CPU beside what is there before it."""
    function()
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


@pytest.mark.parametrize("promptlen", [1, 40])
@pytest.mark.parametrize("inner_net", ["mlp_1_dual", "mlp_2_dual"])
def test_pytorchs_inner_nets_allocate_on_a_cpu_what_is_recorded(
    inner_net: str, promptlen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state and the other arguments are there before; they are no temporaries."""
    net = INNER_NETS[inner_net]
    memory = memory_of(net, promptlen, batch=64)
    said = memory._inner_step if promptlen == 1 else memory._inner_prompt
    monkeypatch.setattr("ttt_mlflow.models.ttt.memory.META", torch.device("cpu"))
    inputs = memory._inputs(torch.zeros(1, dtype=torch.int32), *[promptlen][: promptlen > 1])
    for tensor in inputs:
        tensor.zero_()
    real = cpu_peak(lambda: (net.decode if promptlen == 1 else net.prefill)(*inputs))
    assert peaks(said)[0] == pytest.approx(real, rel=0.03)


def test_pytorchs_inner_nets_allocate_copies_of_the_state_on_the_way() -> None:
    """In float32, of one layer; a compiled step has fewer of them at once."""
    triton, eager = (memory_of(INNER_NETS[name], batch=1024) for name in ("mlp_2_dual_triton", "mlp_2_dual"))
    compiled = replace(eager, compiled=True)
    matrices = 1024 * 2 * 2 * 4 * 64 * 64 * 4  # sequences, heads, matrices of F x 4 F, float32
    kernel, plain, fused = (peaks(one.allocations(cuda_graph=False))[0] for one in (triton, eager, compiled))
    assert kernel + 1.5 * matrices < fused < plain < kernel + 10 * matrices


def test_general_kernels_process_prompts_with_pytorchs_operations() -> None:
    """float32, and heads of another size than 64, as on a GPU."""
    net = INNER_NETS["mlp_1_dual_triton"]
    half, single = (memory_of(net, 64, dtype=dtype) for dtype in (torch.float16, torch.float32))
    assert not half._inner_prompt.events
    assert single._inner_prompt.events
    assert memory_of(net, 64, name="ttt-760m")._inner_prompt.events, "heads of 96"
