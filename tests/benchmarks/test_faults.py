from pathlib import Path
from typing import Any

import pytest

import benchmarks.faults
from benchmarks.faults import Fault, Judged, faults, judge, main, run_all
from tests.catalog import artifact, tags
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.record.journal import Journal

BY_NAME = {fault.name: fault for fault in faults(1000.0)}


def run_judged(root: Path, verdict: str | None, reasons: str = "", processes: str = "") -> Journal:
    journal = Journal.create(root, {})
    if verdict:
        journal.update_tags(tags({"ttt.verdict": verdict, "ttt.reasons": reasons}))
    if processes:
        journal.write_artifact(
            artifact("telemetry/processes.csv"), "pid,name,memory_bytes,sm_utilization_pct\n" + processes
        )
    return journal


def test_a_fault_that_is_found(tmp_path: Path) -> None:
    judged = judge(BY_NAME["drift"], run_judged(tmp_path, "invalid", "wide_interval,drift"))
    assert judged.remarks == []
    assert judged.line == "OK    drift: expected invalid: drift, invalid: wide_interval, drift"


def test_a_fault_that_is_not_found(tmp_path: Path) -> None:
    judged = judge(BY_NAME["drift"], run_judged(tmp_path, "invalid", "wide_interval"))
    assert judged.remarks == ["drift is not among the reasons"]
    assert judged.line.startswith("MISS  drift: ")


@pytest.mark.parametrize(("verdict", "said"), [("unjudged", "unjudged"), (None, "not judged"), ("invalid", "invalid")])
def test_a_run_without_fault_that_is_not_valid(tmp_path: Path, verdict: str | None, said: str) -> None:
    assert judge(BY_NAME["no fault"], run_judged(tmp_path, verdict)).remarks == [f"the verdict is {said}"]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("77,python,1500000000,\n", True),  # by its id
        ("1,,1500000000,0.0\n", True),  # another container's ids: by the memory
        ("1,,500000000,0.0\n", False),
        ("1,,,\n", False),
        ("", False),
    ],
)
def test_one_that_holds_memory_has_to_be_named_in_a_valid_run(tmp_path: Path, rows: str, named: bool) -> None:
    judged = judge(BY_NAME["another process holds memory"], run_judged(tmp_path, "valid", processes=rows), pid=77)
    assert (judged.remarks == []) is named
    assert ("processes named:" in judged.line) is bool(rows)


@pytest.mark.parametrize(("sm", "named"), [("40.0", True), ("0.0", False), ("", False)])
def test_one_that_computes_is_known_by_it(tmp_path: Path, sm: str, named: bool) -> None:
    journal = run_judged(tmp_path, "invalid", "other_process", f"1,,1500000000,{sm}\n")
    assert (judge(BY_NAME["another process computes"], journal, pid=77).remarks == []) is named


def test_the_noise_is_wide_and_the_same_each_time() -> None:
    noise = BY_NAME["too wide an interval"].schedule
    assert noise is not None
    waits = [noise(number) for number in range(30)]
    assert waits == [noise(number) for number in range(30)]
    assert 0 <= min(waits) < 200 < 800 < max(waits) <= 1000


def test_the_drift_grows() -> None:
    growth = BY_NAME["drift"].schedule
    assert growth is not None
    assert [growth(number) for number in (0, 1, 20)] == pytest.approx([0, 5, 100])


def test_every_fault_is_another_run() -> None:
    assert len(BY_NAME) == len(faults(1.0))
    assert all(isinstance(fault, Fault) for fault in BY_NAME.values())


def test_an_unknown_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "a flood"]) == 2
    assert capsys.readouterr().err == "no such fault: a flood\n"


def test_a_run_that_fails_is_a_miss_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmarks.faults.make_run

    def make_run(fault: Fault, *arguments: Any) -> Judged:
        if fault.name == "another process computes":
            raise RunFailed("it did not start to work")
        return real(fault, *arguments)

    monkeypatch.setattr(benchmarks.faults, "make_run", make_run)
    lines: list[str] = []
    asked = {"model_name": "ttt-tiny", "batch": "1", "genlen": "4", "device": "cpu", "max_seconds": "0.2"}
    chosen = ["another process computes", "too short a section"]
    judged = run_all(chosen, tmp_path, asked, "cpu", lines.append)
    assert [one.fault.name for one in judged] == ["no fault", *chosen]
    assert judged[1].remarks == ["it did not start to work"]
    assert judged[2].verdict != "no run"
    assert lines == [one.line for one in judged]


def test_a_cpu_cannot_be_judged(tmp_path: Path) -> None:
    """The run without a fault and a short one, for real: nothing on a CPU is valid, so that both are missed."""
    quick = ["--model", "ttt-tiny", "--batch", "1", "--genlen", "4", "--seconds", "0.2", "--device", "cpu"]
    assert main([str(tmp_path), "too short a section", *quick]) == 1
    text = (tmp_path / "faults.txt").read_text()
    assert "MISS  no fault: expected valid" in text
    assert "too short a section: expected invalid: short_section" in text
    assert "another process" not in text
