"""The grids that have a name."""

import pytest

from ttt_mlflow.config import RunConfig, SweepConfig
from ttt_mlflow.config.presets import PRESETS
from ttt_mlflow.config.sweep import AXES
from ttt_mlflow.errors import BadInput


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_asked_for_and_has_values_of_axes(name: str) -> None:
    assert SweepConfig.parse({"preset": name}).preset == name
    for block in PRESETS[name].blocks:
        assert set(block) <= set(AXES)
        for parameter, values in block.items():
            assert len(set(values)) == len(values)
            for value in values:
                RunConfig.parse({parameter: value})
    assert name in str(SweepConfig.model_fields["preset"].description)


def test_another_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="preset takes auto, or decode-2k or published-prefill or") as refused:
        SweepConfig.parse({"preset": "published"})
    assert all(name in str(refused.value) for name in PRESETS)


def test_the_longest_prompt_is_that_of_the_published_loops() -> None:
    prompts = [int(one) for preset in PRESETS.values() for block in preset.blocks for one in block.get("promptlen", ())]
    assert max(prompts) == 32768
