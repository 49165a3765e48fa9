"""How a product is divided among programs. Its numbers: interpreted.py and tests/gpu."""

from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.kernels.overlapped.launch import Tuning
from ttt_mlflow.kernels.overlapped.product import chunks, splits
from ttt_mlflow.kernels.persistent.products import LANE_COLUMNS


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


@given(width=st.integers(1, 8192), tuning=st.builds(Tuning, warps=st.sampled_from([4, 8, 16]), span=st.just(512)))
def test_a_part_has_columns_for_every_warp(width: int, tuning: Tuning) -> None:
    span = tuning.span_of(width)
    assert span & (span - 1) == 0
    assert span % (tuning.warps * LANE_COLUMNS) == 0
