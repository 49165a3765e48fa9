"""Throughput from the record of a run's passes."""

import json
from pathlib import Path
from typing import Any

import pytest

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import ARTIFACT_PASSES
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import TimedPass, throughputs, timed_passes
from ttt_mlflow.record.recorded_run import LocalRun


def record(root: Path, passes: dict[str, Any], **settings: Any) -> LocalRun:
    """Two passes of 10 and 20 ms, the second cut short, of a run of 8 sequences."""
    used = RunConfig.parse({"batch": 8, "genlen": 10, "promptlen": 3, **settings}).model_dump(mode="json")
    journal = Journal.create(root, used)
    journal.set_used(used)
    timed = {"repeat_total_ms": [10.0, 20.0], "repeat_complete": [True, False]}
    journal.write_artifact(ARTIFACT_PASSES, json.dumps(timed | passes))
    return LocalRun(journal)


def test_the_recorded_tokens_count(tmp_path: Path) -> None:
    assert throughputs(record(tmp_path, {"tokens_per_pass": 50})) == [pytest.approx(5000)]


@pytest.mark.parametrize(("mode", "tokens"), [("decode", 8 * 10), ("prefill", 8 * 3)])
def test_an_older_record_has_its_tokens_from_its_configuration(mode: str, tokens: int, tmp_path: Path) -> None:
    assert throughputs(record(tmp_path, {}, mode=mode)) == [pytest.approx(1e3 * tokens / 10)]


def test_tokens_that_are_no_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"timing/passes.json does not hold the passes of a run"):
        throughputs(record(tmp_path, {"tokens_per_pass": "many"}))


def test_complete_passes_have_their_times(tmp_path: Path) -> None:
    times = {"tokens_per_pass": 50, "repeat_ended_ms": [5010, 5030], "repeat_wall_ms": [10.5, 20.5]}
    (found,) = timed_passes(record(tmp_path, times))
    assert found == TimedPass(4999.5, 5010, 5000)


@pytest.mark.parametrize("times", [{}, {"repeat_ended_ms": [1, 2]}, {"repeat_ended_ms": [], "repeat_wall_ms": []}])
def test_a_record_that_does_not_say_when_is_refused(times: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not say when its passes ended; measure it again"):
        timed_passes(record(tmp_path, {"tokens_per_pass": 50, **times}))
