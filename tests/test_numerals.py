"""One rule for numbers, wherever they are given."""

import math
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ttt_mlflow.config import CompareConfig, MicroConfig, RunConfig
from ttt_mlflow.config.numbers import LARGEST, LONGEST_S
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.numerals import fraction, significant, whole

NOT_DIGITS = [
    "1_0",
    "4.0",
    "+1",
    "-1",
    "１０",
    "٣",
    "1e3",
    "NaN",
    "inf",
    "",
    " 8",
    "8 ",
    "8\n",
    "0x10",
    "²",
    "1,0",
    "True",
]
NOT_FRACTIONS = [
    "1_0",
    "+1",
    "-1",
    "１.５",
    "nan",
    "inf",
    "",
    " 8",
    "8 ",
    "1e400",
    "1e",
    "e3",
    ".",
    "1.2.3",
    "1e2e3",
    "1,5",
]
numerals = st.text(alphabet="0123456789.eE+-_ ٣１\n", max_size=8)


@pytest.mark.parametrize("text", NOT_DIGITS)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        whole(text)


@pytest.mark.parametrize("text", NOT_FRACTIONS)
def test_what_is_no_fraction(text: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        fraction(text)


@pytest.mark.parametrize("value", [True, 4.0, -1, None, b"4", [4], float("nan")])
def test_what_is_no_count_in_python(value: Any) -> None:
    with pytest.raises(ValueError, match="digits"):
        whole(value)


@pytest.mark.parametrize("value", [True, -0.5, None, b"4", float("nan"), float("inf"), 10**400])
def test_what_is_no_fraction_in_python(value: Any) -> None:
    with pytest.raises(ValueError, match="digits"):
        fraction(value)


@pytest.mark.properties
@given(text=numerals)
@example(text="1" * 41)
def test_a_count_is_ascii_digits_alone(text: str) -> None:
    if re.fullmatch("[0-9]{1,40}", text):
        assert whole(text) == int(text)
    else:
        with pytest.raises(ValueError, match="digits"):
            whole(text)


@pytest.mark.properties
@given(text=numerals)
def test_a_fraction_is_what_it_says(text: str) -> None:
    try:
        found = fraction(text)
    except ValueError:
        return
    assert re.fullmatch(r"[0-9.]+([eE][+-]?[0-9]+)?", text)
    assert found == float(text)
    assert math.isfinite(found)


@pytest.mark.properties
@given(number=st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_what_a_record_shows_can_be_given_again(number: float) -> None:
    assert fraction(str(number)) == number


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((RunConfig, name) for name in ("batch", "promptlen", "genlen", "warmup", "repeats", "retry_invalid", "seed")),
        *((MicroConfig, name) for name in ("batches", "heads", "head_dim", "seed")),
    ],
)
@pytest.mark.parametrize("text", ["1_0", "4.0", "+1", "１０", "1e3", "NaN", "9" * 20, 4.0, True])
def test_every_count_of_a_configuration(kind: Any, name: str, text: Any) -> None:
    with pytest.raises(BadInput, match=f"^{name}={re.escape(str(text))}: not allowed; {name} takes .*whole number"):
        kind.parse({name: text})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RunConfig, "precision_pct"),
        (RunConfig, "max_seconds"),
        (MicroConfig, "seconds"),
        (CompareConfig, "resolution"),
        (CompareConfig, "fail_above"),
    ],
)
@pytest.mark.parametrize("text", ["1_0", "+1", "１０", "NaN", "1e400", "1.2.3", "-1", True, float("nan")])
def test_every_fraction_of_a_configuration(kind: Any, name: str, text: Any) -> None:
    given = {"baseline": "a", "candidate": "b"} if kind is CompareConfig else {}
    with pytest.raises(BadInput, match=f"^{name}={re.escape(str(text))}: not allowed"):
        kind.parse({name: text, **given})


def test_the_largest_values() -> None:
    assert RunConfig.parse({"batch": str(LARGEST)}).batch == LARGEST
    with pytest.raises(BadInput, match=f"at most {LARGEST}, in digits alone"):
        RunConfig.parse({"batch": str(LARGEST + 1)})
    assert RunConfig.parse({"max_seconds": "1e8"}).max_seconds == LONGEST_S
    with pytest.raises(BadInput, match="at most 100000000"):
        RunConfig.parse({"max_seconds": "1.1e8"})
    assert RunConfig.parse({"seed": str(2**63 - 1)}).seed == 2**63 - 1


@pytest.mark.parametrize("text", ["1_0", "+1", "nan", "-1", "１"])
def test_thresholds_follow_the_rule(text: str) -> None:
    name = next(iter(Thresholds().as_dict()))
    with pytest.raises(ValueError, match="not a number of at least 0"):
        Thresholds.parse([f"{name}={text}"])


@pytest.mark.parametrize(
    ("value", "digits", "sign", "shown"),
    [
        (0.01234, 4, "", "0.01234"),
        (15.331, 4, "", "15.33"),
        (66_787.2, 4, "", "66,787"),
        (99.4, 2, "", "99"),
        (99.6, 2, "", "100"),
        (895.2, 2, "", "895"),
        (1_063.4, 3, "", "1,063"),
        (1_063.4, 3, "+", "+1,063"),
        (-1_063.4, 3, "+", "-1,063"),
        (1e6, 6, "", "1,000,000"),
        (math.inf, 3, "", "inf"),
    ],
)
def test_a_number_for_people_has_no_exponent_if_it_is_large(value: float, digits: int, sign: str, shown: str) -> None:
    assert significant(value, digits, sign) == shown
