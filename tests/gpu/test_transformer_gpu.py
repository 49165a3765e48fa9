"""The transformer on a GPU: its kernels, its tokens in every way to run a step, its attentions, its memory."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.gpu.test_decode_gpu import assert_same_tokens
from tests.kernels.attention_cases import check_decode, check_rotation, make_case
from tests.kernels.decode_cases import relative_error
from tests.kernels.step_cases import check_transformer_step
from tests.models.generation import generate
from tests.models.transformer.cases import make_model, make_tokens, plain_logits, step_logits
from tests.runs import measured_in
from ttt_mlflow.config import RunConfig
from ttt_mlflow.kernels.attention import decode
from ttt_mlflow.kernels.attention.launch import FLOAT32_ROWS, MOST_SPLITS, ROWS
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.transformer import attention
from ttt_mlflow.models.transformer.attention import SPLIT_KV, STEP
from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prediction import predict
from ttt_mlflow.workload import ATTENTION, CONVOLUTION, INNER, PARTS, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE, GPU = torch.device("cuda", 0), "cuda:0"
# four layers of the 1b widths
WIDTHS = {
    "own KV heads": TransformerConfig(2048, 5504, 4, 16, 16, vocab_size=5000),
    "shared KV heads": TransformerConfig(2048, 6528, 4, 16, 4, vocab_size=5000),
}
BOTH = pytest.mark.parametrize("config", WIDTHS.values(), ids=WIDTHS.keys())
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(16, 16), (16, 4), (12, 2)])
BATCH, PROMPTLEN, GENLEN = 16, 5, 64


@pytest.fixture(autouse=True)
def _an_empty_allocator() -> None:
    """As in a new process."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def varied_model(config: TransformerConfig, dtype: torch.dtype = torch.float16, **asked: Any) -> Any:
    """Matrices of a size with which the layers' outputs weigh enough for greedy tokens to vary."""
    return make_model(config, dtype, GPU, scale=3.0, **asked)


# The kernels


@pytest.mark.parametrize("position", [0, 1, 63, 64, 65, 1000, 2047])
@pytest.mark.parametrize("splits", [1, 2, 7, MOST_SPLITS])
@HEADS
def test_decode_matches_float64(heads: int, kv_heads: int, splits: int, position: int) -> None:
    """Empty, at the ends of blocks and parts, and in the last position of the cache."""
    case = make_case(torch.float16, 3, heads, kv_heads, 128, 2048, position, GPU)
    check_decode(case, heads, splits=splits)


@pytest.mark.parametrize(
    ("dtype", "row"),
    [(torch.float16, row) for row in ROWS] + [(torch.bfloat16, ROWS[0]), (torch.float32, FLOAT32_ROWS[0])],
    ids=str,
)
@pytest.mark.parametrize(("splits", "position"), [(1, 257), (5, 700)])
def test_every_launch(splits: int, position: int, dtype: torch.dtype, row: tuple[int, int, int]) -> None:
    block, warps, stages = row
    case = make_case(dtype, 2, 16, 4, 128, 1000, position, GPU)
    check_decode(case, 16, splits=splits, block=block, warps=warps, stages=stages)


@pytest.mark.parametrize("dim", [16, 32, 64, 256])
def test_head_dimensions(dim: int) -> None:
    check_decode(make_case(torch.float16, 2, 8, 2, dim, 300, 201, GPU), 8, splits=3, block=32, stages=2)


def test_a_cache_of_more_than_two_to_the_31_elements() -> None:
    """The offsets of the last sequence do not fit into 32 bits."""
    batch, kv_heads, length, dim = 33, 4, 131_072, 128
    qkv, now, cos, sin, _, _ = make_case(torch.float16, batch, 4, kv_heads, dim, 8, 5, GPU)
    cos, sin = (table.repeat(length // 8, 1) for table in (cos, sin))
    k, v = (torch.zeros(batch, kv_heads, length, dim, dtype=torch.float16, device=GPU) for _ in range(2))
    assert k.numel() > 2**31
    for cache in (k, v):
        cache[-1, :, :5] = torch.randn(kv_heads, 5, dim, device=GPU)
    small_k, small_v = (cache[-1:, :, :8].clone() for cache in (k, v))
    found = decode.decode_attention(qkv, now, cos, sin, k, v, 4, splits=3)
    expected = decode.decode_attention(qkv[-1:], now, cos[:8].contiguous(), sin[:8].contiguous(), small_k, small_v, 4)
    assert relative_error(found[-1:], expected) < 1e-3
    assert torch.equal(k[-1:, :, :8], small_k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("tokens", "position"), [(1, 0), (1, 511), (100, 7)])
@HEADS
def test_rotation_matches_its_twin(heads: int, kv_heads: int, tokens: int, position: int, dtype: torch.dtype) -> None:
    check_rotation(make_case(dtype, 3, heads, kv_heads, 128, 512, position, GPU), tokens, heads)


# The model


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_eager_compiled_and_graph_give_the_same_tokens(dtype: torch.dtype, config: TransformerConfig) -> None:
    model = varied_model(config, dtype)
    prompt = make_tokens(BATCH, PROMPTLEN, config.vocab_size).to(DEVICE)
    length = PROMPTLEN + GENLEN
    decoder = ModelDecoder(model, BATCH, DEVICE, length)
    eager = generate(decoder, prompt, GENLEN)
    assert all(sequence.unique().numel() > GENLEN // 3 for sequence in eager), "tokens that hardly vary say nothing"
    decoder.capture()
    assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.close()

    decoder = ModelDecoder(model, BATCH, DEVICE, length)
    decoder.compile()
    decoder.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):  # the warm-up compiles what every position needs
        assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
        decoder.capture()
        assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.close()


@BOTH
def test_one_graph_serves_every_position(config: TransformerConfig) -> None:
    """From one token to the cache's last position, over many blocks and, at the end, several parts."""
    model = varied_model(config)
    decoder = ModelDecoder(model, 2, DEVICE, 1200)
    assert model.choice.launch["splits"] > 1
    decoder.capture()
    for promptlen in (1, 64, 700):
        prompt = make_tokens(2, promptlen, config.vocab_size, seed=promptlen).to(DEVICE)
        graph = generate(decoder, prompt, 500)
        with decoder.eagerly():
            assert_same_tokens(generate(decoder, prompt, 500), graph)
    decoder.close()


@BOTH
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 6e-2), (torch.float64, 1e-11)],
    ids=str,
)
def test_steps_and_prompts_are_the_equations(dtype: torch.dtype, limit: float, config: TransformerConfig) -> None:
    model, tokens = varied_model(config, dtype), make_tokens(3, 70, config.vocab_size)
    expected = plain_logits(model, tokens)
    with torch.no_grad():
        found = step_logits(model, tokens.to(DEVICE), 80).cpu()
        at_once = model.prefill(tokens.to(DEVICE), model.new_cache(3, 80)).cpu()
    assert relative_error(found, expected) < limit
    assert relative_error(at_once, expected[:, -1]) < limit


def test_a_prompt_in_groups_is_the_prompt_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = WIDTHS["shared KV heads"]
    model, tokens = varied_model(config), make_tokens(5, 300, config.vocab_size).to(DEVICE)
    whole, groups = model.new_cache(5, 320), model.new_cache(5, 320)
    with torch.no_grad():
        expected = model.prefill(tokens, whole)
        monkeypatch.setattr("ttt_mlflow.models.transformer.model.PREFILL_TOKENS", 600)
        assert relative_error(model.prefill(tokens, groups), expected) < 2e-3
    for one, other in zip(groups.layers, whole.layers, strict=True):
        assert relative_error(one.k, other.k) < 2e-3
        assert relative_error(one.v, other.v) < 2e-3


# Kernels that overlap


@pytest.mark.parametrize("batch", [1, 3, 16, 128])
@pytest.mark.parametrize(
    "shape",
    [{"heads": 16, "kv_heads": 16, "intermediate": 5504}, {"heads": 16, "kv_heads": 4, "intermediate": 6528}],
    ids=["own KV heads", "shared KV heads"],
)
@pytest.mark.parametrize("start", [{}, {"ahead": 1}, {"ahead": 8}, {"early": False}], ids=str)
def test_overlapping_steps_match_float64(start: dict[str, int], shape: dict[str, int], batch: int) -> None:
    """At the 1b widths, across the end of a block and of a part; all buffers poisoned before each step."""
    distances = check_transformer_step(
        batch, tokens=3, position=127, length=400, dim=128, vocab=5000, splits=3 if batch < 16 else 1, block=64,
        device=GPU, **start, **shape,
    )  # fmt: skip
    print(f"\n{shape} batch {batch}: kernel and twin from float64: {[f'{a:.1e} {b:.1e}' for a, b in distances]}")


@BOTH
@pytest.mark.parametrize("batch", [1, 16, 128])
def test_overlapping_steps_are_those_of_the_launches(batch: int, config: TransformerConfig) -> None:
    """The same numbers but for the order of sums; eager, again, and in a graph, the very same tokens."""
    model = varied_model(replace(config, num_layers=2))
    tokens = make_tokens(batch, 24, config.vocab_size).to(DEVICE)
    logits = []
    for path in (LAUNCHES, OVERLAPPED):
        model.use(path)
        state = model.new_cache(batch, 600)
        with torch.no_grad():
            model.prefill(tokens[:, :16], state)
            logits.append(torch.stack([model.step(one, state) for one in tokens[:, 16:].unbind(1)]))
    far = relative_error(logits[1], logits[0])
    same = float((logits[0].argmax(-1) == logits[1].argmax(-1)).float().mean())
    print(f"\nbatch {batch}: {100 * same:.1f} % of the tokens are the same, {far:.1e} apart")
    assert far < 1e-2

    decoder = ModelDecoder(model, batch, DEVICE, 600)
    eager = generate(decoder, tokens[:, :5], GENLEN)
    assert all(sequence.unique().numel() > GENLEN // 3 for sequence in eager), "tokens that hardly vary say nothing"
    assert_same_tokens(generate(decoder, tokens[:, :5], GENLEN), eager)
    decoder.capture()
    for _ in range(2):
        assert_same_tokens(generate(decoder, tokens[:, :5], GENLEN), eager)
    decoder.close()


@pytest.mark.parametrize("attn_impl", ["cudnn", "efficient", "math"])
def test_other_attentions_between_kernels_that_overlap(attn_impl: str) -> None:
    """Which know nothing of it. In a graph too; those that do not take these heads are left out."""
    model = varied_model(replace(WIDTHS["own KV heads"], num_layers=2), attn_impl=attn_impl)
    tokens = make_tokens(4, 12, 5000).to(DEVICE)

    def decoded(path: str) -> Tensor:
        model.use(path)
        state = model.new_cache(4, 80)
        with torch.no_grad():
            return torch.stack([model.step(one, state) for one in tokens.unbind(1)])

    try:
        logits = [decoded(LAUNCHES)]
    except RuntimeError as error:  # of the attention itself; the kernels that overlap have no excuse
        pytest.skip(f"this GPU's PyTorch has no {attn_impl} for these heads: {str(error).splitlines()[0]}")
    logits.append(decoded(OVERLAPPED))
    assert relative_error(logits[1], logits[0]) < 1e-2
    decoder = ModelDecoder(model, 4, DEVICE, 80)
    eager = generate(decoder, tokens[:, :5], GENLEN)
    decoder.capture()
    assert_same_tokens(generate(decoder, tokens[:, :5], GENLEN), eager)
    decoder.close()


# The attentions


@BOTH
def test_every_attention_that_runs_gives_the_same(config: TransformerConfig) -> None:
    """Of a prompt and of a step; which of PyTorch's take shared heads is their affair, and printed."""
    tokens = make_tokens(4, 200, config.vocab_size).to(DEVICE)
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys((SPLIT_KV, *attention.PROMPT, *STEP)):
        model = varied_model(config, attn_impl=name)
        state = model.new_cache(4, 256)
        try:
            with torch.no_grad():
                model.prefill(tokens[:, :-1], state)
                found[name] = model.step(tokens[:, -1], state)
        except RuntimeError as error:
            print(f"{name} does not run: {str(error).splitlines()[0]}")
    assert SPLIT_KV in found
    assert "flash" in found
    expected = plain_logits(varied_model(config), tokens.cpu())[:, -1]
    for name, logits in found.items():
        assert relative_error(logits.cpu(), expected) < 1e-2, name


@BOTH
@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("promptlen", [1, 600])
def test_the_choice_is_one_that_runs(promptlen: int, overlapped: bool, config: TransformerConfig) -> None:
    workload = Workload("decode", 8, promptlen, 40)
    model = varied_model(config, workload=workload)
    if overlapped:
        model.use(OVERLAPPED)
    decoder = ModelDecoder(model, 8, DEVICE, workload.max_length())
    decoder.choose()
    print(model.attn_impl, model.choice.launch)
    assert attention.asked_for(model.attn_impl).step in STEP
    assert (model.choice.prompt is None) == (promptlen == 1)
    prompt = make_tokens(8, promptlen, config.vocab_size).to(DEVICE)
    eager = generate(decoder, prompt, 40)
    decoder.capture()
    assert_same_tokens(generate(decoder, prompt, 40), eager)
    decoder.close()


# Runs

RUN = {"model_name": "transformer-1b-gqa4", "batch": 16, "genlen": 32, "warmup": 1, "repeats": 2}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"use_compile": True},
        {"use_compile": False, "cuda_graph": False, "batch": 64},
        {"model_name": "transformer-1b", "promptlen": 512, "use_compile": False},
        {"mode": "prefill", "promptlen": 2048},
    ],
    ids=["graph", "launches, compiled graph", "eager", "graph and prompt", "prefill"],
)
def test_a_run_and_its_memory(asked: dict[str, Any], tmp_path: Path) -> None:
    """The attention in use is recorded, and each peak is within five percent of the prediction."""
    asked = {**RUN, **asked}
    predicted = predict(make_plan(RunConfig.parse(asked)), None)
    run = measured_in(tmp_path, asked)
    assert run.failure is None, run.log
    prompt, step = asked.get("promptlen", 1) > 1, asked.get("mode") != "prefill"
    overlaps = step and not asked.get("use_compile") and torch.cuda.get_device_capability()[0] == 9
    assert run.journal.params["decode_path"] == (OVERLAPPED if overlaps else LAUNCHES)
    assert run.journal.params["attn_impl"].count("+") == (prompt and step)
    print(
        run.journal.params["attn_impl"], {name: run.metrics.get(name) for name in ("decode_step_ms_mean", "prefill_ms")}
    )
    peaks = {
        "peak_memory_allocated_gb": predicted.allocated_bytes,
        "peak_memory_reserved_gb": predicted.reserved_bytes,
    }
    expected = {name: pytest.approx(size / 1e9, rel=0.05) for name, size in peaks.items() if size}
    assert {name: run.metrics[name] for name in expected} == expected


@pytest.mark.parametrize("graph", [False, True])
def test_every_kernel_has_its_part(graph: bool, tmp_path: Path) -> None:
    run = measured_in(tmp_path, {**RUN, "use_compile": graph, "cuda_graph": graph, "profile": "torch"})
    assert run.failure is None, run.log
    folder = run.journal.artifacts / "profiles/torch"
    print((folder / "kernels.md").read_text())
    kernels = pd.read_csv(folder / "kernels.csv")
    (own,) = (row for _, row in kernels.iterrows() if "decode_attention" in row["name"])
    assert (own["part"], own["calls"]) == (ATTENTION, 16 * 24)
    assert set(PARTS) - {CONVOLUTION, INNER} <= set(kernels["part"])
    assert kernels.loc[kernels["part"] == "unknown", "share_pct"].sum() < 5


def test_an_attention_that_does_not_run_is_told(tmp_path: Path) -> None:
    """Flash attention takes no float32."""
    asked = {**RUN, "dtype": "float32", "promptlen": 8, "attn_impl": "flash", "use_compile": False}
    run = measured_in(tmp_path, asked)
    assert run.journal.status["status"] == "error"
    assert "attn_impl=flash: the attention of a prompt does not run here" in str(run.failure)
