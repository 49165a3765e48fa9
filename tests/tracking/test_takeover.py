import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric as MlflowMetric
from mlflow.entities import Param as MlflowParam
from mlflow.entities import Run, RunData, RunInfo, RunTag
from mlflow.projects import _project_spec

from tests.project import ROOT
from ttt_mlflow.tracking.takeover import ENTRY_POINTS, Candidate, params_of, why_not

PROJECT = _project_spec.load_project(str(ROOT))
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)


def written_by_mlflow(command: str, given_with_p: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The words of our command line, and the parameters in the run, as `mlflow run` makes both."""
    entry_point = PROJECT.get_entry_point(ENTRY_POINTS[command])
    final, extra = entry_point.compute_parameters(given_with_p, None)
    words = shlex.split(entry_point.compute_command(given_with_p, None))
    place = words.index(command)
    return words[place:], {**final, **extra}


@given(st.sampled_from(["run", "micro"]), st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_mlflow_run_writes_is_recognized(command: str, given_with_p: dict[str, str]) -> None:
    words, stored = written_by_mlflow(command, given_with_p)
    candidate = Candidate.of_words("1", words)
    assert candidate.possible
    assert why_not(a_run(params=stored, entry_point=ENTRY_POINTS[command]), candidate) is None


@given(st.lists(st.text(max_size=10), max_size=6))
def test_any_words(words: list[str]) -> None:
    params = params_of(words)
    assert params is None or all(isinstance(value, str) for value in params.values())


@pytest.mark.parametrize(
    ("words", "params"),
    [
        ([], {}),
        (["--batch=2"], {"batch": "2"}),
        (["--batch=2", "--inner_net", "mlp_2_dual"], {"batch": "2", "inner_net": "mlp_2_dual"}),
        (["--batch=", "--device", ""], {"batch": "", "device": ""}),
        (["--seed", "-1"], {"seed": "-1"}),
        (["--profile"], None),  # a person's words
        (["batch=2"], None),
        (["--batch=2", "--batch=3"], None),
    ],
)
def test_words(words: list[str], params: dict[str, str] | None) -> None:
    assert params_of(words) == params


def a_run(
    params: dict[str, str], entry_point: str = "main", status: str = "RUNNING", stage: str = "active", **more: Any
) -> Run:
    info = RunInfo("1", "0", "me", status, 0, None, stage)
    tags = {"mlflow.source.type": "PROJECT", "mlflow.project.entryPoint": entry_point, **more.get("tags", {})}
    data = RunData(
        metrics=more.get("metrics", []),
        params=[MlflowParam(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    return Run(info, data)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tags": {"mlflow.source.type": "LOCAL"}}, "`mlflow run` did not make it"),
        ({"entry_point": "train"}, "it belongs to another entry point"),
        ({"entry_point": "micro"}, "it belongs to another entry point"),
        ({"status": "FINISHED"}, "it is FINISHED"),
        ({"stage": "deleted"}, "it was deleted"),
        ({"metrics": [MlflowMetric("loss", 1.0, 0, 0)]}, "it has metrics"),
        ({"tags": {"ttt.journal_id": "20260101-000000-00000000"}}, "it belongs to another record"),
        ({"params": {"batch": "3"}}, "its parameters are not those of this command line"),
        ({"params": {"batch": "2", "lr": "1"}}, "its parameters are not those of this command line"),
        ({"params": {}}, "its parameters are not those of this command line"),
    ],
)
def test_another_run(changed: dict[str, Any], reason: str) -> None:
    candidate = Candidate.of_words("1", ["run", "--batch=2"])
    assert why_not(a_run({"batch": "2"}), candidate, "20260202-000000-00000000") is None
    assert why_not(a_run(**{"params": {"batch": "2"}, **changed}), candidate, "20260202-000000-00000000") == reason


@pytest.mark.parametrize("words", [["run", "--profile"], ["rerun", "--batch=2"], ["ab", ".", "."], [], ["pytest"]])
def test_a_command_that_mlflow_run_did_not_start(words: list[str]) -> None:
    assert not Candidate.of_words("1", words).possible


def test_the_entry_points_are_those_of_the_project() -> None:
    assert set(ENTRY_POINTS.values()) == set(PROJECT._entry_points)
    for command, name in ENTRY_POINTS.items():
        assert f"python -m ttt_mlflow {command}" in PROJECT.get_entry_point(name).command
