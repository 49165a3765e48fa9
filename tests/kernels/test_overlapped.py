"""What overlapping kernels take, and how products are divided. Its numbers: interpreted.py and tests/gpu."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.step_cases import make_step
from ttt_mlflow.kernels.overlapped.launch import TABLE, OverlappedStep, Tiling, Tuning, product
from ttt_mlflow.kernels.overlapped.product import chunks, splits
from ttt_mlflow.kernels.overlapped.shape import LARGEST_BATCH, StepShape, unsupported
from ttt_mlflow.kernels.overlapped.tiles import LANE_COLUMNS

SHAPE = StepShape(2048, 5504, 64, 6208, 50304, is_mlp=False)
CPU = torch.device("cpu")


def reason(batch: int = 1, dtype: torch.dtype = torch.float16, **changed: object) -> str | None:
    return unsupported(replace(SHAPE, **changed), batch, dtype, CPU)  # type: ignore[arg-type]


def test_what_it_takes() -> None:
    assert [reason(batch) for batch in (1, 16)] == [None, None]
    assert reason(head_dim=128) is None
    assert reason(is_mlp=True) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": 17}, "batch=17: it takes 1 to 16 sequences"),
        ({"dtype": torch.float32}, "dtype=float32: it takes float16 and bfloat16"),
        ({"head_dim": 96}, "heads of 96: it takes powers of two from 16 on"),
        ({"head_dim": 128, "is_mlp": True}, "TTT-MLP with heads of 128: it takes up to 64"),
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
    with pytest.raises(ValueError, match="17 sequences: kernels that overlap take 1 to 16"):
        Tuning.of(is_mlp=False, batch=17)


@pytest.mark.parametrize(("batch", "n", "k"), [(17, 32, 64), (0, 32, 64), (1, 24, 64), (1, 32, 66)])
def test_products_that_are_refused(batch: int, n: int, k: int) -> None:
    """A thread's 16 bytes begin at a multiple of 16 only if every row has a multiple of eight columns."""
    x, w, out = torch.zeros(batch, k), torch.zeros(n, k), torch.zeros(batch, n)
    said = (
        f"{batch} sequences, weight of {n} x {k}: it takes 1 to 16 sequences, rows in multiples of 16 and columns in "
    )
    with pytest.raises(ValueError, match=said):
        product(x, w, out, tiling=Tiling(), overlap=False)


def test_every_batch_has_a_choice() -> None:
    for batch in range(1, LARGEST_BATCH + 1):
        for is_mlp in (False, True):
            rows = [most for most in TABLE if batch <= most]
            assert Tuning.of(is_mlp, batch) == TABLE[min(rows)][is_mlp]


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
