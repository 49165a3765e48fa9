"""Numbers in texts: one rule for those that are given, and one for those that are shown to people.

The first holds on the command line, for ``-P``, YAML and Python: what is shown is what is used.

A count is ASCII digits alone. A fraction is digits with at most one point and one exponent. Python's own ``int`` and
``float`` take far more: ``1_0``, ``+1``, digits of other scripts, ``nan``.
"""

import math
import re
from contextlib import suppress
from typing import Any

DIGITS = re.compile(r"[0-9]{1,40}")
FRACTION = re.compile(r"(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")


def whole(value: Any) -> int:
    """A whole number of at least 0. Raises ValueError for any other value and any other spelling."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value)
    if type(value) is int and value >= 0:
        return value
    raise ValueError("not digits alone")


def fraction(value: Any) -> float:
    """A finite number of at least 0. Raises ValueError for any other value and any other spelling."""
    if type(value) in (int, float) or (isinstance(value, str) and FRACTION.fullmatch(value)):
        with suppress(OverflowError):
            number = float(value)
            if number >= 0 and math.isfinite(number):
                return number
    raise ValueError("not digits with at most one point and one exponent")


def significant(value: float, digits: int, sign: str = "") -> str:
    """``digits`` significant digits, or all digits before the decimal point: ``66,787``, ``15.3``, ``0.012``.

    Of a large value, ``.3g`` would write an exponent. sign: ``+`` for a change, which then always has one.
    """
    whole_digits = min(digits, 3)  # more of them have a comma
    if abs(value) >= 10**whole_digits - 10 ** (whole_digits - digits) / 2:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.{digits}g}"
