"""Mamba-2 (and Mamba's short prompts), gated delta networks and RWKV-7 on a GPU: kernels, prompts, ways to run a step.

Without its package, a model's tests are skipped; the kernels of the decode steps need none.
"""

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.test_decode_gpu import assert_same_tokens
from tests.gpu.test_prediction_gpu import SHORT, check, metrics_of
from tests.kernels.decode_cases import poisoned_memory, relative_error
from tests.kernels.peer_cases import OUT, STATE, check_all, check_delta, check_rwkv7, normal, rows
from tests.models.generation import generate
from tests.models.ttt.cases import make_tokens
from ttt_mlflow.config import RunConfig
from ttt_mlflow.kernels.gated_delta import decode as gated_delta_kernels
from ttt_mlflow.kernels.gated_delta import reference as gated_delta_reference
from ttt_mlflow.kernels.rwkv7 import decode as rwkv7_kernels
from ttt_mlflow.kernels.rwkv7 import reference as rwkv7_reference
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.fla import gated_delta, model, rwkv7
from ttt_mlflow.models.fla.package import missing
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7
from ttt_mlflow.models.mamba import model as mamba
from ttt_mlflow.models.mamba.installation import missing as missing_mamba
from ttt_mlflow.models.mamba2 import model as mamba2
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prediction import predict

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
needs_fla = pytest.mark.skipif(missing() is not None, reason="needs flash-linear-attention")
needs_mamba = pytest.mark.skipif(missing_mamba() is not None, reason="needs mamba-ssm and causal-conv1d")
DEVICE = torch.device("cuda", 0)
DTYPES = [torch.float16, torch.bfloat16]
FLA = ["gated-deltanet-1.3b", "rwkv7-1.3b"]
LAYERS, GENLEN = 4, 48
# logits behind four layers whose outputs weigh four times as much: each rounds its results some ten times
LOGITS = {torch.float16: 1e-2, torch.bfloat16: 8e-2}
MAMBAS = {"state-spaces/mamba-130m": mamba.build, "state-spaces/mamba2-130m": mamba2.build}
# 24 layers. Mamba-2's code for prompts has products in TF32 for float32, and rounds their operands to the dtype
BOTH_WAYS = {torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 0.15}


@pytest.fixture(autouse=True)
def _return_memory():
    yield
    torch.cuda.empty_cache()


# The kernels


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32], ids=str)
def test_every_kernel_matches_float64(dtype: torch.dtype) -> None:
    check_all(gated_delta_kernels, rwkv7_kernels, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_models_own_heads(batch: int, dtype: torch.dtype) -> None:
    check_delta(gated_delta_kernels, dtype, batch, heads=6, groups=6, keys=256, values=512, device="cuda")
    for first_layer in (False, True):
        check_rwkv7(rwkv7_kernels, dtype, batch, heads=32, dim=64, first_layer=first_layer, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_large_batch_is_what_the_twins_are_in_float64(dtype: torch.dtype) -> None:
    batch = 512
    state = torch.randn(batch, 6, 512, 256, device=DEVICE)
    qkv = normal(batch, 6144, dtype=dtype, device="cuda")
    decay, beta = rows((batch, 6), dtype, "cuda"), rows((batch, 6), dtype, "cuda")
    a_log, dt_bias = torch.rand(2, 6, device=DEVICE)
    exact = state.double()
    expected = gated_delta_reference.gated_delta_step(
        qkv.double(), decay.double(), beta.double(), a_log, dt_bias, exact
    )
    with poisoned_memory():
        out = gated_delta_kernels.gated_delta_step(qkv, decay, beta, a_log, dt_bias, state)
    assert relative_error(out, expected) < OUT[dtype]
    assert relative_error(state, exact) < STATE
    del exact, state

    state = torch.randn(batch, 32, 64, 64, device=DEVICE)
    rkv, low, low_bias, first, vectors = (
        normal(*shape, 2048, dtype=dtype, device="cuda") for shape in ((3, batch), (4, batch), (4,), (batch,), (5,))
    )
    k_k, k_a, r_k, weight, bias = vectors
    exact = state.double()
    wide = (x.double() for x in (rkv, low, low_bias, first, k_k, k_a, r_k.view(32, 64), weight, bias))
    arguments: tuple[Any, ...] = (*wide, exact, 64e-5)
    expected = rwkv7_reference.rwkv7_step(*arguments)
    with poisoned_memory():
        out = rwkv7_kernels.rwkv7_step(
            rkv, low, low_bias, first, k_k, k_a, r_k.view(32, 64), weight, bias, state, 64e-5
        )
    assert relative_error(out, expected) < 2 * OUT[dtype]
    assert relative_error(state, exact) < STATE


@needs_fla
@pytest.mark.parametrize("batch", [1, 16])
def test_a_gated_delta_step_is_the_packages_fused_one(batch: int) -> None:
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    state = torch.randn(batch, 6, 512, 256, device=DEVICE)
    qkv = normal(batch, 6144, dtype=torch.bfloat16, device="cuda")
    decay, beta = (normal(batch, 6, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    a_log, dt_bias = torch.rand(2, 6, device=DEVICE)
    q, k, v = qkv.split((1536, 1536, 3072), -1)
    expected, final = fused_recurrent_gated_delta_rule(
        *(x.reshape(batch, 1, 6, -1).contiguous() for x in (q, k, v)),
        g=decay.unsqueeze(1), beta=beta.unsqueeze(1), A_log=a_log, dt_bias=dt_bias, initial_state=state,
        output_final_state=True, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True,
        use_beta_sigmoid_in_kernel=True, state_v_first=True,
    )  # fmt: skip
    out = gated_delta_kernels.gated_delta_step(qkv, decay, beta, a_log, dt_bias, state)
    assert relative_error(out, expected.reshape(batch, 3072)) < OUT[torch.bfloat16]
    assert relative_error(state, final) < STATE


@needs_fla
@pytest.mark.parametrize("batch", [1, 16])
def test_an_rwkv7_step_is_the_packages_fused_one(batch: int) -> None:
    """fla's recurrence, with its norm and gates in plain PyTorch; float32, because fla rounds in between."""
    from fla.ops.rwkv7 import fused_mul_recurrent_rwkv7
    from fla.ops.rwkv7.gate_output_correction import gate_output_correction_ref

    state = torch.randn(batch, 32, 64, 64, device=DEVICE)
    rkv, low, low_bias, first, vectors = (
        normal(*shape, 2048, dtype=torch.float32, device="cuda")
        for shape in ((3, batch), (4, batch), (4,), (batch,), (5,))
    )
    k_k, k_a, r_k, weight, bias = vectors
    r, k, v = rkv
    residual, decay, rate = (low[:3] + low_bias[:3, None]).unbind()
    v, rate = torch.lerp(v, first, residual.sigmoid()), rate.sigmoid()

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(batch, 1, 32, 64).contiguous()

    kappa = torch.nn.functional.normalize(by_head(k * k_k), dim=-1)
    k = k * (1 + (rate - 1) * k_a)
    o, final = fused_mul_recurrent_rwkv7(
        r=by_head(r), w=by_head(-math.exp(-0.5) * decay.sigmoid()), k=by_head(k), v=by_head(v), kk=kappa,
        a=by_head(rate), scale=1.0, initial_state=state.clone(), output_final_state=True,
    )  # fmt: skip
    o = torch.nn.functional.group_norm(o.reshape(batch, 2048), 32, weight, bias, 64e-5)
    expected = gate_output_correction_ref(
        o.unsqueeze(1), by_head(r), by_head(k), r_k.view(32, 64), by_head(v), low[3].unsqueeze(1)
    )
    out = rwkv7_kernels.rwkv7_step(rkv, low, low_bias, first, k_k, k_a, r_k.view(32, 64), weight, bias, state, 64e-5)
    assert relative_error(out, expected.squeeze(1)) < 1e-4
    assert relative_error(state, final) < STATE


# The models


def build(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The 1.3b widths with a few layers, whose outputs weigh enough for greedy tokens to vary."""
    sizes: dict[str, Any] = GATED_DELTA if name in GATED_DELTA else RWKV7
    module = gated_delta if name in GATED_DELTA else rwkv7
    monkeypatch.setitem(sizes, name, replace(sizes[name], layers=LAYERS))
    # all tests here have prompts of one batch; tuning takes half a minute
    monkeypatch.setattr(model, "forget_tuning", lambda package: None)
    made = module.build(ModelRequest(name, None, dtype, DEVICE, 0, None))
    for weight_name, weight in made.named_parameters():
        if weight_name.endswith(("o_proj.weight", "down_proj.weight", "value.weight")):
            weight.mul_(4)
    return made


@needs_fla
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FLA)
def test_eager_compiled_and_graph_give_the_same_tokens(
    name: str, dtype: torch.dtype, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a prompt of one token, which is a step: fla's kernels have no part in it."""
    made = build(name, dtype, monkeypatch)
    prompt = make_tokens(batch, 1, made.vocab_size).to(DEVICE)
    decoder = ModelDecoder(made, batch, DEVICE)
    eager = generate(decoder, prompt, GENLEN)
    assert all(sequence.unique().numel() > GENLEN // 3 for sequence in eager), "tokens that hardly vary say nothing"
    assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.capture()
    assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.close()
    compiled = ModelDecoder(made, batch, DEVICE)
    compiled.compile()
    assert_same_tokens(generate(compiled, prompt, GENLEN), eager)
    compiled.warm_up()
    compiled.capture()
    assert_same_tokens(generate(compiled, prompt, GENLEN), eager)


@needs_fla
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("promptlen", "at_once"),
    [(1, None), (7, None), (70, None), (200, None), (200, 64)],
    ids=["one-token", "recurrent", "chunks", "chunks-and-a-rest", "in-parts"],
)
@pytest.mark.parametrize("name", FLA)
def test_a_prompt_leads_where_its_tokens_lead(
    name: str, promptlen: int, at_once: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through fla's layers, and token by token through our step: the same state, and the same logits then and later."""
    batch = 3
    if at_once:
        monkeypatch.setattr(model, "PREFILL_TOKENS", at_once * batch)
    made = build(name, dtype, monkeypatch)
    prompt = make_tokens(batch, promptlen + 3, made.vocab_size).to(DEVICE)
    with torch.no_grad():
        whole, stepped = made.new_state(batch), made.new_state(batch)
        logits = made.prefill(prompt[:, :promptlen], whole)
        for token in prompt[:, :promptlen].unbind(1):
            expected = made.step(token, stepped)
        assert relative_error(logits, expected) < LOGITS[dtype]
        for one, other in zip(whole.layers, stepped.layers, strict=True):
            for field in fields(one):
                if field.name != "conv":  # its slots may begin elsewhere; what follows shows them
                    found = relative_error(getattr(one, field.name), getattr(other, field.name))
                    assert found < LOGITS[dtype], field.name
        for token in prompt[:, promptlen:].unbind(1):
            assert relative_error(made.step(token, whole), made.step(token, stepped)) < LOGITS[dtype]


@needs_fla
@pytest.mark.parametrize("name", FLA)
def test_a_seed_gives_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, again = (build(name, torch.float16, monkeypatch) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def mamba_with_varying_tokens(name: str, dtype: torch.dtype = torch.float16) -> mamba.MambaModel:
    made = MAMBAS[name](ModelRequest(name, None, dtype, DEVICE, 0, None))
    for parameter, weight in made.model.named_parameters():
        if parameter.endswith("out_proj.weight"):
            weight.mul_(8)
    return made


@needs_mamba
@pytest.mark.parametrize("dtype", BOTH_WAYS, ids=str)
@pytest.mark.parametrize("name", MAMBAS)
def test_a_step_from_zeros_is_what_mamba_ssms_code_for_prompts_makes_of_one_token(
    name: str, dtype: torch.dtype
) -> None:
    batch, limit = 8, BOTH_WAYS[dtype]
    made = mamba_with_varying_tokens(name, dtype)
    stepped = made.decoder(batch, 8, cuda_graph=False)
    made.steps_one_token = False
    whole = made.decoder(batch, 8, cuda_graph=False)
    tokens = make_tokens(batch, 8, made.vocab_size).to(DEVICE)
    for half in tokens.split(4, 1):  # the second prompt finds the state that the first sequences left
        logits, expected = stepped.start(half[:, :1]), whole.start(half[:, :1])
        assert relative_error(logits, expected) < limit
        chosen = expected.gather(1, logits.argmax(-1, keepdim=True)).squeeze(1)
        within = 4 * limit * expected.float().square().mean(1).sqrt()
        assert (expected.amax(1) - chosen <= within).all(), "greedy tokens are the same, but for rounding"
        states = [one.memory_parts()["state"] for one in (stepped, whole)]
        assert len(states[0]) == 2 * 24
        for ours, theirs in zip(*states, strict=True):
            assert relative_error(ours, theirs) < limit
        for token in half[:, 1:].unbind(1):
            assert relative_error(stepped.feed(token), whole.feed(token)) < limit


@needs_mamba
@pytest.mark.parametrize("name", MAMBAS)
def test_mamba_gives_the_same_tokens_after_one_token_with_and_without_its_graph(name: str) -> None:
    made = mamba_with_varying_tokens(name)
    plain = made.decoder(8, 1 + GENLEN, cuda_graph=False)
    replayed = made.decoder(8, 1 + GENLEN, cuda_graph=True)
    for prompt in make_tokens(8, 2, made.vocab_size).to(DEVICE).split(1, 1):
        expected = generate(plain, prompt, GENLEN)
        assert expected.unique().numel() > 8
        assert_same_tokens(generate(replayed, prompt, GENLEN), expected)
        with replayed.eagerly():
            assert_same_tokens(generate(replayed, prompt, GENLEN), expected)
    replayed.close()


@needs_mamba
def test_mamba2_gives_the_same_tokens_with_and_without_its_graph() -> None:
    made = mamba_with_varying_tokens("state-spaces/mamba2-130m")
    for batch in (8, 3, 16):  # each with a graph of its own
        prompt = make_tokens(batch, 5, made.vocab_size).to(DEVICE)
        plain = made.decoder(batch, 5 + GENLEN, cuda_graph=False)
        expected = generate(plain, prompt, GENLEN)
        assert expected.unique().numel() > 8
        plain.close()
        replayed = made.decoder(batch, 5 + GENLEN, cuda_graph=True)
        for _ in range(2):  # the cache of the graph serves the second generation as well
            assert_same_tokens(generate(replayed, prompt, GENLEN), expected)
        replayed.close()


@pytest.mark.parametrize(
    ("name", "batch", "promptlen"),
    [
        *(pytest.param(name, batch, 1, marks=needs_fla) for name in FLA for batch in (1, 128)),
        *(pytest.param(name, 16, 512, marks=needs_fla) for name in FLA),
        *(
            pytest.param("state-spaces/mamba2-1.3b", *shape, marks=needs_mamba)
            for shape in ((1, 1), (128, 1), (16, 512))
        ),
    ],
)
def test_each_peak_is_within_five_percent_of_the_prediction(
    name: str, batch: int, promptlen: int, tmp_path: Path
) -> None:
    asked = {**SHORT, "model_name": name, "batch": batch, "promptlen": promptlen}
    # a process of its own, because kernels are autotuned once a process, with a buffer that counts
    with ProcessPoolExecutor(1, get_context("spawn")) as own:
        check(own.submit(metrics_of, tmp_path, asked).result(), predict(make_plan(RunConfig.parse(asked)), None))
