"""The records that the benchmark makes are rows and columns of a report, and its page's data is found."""

import json
from pathlib import Path

from benchmarks.report_speed import BATCHES, DATA, make_record
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import local_row
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_page import results_html


def test_a_report_of_the_records(tmp_path: Path) -> None:
    numbers = [0, 1, len(BATCHES), 42 * len(BATCHES)]  # the last one repeats the first
    rows = [local_row(LocalRun(make_record(tmp_path, number))) for number in numbers]
    results = results_of([RunSet("", rows)], "")
    (grid,) = results.grids
    assert [len(one.cells) for one in grid.series] == [2, 1]
    assert sorted(cell.others for _, _, cell in grid.cells()) == [0, 0, 1]
    found = DATA.search(results_html(results))
    assert found is not None
    assert len(json.loads(found[1])["runs"]) == 4
