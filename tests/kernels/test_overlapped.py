"""What overlapping kernels take, and how products are divided. Its numbers: interpreted.py and tests/gpu."""

from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.step_cases import make_step, make_transformer_step
from ttt_mlflow.kernels import launch
from ttt_mlflow.kernels.attention.reference import decode_attention
from ttt_mlflow.kernels.overlapped.launch import OverlappedStep, product
from ttt_mlflow.kernels.overlapped.product import chunks, splits
from ttt_mlflow.kernels.overlapped.shape import LARGEST_BATCH, LARGEST_STAGED, StepShape, unsupported
from ttt_mlflow.kernels.overlapped.tiles import LANE_COLUMNS
from ttt_mlflow.kernels.overlapped.transformer import TransformerStep
from ttt_mlflow.kernels.overlapped.tuning import SHARED_BYTES, STAGED, TABLE, Model, StagedTiling, Tiling, Tuning

SHAPE = StepShape(2048, 5504, 64, 6208, 50304, "ttt_linear")
CPU = torch.device("cpu")
LOADS_OPERANDS = "ttt_mlflow.kernels.overlapped.tuning.loads_operands"


def reason(batch: int = 1, dtype: torch.dtype = torch.float16, **changed: object) -> str | None:
    return unsupported(replace(SHAPE, **changed), batch, dtype, CPU)  # type: ignore[arg-type]


def test_what_it_takes() -> None:
    assert [reason(batch) for batch in (1, 16)] == [None, None]
    assert reason(head_dim=128) is None
    assert reason(model="ttt_mlp") is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": 17}, "batch=17: it takes 1 to 16 sequences"),
        ({"dtype": torch.float32}, "dtype=float32: it takes float16 and bfloat16"),
        ({"head_dim": 96}, "heads of 96: it takes powers of two from 16 on"),
        ({"head_dim": 128, "model": "ttt_mlp"}, "TTT-MLP with heads of 128: it takes up to 64"),
        ({"width": 2056}, "hidden size of 2056: it takes multiples of 16"),
        ({"intermediate": 5500}, "feed-forward of 5500: it takes multiples of 8"),
    ],
    ids=str,
)
def test_what_it_refuses(given: dict[str, object], said: str) -> None:
    assert reason(**given) == said  # type: ignore[arg-type]


def test_a_step_of_more_is_refused() -> None:
    with pytest.raises(ValueError, match="a whole step: batch=17: it takes 1 to 16 sequences"):
        OverlappedStep(make_step("linear", 17, layers=1), 17)
    for batch, changed, said in (
        (17, {}, "batch=17: it takes 1 to 16 sequences"),
        (1, {"dim": 8}, "heads of 8: it takes powers of two from 16 on"),
        (1, {"intermediate": 84}, "feed-forward of 84: it takes multiples of 8"),
        (1, {"dtype": torch.float32}, "dtype=float32: it takes float16 and bfloat16"),
    ):
        tensors = make_transformer_step(batch, layers=1, **changed)
        with pytest.raises(ValueError, match=f"a whole step: {said}"):
            TransformerStep(tensors, batch, lambda overlap: partial(decode_attention, heads=2))
    for staged, most in ((False, 16), (True, 128)):
        said = f"{most + 1} sequences: kernels that overlap take 1 to {most} on this GPU"
        with pytest.raises(ValueError, match=said):
            Tuning.of("ttt_linear", batch=most + 1, staged=staged)


@pytest.mark.parametrize(
    ("capability", "largest"), [((8, 0), 16), ((9, 0), 128), ((10, 0), 16), ((12, 0), 16)], ids=str
)
def test_only_hopper_takes_more(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], largest: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    launch._capability.cache_clear()
    gpu = torch.device("cuda")
    try:
        assert unsupported(SHAPE, largest, torch.float16, gpu) is None
        said = f"batch={largest + 1}: it takes 1 to {largest} sequences"
        assert unsupported(SHAPE, largest + 1, torch.float16, gpu) == said
    finally:
        launch._capability.cache_clear()


@pytest.mark.parametrize(("batch", "n", "k", "gated"), [(129, 32, 64, False), (1, 32, 66, False), (1, 33, 64, True)])
def test_staged_products_that_are_refused(batch: int, n: int, k: int, gated: bool) -> None:
    x, w, out = torch.zeros(batch, k), torch.zeros(n, k), torch.zeros(batch, n)
    said = f"{batch} sequences, weight of {n} x {k}: it takes 1 to 128 sequences"
    with pytest.raises(ValueError, match=said):
        product(x, w, out, gated=gated, tiling=StagedTiling(), overlap=False)


@pytest.mark.parametrize(("batch", "n", "k"), [(17, 32, 64), (0, 32, 64), (1, 24, 64), (1, 32, 66)])
def test_products_that_are_refused(batch: int, n: int, k: int) -> None:
    """A thread's 16 bytes begin at a multiple of 16 only if every row has a multiple of eight columns."""
    x, w, out = torch.zeros(batch, k), torch.zeros(n, k), torch.zeros(batch, n)
    said = (
        f"{batch} sequences, weight of {n} x {k}: it takes 1 to 16 sequences, rows in multiples of 16 and columns in "
    )
    with pytest.raises(ValueError, match=said):
        product(x, w, out, tiling=Tiling(), overlap=False)


def test_every_batch_has_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOADS_OPERANDS, lambda: True)
    for staged, table in ((False, TABLE), (True, TABLE | STAGED)):
        assert max(table) == (LARGEST_STAGED if staged else LARGEST_BATCH)
        for batch in range(1, max(table) + 1):
            for model in get_args(Model):
                rows = [most for most in table if batch <= most]
                assert Tuning.of(model, batch, staged) == getattr(table[min(rows)], model)


@pytest.mark.parametrize("model", get_args(Model))
@pytest.mark.parametrize("batch", [1, 4, 5, 8, 9, 16, 128])
def test_an_older_triton_keeps_no_weights_in_registers(
    monkeypatch: pytest.MonkeyPatch, model: Model, batch: int
) -> None:
    """It moved them through shared memory by itself: on an H200, a step of one sequence took 1.71 ms, not 0.80."""
    monkeypatch.setattr(LOADS_OPERANDS, lambda: True)
    usual, elsewhere = Tuning.of(model, batch, staged=True), min(batch, 16)
    in_registers = Tuning.of(model, elsewhere, staged=False)
    monkeypatch.setattr(LOADS_OPERANDS, lambda: False)
    older = Tuning.of(model, batch, staged=True)
    assert all(isinstance(one, StagedTiling) for one in (older.projection, older.output, older.gate_up, older.down))
    assert (older.held, older.head_warps) == (usual.held, usual.head_warps)
    assert batch <= 8 or older == usual
    assert Tuning.of(model, elsewhere, staged=False) == in_registers, "the GPU has no other way"


def test_a_transformer_has_choices_of_its_own() -> None:
    """With shared KV heads, 6528 columns: in three parts, not in four, of which the last is nearly empty."""
    shared = [make_transformer_step(1, layers=1, **heads) for heads in ({"kv_heads": 2}, {"heads": 4, "kv_heads": 2})]
    steps = [TransformerStep(one, 1, lambda overlap: partial(decode_attention, heads=2)) for one in shared]
    assert [one.tuning for one in steps] == [TABLE[4].transformer, TABLE[4].shared_kv]
    assert (TABLE[4].ttt_linear.down.parts_of(6528), TABLE[4].shared_kv.down.parts_of(6528)) == (4, 3)


@pytest.mark.parametrize("batch", list(STAGED))
@pytest.mark.parametrize("name", ["projection", "output", "gate_up", "down", "head"])
def test_tiles_have_a_place_in_shared_memory(batch: int, name: str) -> None:
    for tuning in STAGED[batch]:
        tiling = getattr(tuning, name)
        assert isinstance(tiling, StagedTiling)
        assert tiling.shared_bytes(batch) <= SHARED_BYTES
        assert tiling.rows >= 16 * tiling.warps, "a warp has sixteen rows of the tensor cores' instruction"


@given(columns=st.integers(8, 8192), step=st.sampled_from([64, 128, 256]), parts=st.integers(1, 16))
def test_every_step_has_one_program(columns: int, step: int, parts: int) -> None:
    tiling = StagedTiling(step=step, parts=parts)
    found, each = tiling.parts_of(columns), tiling.steps_of(columns) * step
    assert 1 <= found <= parts
    assert (found - 1) * each < columns <= found * each


@given(
    columns=st.integers(1, 4096),
    least=st.sampled_from([4, 8, 16]),
    times=st.sampled_from([1, 2, 4]),
    most=st.integers(1, 4096),
)
def test_every_column_has_one_program(columns: int, least: int, times: int, most: int) -> None:
    span = least * LANE_COLUMNS * times
    parts, each = splits(columns, most, span), chunks(columns, most, span) * span
    assert (parts - 1) * each < columns <= parts * each
    assert each < most + span, "no program has more than it may, but for the last part"


@given(width=st.integers(1, 8192), tiling=st.builds(Tiling, warps=st.sampled_from([2, 4, 8, 16]), span=st.just(512)))
def test_a_part_has_columns_for_every_warp(width: int, tiling: Tiling) -> None:
    span = tiling.span_of(width)
    assert span & (span - 1) == 0
    assert span % (tiling.warps * LANE_COLUMNS) == 0
