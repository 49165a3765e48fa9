"""The color of a run: the same for a model and inner net everywhere, gray for what is not valid."""

import re
from itertools import combinations

import pytest

from ttt_mlflow.tracking.run_color import GRAY, NOT_VALID, color_of, series_of

VALID = {"ttt.verdict": "valid", "ttt.status": "ok"}
COMPARED = (
    "ttt-1b mlp_1_dual_triton",
    "ttt-1b mlp_2_dual_triton",
    "ttt-125m mlp_1_dual_triton",
    "state-spaces/mamba-1.4b",
    "state-spaces/mamba2-1.3b",
    "gated-deltanet-1.3b",
    "rwkv7-1.3b",
    "transformer-1b",
    "transformer-1b-gqa4",
    "ttt-1b mlp_1_dual",
    "ttt-1b mlp_2_dual",
)


@pytest.mark.parametrize(
    ("params", "tags", "series"),
    [
        ({"model_name": "ttt-1b", "inner_net": "mlp_1_dual"}, VALID, "ttt-1b mlp_1_dual"),
        ({"model_name": "state-spaces/mamba-1.4b"}, VALID, "state-spaces/mamba-1.4b"),
        ({"model_name": "ttt-1b"}, {**VALID, "ttt.verdict": "invalid"}, NOT_VALID),
        ({"model_name": "ttt-1b"}, {**VALID, "ttt.verdict": "unjudged"}, NOT_VALID),
        ({"model_name": "ttt-1b"}, {**VALID, "ttt.status": "killed"}, NOT_VALID),
        ({"model_name": "ttt-1b"}, {"ttt.status": "oom"}, NOT_VALID),
        ({"kernels": "mlp_1_dual"}, VALID, None),
    ],
)
def test_series(params: dict[str, str], tags: dict[str, str], series: str | None) -> None:
    assert series_of(params, tags) == series


def channels(color: str) -> list[int]:
    assert re.fullmatch("#[0-9a-f]{6}", color)
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]


def test_compared_series_are_told_apart() -> None:
    for one, other in combinations([*map(color_of, COMPARED), GRAY], 2):
        difference = sum(abs(left - right) for left, right in zip(channels(one), channels(other), strict=True))
        assert difference > 60, (one, other)


def test_a_model_of_another_package_has_a_color_that_does_not_change() -> None:
    assert color_of("their-model-7b their_net") == color_of("their-model-7b their_net") == "#e59549"
    assert color_of(NOT_VALID) == GRAY
