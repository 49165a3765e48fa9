"""The types of the fields that are numbers."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from ttt_mlflow.numerals import fraction, whole

LARGEST = 2**31 - 1  # of a count: the index of a tensor's dimension in most kernels
LONGEST_S = 1e8  # three years
AT_MOST = f", at most {LARGEST}, in digits alone"

Whole = Annotated[int, BeforeValidator(whole)]
Natural = Annotated[Whole, Field(ge=0, le=LARGEST)]
Count = Annotated[Whole, Field(ge=1, le=LARGEST)]
Fraction = Annotated[float, BeforeValidator(fraction)]
Seconds = Annotated[Fraction, Field(gt=0, le=LONGEST_S)]
