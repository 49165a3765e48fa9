"""A whole decode step on a GPU, as one kernel and as kernels that overlap: right, in a graph too, and never endless."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.test_decode_gpu import DEVICE, assert_same_tokens, varied_model
from tests.kernels.persistent_cases import check_step, converted, distance, make_step
from tests.models.generation import generate
from tests.models.ttt.cases import make_tokens
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep, Tuning
from ttt_mlflow.kernels.persistent.launch import PersistentStep, Stuck
from ttt_mlflow.kernels.persistent.tensors import StepTensors
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.ttt.config import DECODE_PATHS, LAUNCHES, OVERLAPPED, VOCAB_SIZE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
WIDTHS = {"heads": 32, "dim": 64, "intermediate": 5504, "vocab": 5000, "layers": 2}
NETS = ["mlp_1_dual_triton", "mlp_2_dual_triton"]
STEPS = [PersistentStep, OverlappedStep]
WHOLE = [path for path in DECODE_PATHS if path != LAUNCHES]


def converted_to_gpu() -> StepTensors:
    return converted(make_step("linear", 1), lambda x: x.clone().to(DEVICE))


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9, 16])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("whole", STEPS)
def test_steps_match_float64(whole: type, kind: str, batch: int) -> None:
    """From the middle of a mini-batch across its end, at the 1b widths; all buffers poisoned before each step."""
    distances = check_step(kind, batch, tokens=4, position=13, device=DEVICE, whole=whole, **WIDTHS)
    print(f"\n{kind} batch {batch}: kernel and twin from float64: {[f'{a:.1e} {b:.1e}' for a, b in distances]}")


@pytest.mark.parametrize(
    "changed",
    [{"flight": 1}, {"warps": 2, "tiles": 2}, {"warps": 8}, {"columns": 1024}, {"span": 256}, {"held": False}],
    ids=str,
)
@pytest.mark.parametrize(("kind", "batch"), [("linear", 1), ("linear", 8), ("mlp", 16)])
def test_overlapping_kernels_with_other_choices(kind: str, batch: int, changed: dict[str, Any]) -> None:
    tuning = replace(Tuning.of(kind == "mlp", batch), **changed)
    check_step(kind, batch, tokens=3, position=14, device=DEVICE, whole=OverlappedStep, tuning=tuning, **WIDTHS)


@pytest.mark.parametrize("shape", [{"heads": 2, "dim": 32, "intermediate": 72}, {"heads": 12, "intermediate": 2048}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("whole", STEPS)
def test_other_widths_and_dtypes(whole: type, shape: dict[str, int], dtype: torch.dtype) -> None:
    check_step("mlp", 2, tokens=18, device=DEVICE, dtype=dtype, whole=whole, **shape)


@pytest.mark.parametrize("batch", [1, 7, 16])
@pytest.mark.parametrize("inner_net", NETS)
@pytest.mark.parametrize("path", WHOLE)
def test_eager_and_graph_give_the_same_tokens(path: str, inner_net: str, batch: int) -> None:
    model = varied_model(inner_net, torch.float16)
    model.use(path)
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
@pytest.mark.parametrize("path", WHOLE)
def test_logits_are_those_of_the_kernels_one_by_one(path: str, inner_net: str, batch: int) -> None:
    """The same numbers but for the order of the products' sums. Prints how many greedy tokens are the same."""
    model = varied_model(inner_net, torch.float16)
    tokens = make_tokens(batch, 40, VOCAB_SIZE).to(DEVICE)
    logits: list[list[Tensor]] = []
    for decode_path in (LAUNCHES, path):
        model.use(decode_path)
        state = model.new_state(batch)
        logits.append([model.step(one, state).clone() for one in tokens.unbind(1)])
    same = [float((a.argmax(-1) == b.argmax(-1)).float().mean()) for a, b in zip(*logits, strict=True)]
    far = max(distance(a, b) for a, b in zip(*logits, strict=True))
    print(
        f"\n{path} {inner_net} batch {batch}: {100 * sum(same) / len(same):.1f} % of the tokens are the same, "
        f"{far:.1e} apart"
    )
    assert far < 2e-2


def test_programs_that_wait_in_vain_end_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a program never came: fewer have arrived than are waited for, at every meeting."""
    step = converted_to_gpu()
    mine = PersistentStep(step, 1)
    mine.constants["PATIENCE"] = 1000
    fed = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    monkeypatch.setattr(mine.arrived, "zero_", lambda: mine.arrived.fill_(-1))
    mine(fed, fed)
    torch.cuda.synchronize()
    with pytest.raises(Stuck, match="decode_path=launches"):
        mine.check()


def test_the_next_launch_after_one_that_was_stuck_does_not_wait_for_it() -> None:
    step = converted_to_gpu()
    mine = PersistentStep(step, 1)
    fed = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    mine.arrived.fill_(-7)
    mine(fed, fed)
    torch.cuda.synchronize()
    mine.check()


@pytest.mark.parametrize("batch", [17, 128])
@pytest.mark.parametrize("inner_net", NETS)
def test_a_layers_kernels_that_overlap_give_the_same_bits(inner_net: str, batch: int) -> None:
    """More sequences than the kernels of a whole step take: the kernels of launches, only started earlier."""
    model = varied_model(inner_net, torch.float16)
    prompt = make_tokens(batch, 3, VOCAB_SIZE).to(DEVICE)
    found = []
    for path in (LAUNCHES, OVERLAPPED):
        model.use(path)
        decoder = ModelDecoder(model, batch, DEVICE)
        assert decoder.state.whole_step is None
        for _ in range(2):
            found.append(generate(decoder, prompt, 40))
        decoder.compile()
        decoder.capture()
        for _ in range(3):
            found.append(generate(decoder, prompt, 40))
        decoder.close()
    for one in found:
        assert_same_tokens(one, found[0])
