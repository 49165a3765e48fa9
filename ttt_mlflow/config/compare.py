"""The configuration of a comparison."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from ttt_mlflow.config.base import Configuration
from ttt_mlflow.config.numbers import Fraction
from ttt_mlflow.config.values import Switch, Word, without_sign

SIDE_TAKES = (
    "a run id, a run name, a local record, a parent run, a git commit or tag, an MLflow filter, latest or latest~1"
)
RUN_NAME_LENGTH = 200


def _texts(value: Any) -> Any:
    """One text, or several; a text may hold commas."""
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[Word, ...], BeforeValidator(_texts)]
Limit = Annotated[Fraction | None, BeforeValidator(without_sign)]


class CompareConfig(Configuration):
    """One comparison of two sides, as it was given."""

    entry_point = "compare"
    how_measured = (
        "resolution",
        "strict",
        "include_invalid",
        "fail_above",
        "inconclusive_ok",
        "allow_missing",
        "format",
    )
    identity = ("baseline", "candidate")
    takes: ClassVar[Mapping[str, str]] = {
        "baseline": SIDE_TAKES,
        "candidate": SIDE_TAKES,
        "resolution": "a percentage above 0",
        "strict": "true or false",
        "include_invalid": "true or false",
        "fail_above": "a percentage of at least 0, for example 2%",
        "inconclusive_ok": "true or false",
        "allow_missing": "true or false",
        "format": "text, markdown, json, junit or html",
    }

    baseline: Texts = Field(default=(), description=f"what is compared with: {SIDE_TAKES}")
    candidate: Texts = Field(default=(), description=f"what may be faster or slower: {SIDE_TAKES}")
    resolution: Annotated[Fraction, BeforeValidator(without_sign), Field(gt=0)] = Field(
        default=1.0, description="a confidence interval wider than ± this percentage says nothing: cannot tell"
    )
    strict: Switch = Field(
        default=False,
        description="what is not the same on both sides, or a verdict that is not valid, makes its pair *cannot tell*",
    )
    include_invalid: Switch = Field(default=False, description="compare invalid runs like others")
    fail_above: Limit = Field(
        default=None, description="percentage; exit code 1 if a pair is slower by more, 5 if that cannot be told"
    )
    inconclusive_ok: Switch = Field(default=False, description="*cannot tell* passes the gate")
    allow_missing: Switch = Field(default=False, description="a baseline without a candidate passes the gate")
    format: Literal["text", "markdown", "json", "junit", "html"] = Field(
        default="text", description="text, markdown, json, junit or html"
    )

    @property
    def run_name(self) -> str:
        """For example ``compare v1.0 with latest``."""
        sides = (texts[0] if len(texts) == 1 else f"{len(texts)} runs" for texts in (self.baseline, self.candidate))
        return " with ".join(sides).join(("compare ", ""))[:RUN_NAME_LENGTH]
