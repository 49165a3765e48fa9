import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.measurement.thresholds import MEANINGS, NAMES, Thresholds


def test_without_settings_the_defaults() -> None:
    assert Thresholds.parse(()) == Thresholds()
    assert set(Thresholds().as_dict()) == set(NAMES) == set(MEANINGS)


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(min_value=0, allow_infinity=False), max_size=len(NAMES)))
def test_what_is_set_is_set_and_the_rest_stays(values: dict[str, float]) -> None:
    found = Thresholds.parse(f" {name} = {value!r} " for name, value in values.items()).as_dict()
    assert found == Thresholds().as_dict() | values


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["drift"], "drift: not name=value with one of the names"),
        (["drft_pct=1"], "drft_pct=1: not name=value with one of the names"),
        (["drift_pct=much"], "drift_pct=much: not a number"),
        (["drift_pct="], "drift_pct=: not a number"),
        (["drift_pct=-1"], "drift_pct=-1: not a number of at least 0"),
        (["drift_pct=nan"], "drift_pct=nan: not a number of at least 0"),
        (["drift_pct=inf"], "drift_pct=inf: not a number of at least 0"),
        (["drift_pct=1", "drift_pct=2"], "drift_pct is set twice"),
    ],
)
def test_what_is_no_threshold_is_refused(settings: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        Thresholds.parse(settings)
