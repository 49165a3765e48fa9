"""Which runs are one row, and what is compared with what."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report import h200
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.record.sweep_file import SweepCell, SweepFile
from ttt_mlflow.report.contexts_table import contexts_text
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_contexts import contexts_of
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_page import page_data
from ttt_mlflow.report.results_quantities import speedup
from ttt_mlflow.report.results_table import results_csv


def run(root: Path, grows: bool | None = False, value: float = 1000.0, **asked: Any) -> RunRow:
    """grows: whether a step costs more with the context; None: it is not known."""
    told = {"ttt.verdict": "valid"} | ({} if grows is None else {"ttt.cost_grows": str(grows).lower()})
    values = {"decode_tokens_per_s": value, "decode_step_ms_p50": 1.0}
    return h200.row(root, values, told=told, **asked)


def of(*sets: list[RunRow], cells: list[SweepCell] | None = None) -> Results:
    sweeps = (SweepFile(sweep_id="x" * 16, cells=tuple(cells)),) if cells else ()
    return results_of([RunSet(f"set {number}", rows, sweeps) for number, rows in enumerate(sets)], "a title")


def rows_of(results: Results) -> dict[str, dict[int, str]]:
    (grid,) = results.grids
    return {one.label: {batch: cell.state for batch, cell in one.cells.items()} for one in grid.series}


def notes_of(results: Results) -> list[tuple[str, ...]]:
    return [one.notes for one in results.grids[0].series]


LABEL = "ttt-1b mlp_1_dual_triton"
PATHS = ("launches", "overlapped")


@pytest.mark.parametrize(
    ("name", "values", "labels", "both_labels"),
    [
        ("attn_impl", ("flash", "math"), ("attention flash", "attention math"), "attention flash or math"),
        (
            "decode_path",
            PATHS,
            ("decode path launches", "decode path overlapped"),
            "decode path launches or overlapped",
        ),
        ("use_compile", (False, True), ("not compiled", "compiled"), "not compiled or compiled"),
    ],
)
def test_what_is_chosen_for_a_batch_tells_rows_apart_where_both_were_measured(
    name: str, values: tuple[Any, Any], labels: tuple[str, str], both_labels: str, tmp_path: Path
) -> None:
    """A reader who asked for both must never see them mixed in one row."""
    both = [run(tmp_path, True, batch=batch, **{name: value}) for batch in (1, 2) for value in values]
    assert rows_of(of(both)) == {f"{LABEL}, {label}": {1: "valid", 2: "valid"} for label in labels}
    lines = csv.DictReader(results_csv(of(both)).splitlines())
    assert {(line["batch"], line[name]) for line in lines} == {
        (batch, str(value).lower()) for batch in "12" for value in values
    }
    chosen = [both[0], both[3], run(tmp_path, True, batch=1, model_name="b", inner_net=None)]
    assert rows_of(of(chosen))[LABEL] == {1: "valid", 2: "valid"}, "one value for each batch: a choice"
    assert (both_labels,) in notes_of(of(chosen))


def test_only_what_must_tells_rows_apart(tmp_path: Path) -> None:
    """Two paths were asked for; that one of them is compiled at the larger batch was chosen."""
    rows = [run(tmp_path, batch=batch, decode_path="launches", use_compile=batch > 1) for batch in (1, 2)]
    rows += [run(tmp_path, batch=batch, decode_path="overlapped", use_compile=False) for batch in (1, 2)]
    assert rows_of(of(rows)) == {f"{LABEL}, decode path {path}": {1: "valid", 2: "valid"} for path in PATHS}
    assert notes_of(of(rows)) == [("not compiled or compiled",), ("not compiled",)], "told, but no name"


def test_over_contexts_a_choice_is_one_line_too(tmp_path: Path) -> None:
    rows = [run(tmp_path, True, batch=1, promptlen=2**n, genlen=1, attn_impl=("math", "flash")[n % 2]) for n in (3, 4)]
    assert len(contexts_of(of(rows))) == 1
    rows += [run(tmp_path, True, batch=1, promptlen=2**n, genlen=1, attn_impl=("flash", "math")[n % 2]) for n in (3, 4)]
    assert [line.contexts for line in contexts_of(of(rows))] == [[8.0, 16.0]] * 2
    assert "attention" not in contexts_text(of(rows[:2]))


def test_the_cells_of_a_sweep_leave_each_choice_in_its_row(tmp_path: Path) -> None:
    """A cell does not know what will be chosen, and was put to the choice of another batch: four lines for one."""
    rows = [
        run(tmp_path, True, batch=batch, promptlen=promptlen, genlen=1, attn_impl=attention)
        for promptlen, attentions in ((8, ("flash", "math")), (16, ("math", "math")))
        for batch, attention in zip((1, 2), attentions, strict=True)
    ]
    asked = [cell(batch, "missing", 1, promptlen=promptlen) for promptlen in (8, 16) for batch in (1, 2)]
    results = of(rows, cells=asked)
    assert rows_of(results) == {f"{LABEL}, prompt {length}": {1: "valid", 2: "valid"} for length in (8, 16)}
    assert notes_of(results) == [("attention flash or math",), ("attention math",)]
    assert [line.contexts for line in contexts_of(results)] == [[8.0, 16.0]]


def test_a_run_that_ended_before_the_choice_is_in_the_row_of_its_batch(tmp_path: Path) -> None:
    rows = [
        run(tmp_path, True, batch=batch, attn_impl=impl) for batch, impl in ((1, "flash"), (2, "math"), (4, "math"))
    ]
    early = run(tmp_path, True, batch=2)
    for batch in (2, 8):
        params = {name: text for name, text in early.params.items() if name != "attn_impl"} | {"batch": str(batch)}
        rows.append(replace(early, status="failed", metrics={}, params=params))
    assert rows_of(of(rows)) == {LABEL: {1: "valid", 2: "valid", 4: "valid", 8: "failed"}}


def speedups(results: Results, set_index: int) -> list[float | None]:
    (grid,) = results.grids
    (series,) = [one for one in grid.series if one.set_index == set_index]
    found = [speedup(grid, series, batch) for batch in grid.batches]
    return [one.factor if one else None for one in found]


def test_of_two_sets_cells_with_the_same_steps_are_compared(tmp_path: Path) -> None:
    """One batch with other steps takes nothing from the others, and is compared with nothing."""
    before = [run(tmp_path / "1", batch=1, genlen=64), run(tmp_path / "1", batch=2, genlen=32)]
    after = [run(tmp_path / "2", batch=batch, genlen=64, value=1500.0) for batch in (1, 2)]
    swapped = [run(tmp_path / "3", batch=1, genlen=32), run(tmp_path / "3", batch=2, genlen=64)]
    assert speedups(of(before, after), 1) == [1.5, None]
    assert speedups(of(before, swapped), 1) == [None, None]
    assert speedups(of(before, after), 0) == [1.0, 1.0]
    (grid,) = page_data(of(before, after), [])["grids"]
    assert sorted(one["steps"] for one in grid["series"]) == [["64", "32"], ["64", "64"]]
    assert len({one["look"] for one in grid["series"]}) == 1, "one model, in the same color"


def cell(batch: int, state: str, genlen: int = 512, **asked: Any) -> SweepCell:
    config = {"model_name": "ttt-1b", "inner_net": "mlp_1_dual_triton", "dtype": "float16", "use_compile": True}
    config |= {"cuda_graph": True, "promptlen": 1, "mode": "decode", "batch": batch, "genlen": genlen, **asked}
    return SweepCell(key=f"{batch} {genlen} {asked}", config=config, state=state)  # type: ignore[arg-type]


def test_a_cell_without_a_run_is_in_the_row_of_its_model(tmp_path: Path) -> None:
    """It does not know the GPU yet, and has fewer steps."""
    rows = [run(tmp_path, batch=batch, genlen=64) for batch in (1, 2)]
    results = of(rows, cells=[cell(4096, "predicted_oom", 16), cell(8192, "missing", 64)])
    assert rows_of(results) == {LABEL: {1: "valid", 2: "valid", 4096: "predicted_oom", 8192: "missing"}}
    assert "NVIDIA H200" in results.grids[0].shared
    grows = of([run(tmp_path / "grows", True, batch=1, genlen=64)], cells=[cell(4096, "predicted_oom", 16)])
    assert len(rows_of(grows)) == 2, "another mean context"


def test_a_cell_that_was_not_measured_is_not_hidden_by_one_of_another_path(tmp_path: Path) -> None:
    rows = [run(tmp_path, batch=1, decode_path="launches"), run(tmp_path, batch=2, decode_path="overlapped")]
    asked = [cell(batch, "missing", decode_path=path) for path in ("launches", "overlapped") for batch in (1, 2)]
    assert rows_of(of(rows, cells=asked)) == {
        f"{LABEL}, decode path launches": {1: "valid", 2: "missing"},
        f"{LABEL}, decode path overlapped": {1: "missing", 2: "valid"},
    }


@pytest.mark.parametrize("batch", ["0", "00", "9" * 400, "2147483648"])
def test_a_run_that_was_refused_for_its_batch_has_no_column(batch: str, tmp_path: Path) -> None:
    refused = run(tmp_path, batch=1)
    results = of([run(tmp_path, batch=2), replace(refused, params={**refused.params, "batch": batch})])
    assert results.grids[0].batches == (2,)
    assert "Left out" in results.notes[0]
