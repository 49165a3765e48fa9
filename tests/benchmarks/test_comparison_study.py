"""What the study reads and counts. Its results are those of benchmarks/results; here it only has to run."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import comparison_study
from benchmarks.comparison_study import OLDER_TEXTS, RESULTS, Recorded, Result, drawn, main, rebuilt, recorded
from tests.runs import measured_in
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import KNOWN_RUN_TO_RUN
from ttt_mlflow.measurement.statistics import median_confidence_interval

H200, CAPPED = KNOWN_RUN_TO_RUN["NVIDIA H200", False], KNOWN_RUN_TO_RUN["NVIDIA H200", True]


@pytest.mark.parametrize("passes", [6, 7, 12])
def test_passes_are_rebuilt_from_what_a_text_has(passes: int) -> None:
    run = rebuilt(67_566.9, 67_554.5, 67_585.3, passes)
    assert len(run) == passes
    assert float(np.median(run)) == pytest.approx(67_566.9)
    assert median_confidence_interval(run) == pytest.approx((67_554.5, 67_585.3), abs=0.1)


def test_the_recorded_texts() -> None:
    capped, steady = (recorded(path) for path in OLDER_TEXTS)
    assert (len(capped.runs), capped.known) == (11, CAPPED)  # one of the twelve is invalid
    assert (len(steady.runs), steady.known) == (20, H200)
    assert float(np.median(steady.runs[0])) == pytest.approx(67_566.9)


TEXT = """gpu_name: NVIDIA H200

  run      tokens/s   95 % confidence interval   passes   power cap   verdict
  base   67,566.9   [67,554.5, 67,585.3]        6   0 %   valid
  slow   66,869.9   [66,838.8, 66,884.3]        6   0 %   valid
  base   67,494.4   [67,482.6, 67,499.1]        7   –   unjudged no samples
  base   67,494.4   [67,482.6, 67,499.1]        7   0 %   invalid drift

"""


@pytest.mark.parametrize(("capped", "known"), [(0, H200), (1, CAPPED)])
def test_a_text_of_today(tmp_path: Path, capped: int, known: object) -> None:
    path = tmp_path / "repeatability.txt"
    path.write_text(f"{TEXT}base runs at the software power cap: {capped} of 2 (0.0 %)\n")
    source = recorded(path)
    assert [len(run) for run in source.runs] == [6, 7]
    assert source.known == known


def test_a_text_that_does_not_say_whether_the_power_cap_was_active(tmp_path: Path) -> None:
    path = tmp_path / "repeatability.txt"
    path.write_text(TEXT)
    with pytest.raises(BadInput, match="name its JSON file"):
        recorded(path)


@pytest.mark.parametrize(("share", "known"), [(None, H200), (2.0, H200), (90.0, CAPPED)])
def test_a_json_file(tmp_path: Path, share: float | None, known: object) -> None:
    runs = [
        {"kind": kind, "verdict": verdict, "tokens_per_s": [1.0, 2.0], "power_cap_pct": share}
        for kind, verdict in (("base", "valid"), ("slow", "valid"), ("base", "invalid"))
    ]
    path = tmp_path / "repeatability.json"
    path.write_text(json.dumps({"how": {"gpu_name": "NVIDIA H200"}, "runs": runs}))
    source = recorded(path)
    assert [run.tolist() for run in source.runs] == [[1.0, 2.0]]
    assert source.known == known


def test_a_folder_of_records(tmp_path: Path) -> None:
    asked = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 4, "warmup": 0, "repeats": 3}
    asked["thresholds"] = "section_s=0,half_width_pct=1e9,drift_pct=1e9"  # such short runs are not valid
    for _ in range(2):
        measured_in(tmp_path, asked)
    source = recorded(tmp_path)
    assert [len(run) for run in source.runs] == [3, 3]
    assert source.known is None
    measured_in(tmp_path, {**asked, "batch": 1})
    with pytest.raises(BadInput, match="2 configurations"):
        recorded(tmp_path)


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "output"), "--recorded", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()
    assert main([str(tmp_path), "--comparisons", "0"]) == 2


def test_no_run_is_on_both_sides() -> None:
    runs = [np.array([float(place)]) for place in range(1, 8)]
    for _ in range(20):
        sides = drawn(np.random.default_rng(0), runs, (3, 4), 10.0)
        seen = [*(float(run[0]) for run in sides[0]), *(float(run[0]) / 10 for run in sides[1])]
        assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("result", "holds"),
    [
        (Result("", 6, 100, most=0.06), True),
        (Result("", 7, 100, most=0.06), False),
        (Result("", 95, 100, least=0.95), True),
        (Result("", 94, 100, least=0.95), False),
        (Result("", 94, 100), True),
    ],
)
def test_what_is_asked(result: Result, holds: bool) -> None:
    assert result.holds == holds
    assert result.row[0] == ("" if result.most is result.least else "PASS" if holds else "MISS")


def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With two comparisons a row nearly anything can be missed; without a requirement that can be, it passes."""
    steady = RESULTS / "repeatability-2.txt"
    words = [str(tmp_path), "--recorded", str(steady), "--comparisons", "2", "--no-cpu"]
    monkeypatch.setattr(comparison_study, "FALSE_ALARMS_MOST", 1.0)
    monkeypatch.setattr(comparison_study, "FOUND_LEAST", 0.0)
    assert main(words) == 0
    text = (tmp_path / "comparison_study.txt").read_text()
    assert text.startswith(f"command: python -m benchmarks.comparison_study {tmp_path}")
    assert "repeatability-2, 20 runs; run-to-run standard deviation 0.18 %" in text
    assert "requirements missed: 0" in text
    assert "any of 8 pairs" in capsys.readouterr().out
    monkeypatch.setattr(comparison_study, "FALSE_ALARMS_MOST", -1.0)
    assert main(words) == 1
    assert "MISS" in (tmp_path / "comparison_study.txt").read_text()


def test_the_runs_on_this_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run a side says nothing, on any machine."""
    asked = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 4, "warmup": 0, "repeats": 3}
    asked["thresholds"] = "section_s=0,half_width_pct=1e9,drift_pct=1e9"  # such short runs are not valid
    monkeypatch.setattr(comparison_study, "record_order", lambda order: measured_in(tmp_path, asked).journal)
    one_each, _, three_each = comparison_study.on_this_cpu(tmp_path)
    assert (one_each.hits, one_each.cases, one_each.holds) == (0, 15, True)
    assert (three_each.cases, three_each.most) == (1, 0.0)


def test_a_source_without_a_known_variance_has_no_single_runs() -> None:
    runs = [np.array([1.0, 1.1, 1.2 + place]) for place in range(7)]
    results = comparison_study.same_recorded(np.random.default_rng(0), Recorded("here", runs, None, capped=False), 1)
    assert [result.text for result in results] == ["here: 3 and 3 runs"]
