"""Configurations from anywhere: one line for each fault, or a configuration that everything can use."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.record.damage import VALUES
from ttt_mlflow.config import CONFIGURATIONS, Configuration
from ttt_mlflow.errors import BadInput

WORDS = st.sampled_from(
    ["auto", "none", "true", "0", "1", "-1", "1e9", "1e999", "nan", "9" * 400, "a,b", ",", "ttt-1b"]
)
KINDS = st.sampled_from(sorted(CONFIGURATIONS.items()))


def some(kind: type[Configuration]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(kind.model_fields)), VALUES | WORDS, min_size=1, max_size=4)


CASES = KINDS.flatmap(lambda one: st.tuples(st.just(one[1]), some(one[1])))


@pytest.mark.properties
@given(case=CASES)
def test_values_are_used_or_refused_in_one_line(case: tuple[type[Configuration], dict[str, Any]]) -> None:
    kind, values = case
    said = ""
    try:
        config = kind.parse(values)
    except BadInput as error:
        said = str(error)
    if said:
        assert all(any(line.startswith(name) for name in values) for line in said.splitlines()), said
        return
    assert kind.parse(config.model_dump(mode="json")) == config
    json.dumps(config.as_params())
    assert "\n" not in config.run_name
