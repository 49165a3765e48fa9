"""A decode step of kernels that overlap, on a GPU: right, and in a graph too."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.test_decode_gpu import DEVICE, assert_same_tokens, varied_model
from tests.kernels.step_cases import check_flight, check_step, distance
from tests.models.generation import generate
from tests.models.ttt.cases import make_tokens
from ttt_mlflow.kernels.overlapped.launch import product
from ttt_mlflow.kernels.overlapped.tiles import index_in
from ttt_mlflow.kernels.overlapped.tuning import (
    HALF,
    LONG,
    PAIR,
    SHORT,
    TABLE,
    WIDE,
    StagedTiling,
    Tiling,
    Tuning,
    padded_batch,
)
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED, VOCAB_SIZE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
WIDTHS = {"heads": 32, "dim": 64, "intermediate": 5504, "vocab": 5000, "layers": 2}
NETS = ["mlp_1_dual_triton", "mlp_2_dual_triton"]


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9, 16, 17, 32, 64, 100, 128])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_steps_match_float64(kind: str, batch: int) -> None:
    """From the middle of a mini-batch across its end, at the 1b widths; all buffers poisoned before each step."""
    distances = check_step(kind, batch, tokens=4, position=13, device=DEVICE, **WIDTHS)
    print(f"\n{kind} batch {batch}: kernel and twin from float64: {[f'{a:.1e} {b:.1e}' for a, b in distances]}")


@pytest.mark.parametrize(
    "changed",
    [
        {"flight": 2},
        {"flight": 4, "tiles": 4},
        {"warps": 2, "tiles": 2},
        {"warps": 8},
        {"columns": 1024},
        {"span": 256},
    ],
    ids=str,
)
@pytest.mark.parametrize(("kind", "batch"), [("linear", 4), ("linear", 8), ("mlp", 16)])
def test_other_tilings(kind: str, batch: int, changed: dict[str, int]) -> None:
    present = getattr(TABLE[batch], f"ttt_{kind}")
    products = ("projection", "output", "gate_up", "down", "head")
    tuning = replace(present, **{name: replace(getattr(present, name), **changed) for name in products})
    check_step(kind, batch, tokens=3, position=14, device=DEVICE, tuning=tuning, **WIDTHS)


@pytest.mark.parametrize(
    "changed",
    [
        {"flight": 1},
        {"stages": 2},
        {"step": 256, "stages": 3},
        {"rows": 128, "warps": 8, "stages": 3},
        {"rows": 128, "stages": 2},
        {"parts": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize(("kind", "batch"), [("linear", 16), ("mlp", 40)])
def test_other_ways_through_shared_memory(kind: str, batch: int, changed: dict[str, int]) -> None:
    present = Tuning.of("ttt_mlp" if kind == "mlp" else "ttt_linear", batch, staged=True)
    assert isinstance(present.head, StagedTiling)
    every = replace(SHORT, **{"stages": 6, **changed})
    parted = replace(every, parts=changed.get("parts", 3))
    tuning = replace(present, projection=every, output=parted, gate_up=every, down=parted, head=every)
    check_step(kind, batch, tokens=3, position=14, device=DEVICE, tuning=tuning, **WIDTHS)


@pytest.mark.parametrize("tiling", [LONG, SHORT, replace(SHORT, rows=128, stages=4)], ids=str)
@pytest.mark.parametrize("batch", [1, 9, 100])
@pytest.mark.parametrize(("n", "k"), [(16, 8), (72, 200), (330, 2048)])
def test_products_that_fill_no_tile(tiling: StagedTiling, batch: int, n: int, k: int) -> None:
    """Rows and columns beyond the end are read as zeros and not written; of equal logits the first is found."""
    generator, dtype = torch.Generator(DEVICE).manual_seed(n), torch.bfloat16 if batch == 9 else torch.float16
    tiling = replace(tiling, stages=min(tiling.stages, 4))
    x = torch.randint(-2, 3, (batch, k), generator=generator, device=DEVICE).to(dtype)
    w = torch.randint(-1, 2, (n, k), generator=generator, device=DEVICE).to(dtype)
    w[n // 2 :] = w[: n - n // 2]
    out = torch.full((batch, n + 8), float("nan"), dtype=dtype, device=DEVICE)
    best = torch.full((padded_batch(batch), tiling.programs_of(n)), -1, dtype=torch.int64, device=DEVICE)
    product(x, w, out[:, :n], best=best, words=n - 3, tiling=tiling, overlap=False)
    exact = (x.double() @ w.double().T).to(dtype)
    assert torch.equal(out[:, :n], exact)
    assert out[:, n:].isnan().all()
    assert index_in(best.amax(1))[:batch].tolist() == exact[:, : n - 3].float().argmax(1).tolist()


@pytest.mark.parametrize("changed", [{"held": False}, {"held": True, "head_warps": 8}, {"norm_warps": 4}], ids=str)
@pytest.mark.parametrize(("kind", "batch"), [("linear", 1), ("linear", 8), ("mlp", 2), ("mlp", 16), ("linear", 64)])
def test_other_choices(kind: str, batch: int, changed: dict[str, Any]) -> None:
    tuning = replace(Tuning.of("ttt_mlp" if kind == "mlp" else "ttt_linear", batch, staged=True), **changed)
    check_step(kind, batch, tokens=3, position=14, device=DEVICE, tuning=tuning, **WIDTHS)


@pytest.mark.parametrize(
    ("tiling", "n", "k", "kind"),
    [
        (WIDE, 6208, 2048, {}),
        (HALF, 2048, 2048, {"partial": True}),
        (PAIR, 11008, 2048, {"gated": True}),
        (WIDE, 2048, 5504, {"partial": True}),
        (SHORT, 6208, 2048, {}),
        (replace(SHORT, parts=3), 2048, 5504, {"partial": True}),
        (LONG, 11008, 2048, {"gated": True}),
    ],
    ids=str,
)
def test_tiles_on_their_way_change_no_bit(tiling: Tiling | StagedTiling, n: int, k: int, kind: dict[str, bool]) -> None:
    check_flight(tiling, n, k, device=DEVICE, **kind)
    if isinstance(tiling, StagedTiling):
        check_flight(tiling, n, k, batch=48, device=DEVICE, **kind)


@pytest.mark.parametrize("shape", [{"heads": 2, "dim": 32, "intermediate": 72}, {"heads": 12, "intermediate": 2048}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_widths_and_dtypes(shape: dict[str, int], dtype: torch.dtype) -> None:
    check_step("mlp", 2, tokens=18, device=DEVICE, dtype=dtype, **shape)
    check_step("mlp", 20, tokens=18, device=DEVICE, dtype=dtype, **shape)


@pytest.mark.parametrize("batch", [1, 7, 16, 40, 128])
@pytest.mark.parametrize("inner_net", NETS)
def test_eager_and_graph_give_the_same_tokens(inner_net: str, batch: int) -> None:
    model = varied_model(inner_net, torch.float16)
    model.use(OVERLAPPED)
    prompt = make_tokens(batch, 5, VOCAB_SIZE).to(DEVICE)
    decoder = ModelDecoder(model, batch, DEVICE)
    eager = generate(decoder, prompt, 64)
    assert all(sequence.unique().numel() > 32 for sequence in eager), "tokens that hardly vary say nothing"
    assert_same_tokens(generate(decoder, prompt, 64), eager)
    decoder.compile()
    decoder.capture()
    assert_same_tokens(generate(decoder, prompt, 64), eager)
    decoder.close()


@pytest.mark.parametrize("batch", [1, 16, 128])
@pytest.mark.parametrize("inner_net", NETS)
def test_logits_are_those_of_the_kernels_one_by_one(inner_net: str, batch: int) -> None:
    """The same numbers but for the order of the products' sums. Prints how many greedy tokens are the same."""
    model = varied_model(inner_net, torch.float16)
    tokens = make_tokens(batch, 40, VOCAB_SIZE).to(DEVICE)
    logits: list[list[Tensor]] = []
    for path in (LAUNCHES, OVERLAPPED):
        model.use(path)
        state = model.new_state(batch)
        logits.append([model.step(one, state).clone() for one in tokens.unbind(1)])
    same = [float((a.argmax(-1) == b.argmax(-1)).float().mean()) for a, b in zip(*logits, strict=True)]
    far = max(distance(a, b) for a, b in zip(*logits, strict=True))
    print(
        f"\n{inner_net} batch {batch}: {100 * sum(same) / len(same):.1f} % of the tokens are the same, {far:.1e} apart"
    )
    assert far < 2e-2
