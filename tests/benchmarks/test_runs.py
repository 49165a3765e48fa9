from pathlib import Path

import pytest

from benchmarks.runs import Order, last_line, record_order
from ttt_mlflow.errors import RunFailed

ASKED = {"model_name": "ttt-tiny", "device": "cpu", "batch": "1", "genlen": "2", "warmup": "0", "repeats": "2"}


def test_a_slowed_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    journal = record_order(Order(str(tmp_path), ASKED, slowed_us=10_000))
    assert journal.status["status"] == "ok"
    assert journal.settings["model_name"] == "ttt-tiny+slowed"
    # no speed: the least that a step takes, since each was told to wait for 10 ms
    assert journal.metrics["decode_step_ms_mean"] >= 10
    assert journal.metrics["imports_s"] > 0


@pytest.mark.long
def test_a_run_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"ended with code 2:\nbatch=0: not allowed"):
        record_order(Order(str(tmp_path), ASKED | {"batch": "0"}))


@pytest.mark.long
def test_a_process_that_breaks_shows_its_end() -> None:
    with pytest.raises(RunFailed, match="Expecting value"):
        last_line("benchmarks.runs", "no JSON")
