"""The models of flash-linear-attention on a CPU, where the package is: its weights, and our decode step."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.models.fla.test_work import PARAMETERS
from tests.models.generation import generate
from ttt_mlflow.models.allocations import (
    STATE,
    WEIGHTS,
    WORKSPACE_BYTES,
    Allocate,
    Allocations,
    Free,
    recorded,
    storage_bytes,
)
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import Execution, ModelRequest
from ttt_mlflow.models.fla import gated_delta, rwkv7
from ttt_mlflow.models.fla.memory import MemoryOfGatedDelta, MemoryOfRwkv7
from ttt_mlflow.models.fla.package import missing
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7
from ttt_mlflow.models.reference import Twins
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.models.trial import try_model
from ttt_mlflow.plugins import Trial
from ttt_mlflow.workload import Workload

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"needs flash-linear-attention: {missing()}")
CPU, META = torch.device("cpu"), torch.device("meta")
TINY = ["gated-deltanet-tiny", "rwkv7-tiny"]


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    model: Any = find_model(name).factory(ModelRequest(name, None, dtype, CPU, seed, None))
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.mul_(4)  # with the usual scale, two small layers repeat the token that they are given
    return model


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_and_state_are_those_that_are_counted(name: str) -> None:
    model, module = meta_model(name), gated_delta if name in GATED_DELTA else rwkv7
    state = module.allocate(model.size, 3, torch.float16, META)
    assert model.parameter_count() == PARAMETERS[name]
    request = ModelRequest(name, None, torch.float16, CPU, 0, None)
    allocations = find_model(name).allocations
    assert allocations
    events = allocations(request, Workload("decode", 3, 1, 4), Execution(False, False)).events
    for kind, tensors in zip((WEIGHTS, STATE), model.memory_parts(state).values(), strict=True):
        counted = [one.size for one in events if isinstance(one, Allocate) and one.kind == kind]
        assert sorted(storage_bytes(tensors)) == sorted(counted)


def test_tuning_that_is_kept_on_disk_is_not_used() -> None:
    build("rwkv7-tiny")
    from fla.utils import FLA_CACHE_RESULTS

    assert FLA_CACHE_RESULTS is False


@pytest.mark.parametrize("name", TINY)
def test_it_is_what_a_model_has_to_be(name: str) -> None:
    lines: list[str] = []
    trial = Trial(lines.append)
    try_model(find_model(name), CPU, trial)
    assert not trial.failures, lines


@pytest.mark.parametrize("name", TINY)
def test_a_seed_gives_weights(name: str) -> None:
    first, same, other = build(name), build(name), build(name, seed=1)
    for one, again in zip(first.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, again)
    assert not torch.equal(first.embeddings, other.embeddings)
    assert all(weight.isfinite().all() for weight in first.parameters())


@pytest.mark.parametrize("name", ["gated-deltanet-1.3b", "rwkv7-1.3b"])
def test_its_own_weights_do_not_repeat_the_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every generation would be one token, and no dtype would ever choose another."""
    sizes: dict[str, Any] = GATED_DELTA if name in GATED_DELTA else RWKV7
    monkeypatch.setitem(sizes, name, replace(sizes[name], layers=4, vocab=512))
    model: Any = find_model(name).factory(ModelRequest(name, None, torch.float32, CPU, 0, None))
    fed = torch.randint(512, (64,), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        predicted = model.step(fed, model.new_state(64)).argmax(-1)
    assert (predicted == fed).sum() < 8


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_tokens_depend_on_the_prompt(name: str, dtype: torch.dtype) -> None:
    model = build(name, dtype=dtype)
    decoder = ModelDecoder(model, 3, CPU)
    prompt = torch.randint(512, (3, 5), generator=torch.Generator().manual_seed(5))
    tokens = generate(decoder, prompt, 12)
    assert len(tokens.unique()) > 6, "a test with one token would see nothing"
    assert torch.equal(generate(decoder, prompt, 12), tokens)
    assert not torch.equal(generate(decoder, prompt.flip(1), 12), tokens)


@pytest.mark.parametrize("name", TINY)
def test_the_plain_twin_has_the_weights_and_predicts_the_same(name: str) -> None:
    """On a CPU both are plain; tests/gpu/test_accuracy_gpu.py looks at the functions of a twin on a GPU."""
    model = build(name, dtype=torch.bfloat16)
    twins = Twins(find_model(name), ModelRequest(name, None, torch.bfloat16, CPU, 0, None))
    assert twins.is_plain
    prompt = torch.randint(512, (2, 7), generator=torch.Generator().manual_seed(5))
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        twin: Any = twins.build(model, dtype)
        weights = dict(model.named_parameters())
        assert all(torch.equal(one, weights[name].to(one.dtype)) for name, one in twin.named_parameters())
        state = twin.new_state(2)
        found[dtype] = torch.stack([twin.step(one, state).double() for one in prompt.unbind(1)])
    state = model.new_state(2)
    own = torch.stack([model.step(one, state).double() for one in prompt.unbind(1)])
    assert torch.equal(own, found[torch.bfloat16])
    apart = (own - found[torch.float32]).norm() / own.norm()
    assert 0 < apart < 0.05


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_compiled_tokens_are_the_eager_ones(name: str) -> None:
    model = build(name)
    prompt = torch.randint(512, (2, 3), generator=torch.Generator().manual_seed(5))
    eager = generate(ModelDecoder(model, 2, CPU), prompt, 24)
    compiled = ModelDecoder(model, 2, CPU)
    compiled.compile()
    assert torch.equal(generate(compiled, prompt, 24), eager)


def test_the_step_of_a_gated_delta_network_is_the_packages_recurrence() -> None:
    """fla's own plain PyTorch; its layout of the state is [K, V]."""
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    from ttt_mlflow.kernels.gated_delta.reference import gated_delta_step, l2_normalized

    batch, heads, keys, values, tokens = 2, 3, 16, 24, 5
    qkv = torch.randn(batch, tokens, heads * (2 * keys + values))
    decay, beta = torch.randn(2, batch, tokens, heads)
    a_log, dt_bias = torch.rand(heads), torch.randn(heads)
    state = torch.randn(batch, heads, values, keys)
    q, k, v = qkv.split((heads * keys, heads * keys, heads * values), -1)
    q, k = (l2_normalized(x.unflatten(-1, (heads, keys))) for x in (q, k))
    g = -a_log.exp() * torch.nn.functional.softplus(decay + dt_bias)
    expected, final = naive_recurrent_gated_delta_rule(
        q, k, v.unflatten(-1, (heads, values)), beta.sigmoid(), g, initial_state=state.mT, output_final_state=True
    )
    steps = [
        gated_delta_step(qkv[:, t], decay[:, t], beta[:, t], a_log, dt_bias, state).view(batch, heads, values)
        for t in range(tokens)
    ]
    torch.testing.assert_close(torch.stack(steps, 1), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state.mT, final, atol=1e-5, rtol=1e-4)


def test_the_step_of_rwkv7_is_the_packages_recurrence() -> None:
    """fla's own plain PyTorch of the update and of what follows it."""
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence
    from fla.ops.rwkv7.fused_k_update import k_update_ref
    from fla.ops.rwkv7.gate_output_correction import gate_output_correction_ref

    from ttt_mlflow.kernels.rwkv7.reference import DECAY, rwkv7_step

    batch, heads, dim = 2, 3, 16
    width = heads * dim
    rkv, low, low_bias = torch.randn(3, batch, width), torch.randn(4, batch, width), torch.randn(4, width)
    first, k_k, k_a, weight, bias = torch.randn(batch, width), *torch.randn(4, width)
    r_k, state = torch.randn(heads, dim), torch.randn(batch, heads, dim, dim)

    def by_head(x: Tensor) -> Tensor:
        return x.view(batch, 1, heads, dim)

    r, k, v = rkv
    residual, decay, rate = (low[:3] + low_bias[:3, None]).unbind()
    v, rate = torch.lerp(v, first, residual.sigmoid()), rate.sigmoid()
    kappa = torch.nn.functional.normalize(by_head(k * k_k), dim=-1)
    k = k_update_ref(k, rate, k_a)
    o, final = dplr_recurrence(
        *(by_head(x).transpose(1, 2) for x in (r, k, v, -kappa, kappa * by_head(rate), DECAY * decay.sigmoid())),
        initial_state=state, output_final_state=True,
    )  # fmt: skip
    o = o.transpose(1, 2) * dim**0.5  # it scales r
    o = torch.nn.functional.group_norm(o.reshape(batch, width), heads, weight, bias, 1e-3)
    expected = gate_output_correction_ref(
        o.unsqueeze(1), *(by_head(x) for x in (r, k)), r_k, by_head(v), low[3].unsqueeze(1)
    )
    out = rwkv7_step(rkv, low, low_bias, first, k_k, k_a, r_k, weight, bias, state, 1e-3)
    torch.testing.assert_close(out, expected.squeeze(1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_prompts_through_the_packages_layers_in_the_interpreter() -> None:
    """fla's own kernels, in Triton's interpreter: the state and the logits that our steps lead to."""
    file = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_step_allocates_what_is_said(name: str) -> None:
    """The step itself, on a device without memory, with kernels that allocate their results alone."""
    batch, model = 256, meta_model(name)
    module: Any = gated_delta if name in GATED_DELTA else rwkv7
    kernels = SimpleNamespace(
        add_rms_norm=lambda hidden, delta, *_: (torch.empty_like(hidden), torch.empty_like(hidden)),
        swiglu=lambda x: x.new_empty(len(x), x.shape[1] // 2),
        short_conv=lambda x, *_: x.new_empty(x.shape),
        gated_delta_step=lambda qkv, decay, beta, a, b, state: qkv.new_empty(len(qkv), 3072),
        gated_rms_norm=lambda x, *_: torch.empty_like(x),
        shift_mix=lambda h, d, p, w, b, mix, e: (torch.empty_like(h), h.new_empty(len(mix), *h.shape)),
        rank_activations=lambda low: None,
        rwkv7_step=lambda rkv, *_: rkv.new_empty(rkv.shape[1:]),
    )
    model.functions = kernels
    for layer in model.layers:
        layer.functions = layer.delta_functions = kernels
    state = module.allocate(model.size, batch, torch.float16, META)
    tokens = torch.zeros(batch, dtype=torch.int64, device=META)
    with torch.no_grad():
        found = recorded(lambda: model.step(tokens, state).argmax(-1))
    said = Allocations()
    memory(name, batch)._step(said)
    assert peak(said) == pytest.approx(peak(found) + WORKSPACE_BYTES, rel=0.002)


def peak(made: Allocations) -> int:
    """The most bytes that are there at once."""
    sizes: dict[int, int] = {}
    most = 0
    for event in made.events:
        if isinstance(event, Allocate):
            sizes[event.number] = event.size
        elif isinstance(event, Free):
            del sizes[event.number]
        most = max(most, sum(sizes.values()))
    return most


def memory(name: str, batch: int) -> MemoryOfGatedDelta | MemoryOfRwkv7:
    workload = Workload("decode", batch, 1, 4)
    if name in GATED_DELTA:
        return MemoryOfGatedDelta(torch.float16, workload, GATED_DELTA[name])
    return MemoryOfRwkv7(torch.float16, workload, RWKV7[name])


def meta_model(name: str) -> Any:
    if name in GATED_DELTA:
        return gated_delta.GatedDeltaModel(GATED_DELTA[name], torch.float16, META)
    return rwkv7.Rwkv7Model(RWKV7[name], torch.float16, META)


@pytest.mark.parametrize("name", TINY)
def test_all_layers_share_their_compiled_code(name: str) -> None:
    """RWKV-7's first layer has its own. One for each layer would be more than the compiler keeps."""
    module: Any = gated_delta if name in GATED_DELTA else rwkv7
    kind: Any = gated_delta.GatedDeltaModel if name in GATED_DELTA else rwkv7.Rwkv7Model
    size: Any = GATED_DELTA.get(name) or RWKV7[name]
    model = kind(replace(size, layers=12), torch.float32, CPU)
    module.initialize(model, 0)
    torch.compiler.reset()
    counters.clear()
    model._layer_steps = [torch.compile(layer.step, dynamic=False, backend="eager") for layer in model.layers]
    state = model.new_state(2)
    with torch.no_grad():
        for _ in range(2):
            model.step(torch.zeros(2, dtype=torch.int64), state)
    assert counters["stats"]["unique_graphs"] == (1 if name in GATED_DELTA else 2)
