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
from ttt_mlflow.kernels.overlapped.launch import HALF, PAIR, WIDE, Tiling, Tuning
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED, VOCAB_SIZE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
WIDTHS = {"heads": 32, "dim": 64, "intermediate": 5504, "vocab": 5000, "layers": 2}
NETS = ["mlp_1_dual_triton", "mlp_2_dual_triton"]


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9, 16])
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
@pytest.mark.parametrize(("kind", "batch"), [("linear", 1), ("linear", 8), ("mlp", 16)])
def test_other_tilings(kind: str, batch: int, changed: dict[str, int]) -> None:
    present = Tuning.of(kind == "mlp", batch)
    normed, output, down = (replace(one, **changed) for one in (present.normed, present.output, present.down))
    tuning = replace(present, normed=normed, output=output, down=down)
    check_step(kind, batch, tokens=3, position=14, device=DEVICE, tuning=tuning, **WIDTHS)


@pytest.mark.parametrize("changed", [{"held": False}, {"held": True, "head_warps": 8}, {"norm_warps": 4}], ids=str)
@pytest.mark.parametrize(("kind", "batch"), [("linear", 1), ("linear", 8), ("mlp", 2), ("mlp", 16)])
def test_other_choices(kind: str, batch: int, changed: dict[str, Any]) -> None:
    tuning = replace(Tuning.of(kind == "mlp", batch), **changed)
    check_step(kind, batch, tokens=3, position=14, device=DEVICE, tuning=tuning, **WIDTHS)


@pytest.mark.parametrize(
    ("tiling", "n", "k", "kind"),
    [
        (WIDE, 6208, 2048, {}),
        (HALF, 2048, 2048, {"partial": True}),
        (PAIR, 11008, 2048, {"gated": True}),
        (WIDE, 2048, 5504, {"partial": True}),
    ],
    ids=str,
)
def test_tiles_on_their_way_change_no_bit(tiling: Tiling, n: int, k: int, kind: dict[str, bool]) -> None:
    check_flight(tiling, n, k, device=DEVICE, **kind)


@pytest.mark.parametrize("shape", [{"heads": 2, "dim": 32, "intermediate": 72}, {"heads": 12, "intermediate": 2048}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_widths_and_dtypes(shape: dict[str, int], dtype: torch.dtype) -> None:
    check_step("mlp", 2, tokens=18, device=DEVICE, dtype=dtype, **shape)


@pytest.mark.parametrize("batch", [1, 7, 16])
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


@pytest.mark.parametrize("batch", [1, 16])
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
