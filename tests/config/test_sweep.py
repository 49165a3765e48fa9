"""What may be asked of a sweep: every parameter of a run, with one value or several."""

import pytest

from ttt_mlflow.config import RunConfig, SweepConfig
from ttt_mlflow.config.sweep import AXES
from ttt_mlflow.errors import BadInput


def test_every_parameter_of_a_run_is_there() -> None:
    assert set(RunConfig.model_fields) <= set(SweepConfig.model_fields)
    assert set(AXES) <= set(RunConfig.model_fields)


def test_several_values_of_an_axis_and_one_of_the_others() -> None:
    config = SweepConfig.parse(
        {"batch": " 1, 2 ,max", "thresholds": "drift_pct=1,section_s=2", "profile": "torch,nsys"}
    )
    assert config.of_runs == {
        "batch": ("1", "2", "max"),
        "thresholds": ("drift_pct=1,section_s=2",),
        "profile": ("torch,nsys",),
    }
    assert SweepConfig.parse(config.model_dump(mode="json")) == config
    assert SweepConfig.parse(config.as_params()) == config


def test_auto_is_not_given() -> None:
    assert SweepConfig.parse(dict.fromkeys(("preset", "grid", "batch", "device", "gpus"), "auto")) == SweepConfig()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"preset": "decode-2k", "genlen": "64"}, "sweep decode-2k"),
        ({"batch": "1,2"}, "sweep ttt-1b b1,2"),
        ({"model_name": "a,b", "batch": "1,2,3,4"}, "sweep a,b b1…4"),
        ({"grid": "/home/me/grids/small.yaml"}, "sweep small"),
    ],
)
def test_the_name(values: dict[str, str], name: str) -> None:
    assert SweepConfig.parse(values).run_name == name


def test_words_that_are_empty() -> None:
    with pytest.raises(
        BadInput, match="batch=1,: not allowed; batch takes values, comma-separated, none of them empty"
    ):
        SweepConfig.parse({"batch": "1,"})
