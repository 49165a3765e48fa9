"""From runs and sweeps to rows and columns: what is a row of its own, and what a cell says."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report import h200
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import RunRow, local_row
from ttt_mlflow.record.sweep_file import SweepCell, SweepFile
from ttt_mlflow.report.results import Grid, Results
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_table import results_csv


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Sequence[RunRow]:
    return h200.rows(tmp_path_factory.mktemp("h200"))


def rate(value: float = 1000.0) -> dict[str, float]:
    return {"decode_tokens_per_s": value}


def valid(root: Path, value: float = 1000.0, verdict: str = "valid", **asked: Any) -> RunRow:
    return h200.row(root, rate(value), told={"ttt.verdict": verdict}, **asked)


def of(rows: Sequence[RunRow], sweeps: Sequence[SweepFile] = (), **options: Any) -> Results:
    return results_of([RunSet("one", rows, sweeps)], "a title", **options)


def only(results: Results) -> Grid:
    (grid,) = results.grids
    return grid


def states(grid: Grid) -> dict[str, dict[int, str]]:
    return {one.label: {batch: cell.state for batch, cell in one.cells.items()} for one in grid.series}


def test_a_row_is_a_model_and_inner_net_and_a_column_a_batch(measured: Sequence[RunRow]) -> None:
    grid = only(of(measured))
    assert grid.batches == (128, 1024, 2048, 8192)
    assert states(grid) == {
        "mamba-1.4b": {1024: "valid"},
        "ttt-1b mlp_1_dual_triton": {128: "valid", 1024: "valid", 8192: "unjudged"},
        "ttt-1b mlp_2_dual_triton": {128: "valid", 1024: "valid", 2048: "unjudged", 8192: "oom"},
    }


def test_what_all_have_is_said_once_and_what_differs_with_the_row(measured: Sequence[RunRow]) -> None:
    grid = only(of(measured))
    assert grid.shared == (*("NVIDIA H200", "float16", "prompt 1", "128 decode steps", "CUDA graph", "random weights"),)
    assert [one.notes for one in grid.series] == [("not compiled",), ("compiled",), ("compiled",)]


@pytest.mark.parametrize(
    ("asked", "told", "label"),
    [
        ({"dtype": "bfloat16"}, {}, "bfloat16"),
        ({"genlen": 64}, {}, "64 decode steps"),
        ({"promptlen": 16}, {}, "prompt 16"),
        ({"cuda_graph": False}, {}, "no CUDA graph"),
        ({"checkpoint": "/models/trained.safetensors"}, {}, "trained.safetensors"),
        ({}, {"ttt.gpu_name": "NVIDIA H100"}, "NVIDIA H100"),
    ],
)
def test_runs_that_differ_are_never_in_one_row(
    asked: dict[str, Any], told: dict[str, str], label: str, tmp_path: Path
) -> None:
    """Also GPUs of different kinds."""
    rows = [valid(tmp_path), h200.row(tmp_path, rate(), told={"ttt.verdict": "valid", **told}, **asked)]
    labels = [one.label for one in only(of(rows)).series]
    assert len(labels) == 2
    assert f"ttt-1b mlp_1_dual_triton, {label}" in labels


def of_cost(root: Path, grows: bool | None, *asked: tuple[int, int]) -> list[RunRow]:
    """Runs of these batches and numbers of steps. grows: whether a step costs more with the context."""
    told = {"ttt.verdict": "valid"} | ({} if grows is None else {"ttt.cost_grows": str(grows).lower()})
    return [h200.row(root, rate(), told=told, batch=batch, genlen=steps) for batch, steps in asked]


def test_one_row_of_a_model_with_a_constant_state_that_is_measured_with_more_steps_at_a_small_batch(
    tmp_path: Path,
) -> None:
    another = valid(tmp_path, model_name="b", inner_net=None, batch=2)
    results = of([*of_cost(tmp_path, False, (1, 256), (64, 16)), another])
    one, other = only(results).series[::-1]
    assert one.label == "ttt-1b mlp_1_dual_triton"
    assert one.notes == ("16 to 256 decode steps",)
    assert {batch: cell.state for batch, cell in one.cells.items()} == {1: "valid", 64: "valid"}
    assert other.notes == ("512 decode steps",)
    lines = csv.DictReader(results_csv(results).splitlines())
    told = {(line["batch"], line["genlen"], line["context"]) for line in lines}
    assert told == {("1", "256", "128.5"), ("64", "16", "8.5"), ("2", "512", "256.5")}, "each run has its own"


@pytest.mark.parametrize(
    ("grows", "asked", "rows"),
    [
        (True, [(1, 256), (64, 16)], 2),
        (None, [(1, 256), (64, 16)], 2),
        (False, [(1, 256), (64, 16), (64, 256)], 2),
        (False, [(1, 256), (64, 16), (1, 256)], 1),
    ],
    ids=["another mean context", "not known", "a batch twice", "a repetition"],
)
def test_when_other_numbers_of_steps_are_another_row(
    grows: bool | None, asked: list[tuple[int, int]], rows: int, tmp_path: Path
) -> None:
    assert len(only(of(of_cost(tmp_path, grows, *asked))).series) == rows


def test_models_of_one_name_and_two_owners(tmp_path: Path) -> None:
    rows = [valid(tmp_path, model_name=name, inner_net=None) for name in ("a/mamba", "b/mamba")]
    assert [one.label for one in only(of(rows)).series] == ["a/mamba", "b/mamba"]


def test_prefill_has_a_grid_of_its_own(tmp_path: Path) -> None:
    told = {"ttt.verdict": "valid"}
    rows = [
        valid(tmp_path),
        h200.row(tmp_path, {"prefill_tokens_per_s": 5.0}, told=told, mode="prefill", promptlen=2048),
    ]
    decode, prefill = of(rows).grids
    assert (decode.kind, prefill.kind) == ("decode", "prefill")
    assert "512 decode steps" in decode.shared
    assert prefill.shared == ("NVIDIA H200", "float16", "prompt 2048", "compiled", "CUDA graph", "random weights")


def test_of_repetitions_the_newest_valid_one_is_shown(tmp_path: Path) -> None:
    rows = [valid(tmp_path, 1.0), valid(tmp_path, 2.0), valid(tmp_path, 3.0, "invalid"), valid(tmp_path, 4.0, "")]
    results = of(rows)
    (cell,) = only(results).series[0].cells.values()
    assert cell.row is rows[1]
    assert cell.others == 3
    assert results.shown == {rows[1].id}
    assert [run.row.id for run in results.runs] == [row.id for row in reversed(rows)], "all take part, newest first"
    assert "Measured several times: 1; of each the newest valid run is shown." in results.notes


def test_which_of_several_runs_is_shown_is_said(tmp_path: Path) -> None:
    twice = {batch: [h200.row(tmp_path, rate(), told={"ttt.verdict": word}, batch=batch) for _ in "ab"]
             for batch, word in ((1, "invalid"), (2, "valid"), (4, "invalid"))}  # fmt: skip
    assert of([*twice[1], *twice[4]]).notes == (
        "Measured several times: 2; of each the newest invalid run is shown, because none is valid.",
    )
    assert of([row for rows in twice.values() for row in rows]).notes == (
        "Measured several times: 3; of 1 the newest valid run is shown; "
        "of 2 the newest invalid run is shown, because none is valid.",
    )


@pytest.mark.parametrize(
    ("values", "status", "told", "state", "reason"),
    [
        (rate(), "ok", {"ttt.verdict": "valid"}, "valid", ""),
        (rate(), "ok", {"ttt.verdict": "invalid", "ttt.reasons": "drift,clock_drop"}, "invalid", "drift, clock_drop"),
        (rate(), "ok", {"ttt.verdict": "unjudged", "ttt.missing": "drift"}, "unjudged", "not checked: drift"),
        (rate(), "ok", {}, "unjudged", "no verdict"),
        ({}, "ok", {}, "failed", "no throughput was measured"),
        (
            rate(),
            "error",
            {"ttt.verdict": "valid", "ttt.message": "the profiler failed"},
            "failed",
            "the profiler failed",
        ),
        ({}, "oom", {"ttt.message": "CUDA out of memory"}, "oom", "CUDA out of memory"),
        ({}, "killed", {"ttt.message": "SIGTERM"}, "killed", "SIGTERM"),
        ({}, "running", {}, "running", ""),
    ],
)
def test_what_became_of_a_run(
    values: dict[str, float], status: str, told: dict[str, str], state: str, reason: str, tmp_path: Path
) -> None:
    (cell,) = only(of([h200.row(tmp_path, values, status, told)])).series[0].cells.values()
    assert (cell.state, cell.reason) == (state, reason)


def test_numbers_of_what_was_not_measured_to_its_end_are_not_shown(tmp_path: Path) -> None:
    (cell,) = only(of([h200.row(tmp_path, rate(), "killed")])).series[0].cells.values()
    assert cell.value(h200.THROUGHPUT) is None


def cell(state: str, batch: int, reason: str | None = None, **asked: Any) -> SweepCell:
    config = RunConfig.parse({"inner_net": h200.LINEAR, "batch": batch, **asked})
    return SweepCell(key=f"{asked}{batch}", config=config.model_dump(mode="json"), state=state, reason=reason)  # type: ignore[arg-type]


def test_cells_of_a_sweep_that_have_no_run(tmp_path: Path) -> None:
    """What the sweep did not choose, such as the dtype, is what the runs of the row chose."""
    rows = [valid(tmp_path, batch=128)]
    cells = (
        cell("done", 128),
        cell("predicted_oom", 8192, "180 GB predicted, the GPU has 141 GB"),
        cell("missing", 1024),
        cell("skipped", 128, "mamba-ssm is not installed", model_name="state-spaces/mamba-1.4b", inner_net=None),
    )
    grid = only(of(rows, [SweepFile(sweep_id="s", cells=cells)]))
    assert states(grid) == {
        "ttt-1b mlp_1_dual_triton": {128: "valid", 1024: "missing", 8192: "predicted_oom"},
        "mamba-1.4b": {128: "skipped"},
    }
    assert grid.series[0].cells[8192].reason == "180 GB predicted, the GPU has 141 GB"
    assert grid.batches == (128, 1024, 8192)


def test_rows_stand_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    rows = [valid(tmp_path, inner_net=net) for net in (h200.LINEAR, h200.MLP)]
    cells = tuple(cell("done", 64, inner_net=net) for net in (h200.MLP, h200.LINEAR))
    grid = only(of(rows, [SweepFile(sweep_id="s", cells=cells)]))
    assert [one.inner_net for one in grid.series] == [h200.MLP, h200.LINEAR]


def test_a_cell_that_was_done_but_whose_run_is_not_there_is_empty() -> None:
    grid = only(of([], [SweepFile(sweep_id="s", cells=(cell("done", 64),))]))
    assert states(grid) == {"ttt-1b mlp_1_dual_triton": {64: "missing"}}


def test_a_run_that_ended_early_is_in_the_row_of_the_others(tmp_path: Path) -> None:
    """It had not chosen its dtype, nor asked for the GPU's name."""
    config = RunConfig(batch=4096, inner_net=h200.LINEAR)
    early = Journal.create(tmp_path, config.model_dump(mode="json"))
    early.set_status("error")
    grid = only(of([valid(tmp_path, batch=128), local_row(LocalRun(early))]))
    assert states(grid) == {"ttt-1b mlp_1_dual_triton": {128: "valid", 4096: "failed"}}


def test_other_kinds_of_runs_are_left_out_and_counted(tmp_path: Path) -> None:
    config = MicroConfig()
    micro = Journal.create(tmp_path, config.model_dump(mode="json"), config.entry_point)
    results = of([valid(tmp_path), local_row(LocalRun(micro))])
    assert len(results.runs) == 1
    assert any("1 of kind micro" in note for note in results.notes)


def test_several_commits_are_said(tmp_path: Path) -> None:
    rows = [
        h200.row(tmp_path, rate(), told={"ttt.verdict": "valid", "mlflow.source.git.commit": commit})
        for commit in ("a" * 40, "b" * 40)
    ]
    (told,) = (note for note in of(rows).notes if "commits" in note)
    assert told == f"The runs are of 2 commits: {'b' * 12} (1), {'a' * 12} (1)."


def two_sets(tmp_path: Path, **options: Any) -> Results:
    nets = (h200.LINEAR, h200.MLP)
    before, after = ([valid(tmp_path, inner_net=net) for net in nets] for _ in range(2))
    return results_of([RunSet("before", before), RunSet("after", after)], "two", **options)


def test_two_sets_on_top_of_each_other(tmp_path: Path) -> None:
    grid = only(two_sets(tmp_path))
    assert [(one.label, one.look, one.set_index) for one in grid.series] == [
        ("ttt-1b mlp_1_dual_triton [before]", 0, 0),
        ("ttt-1b mlp_1_dual_triton [after]", 0, 1),
        ("ttt-1b mlp_2_dual_triton [before]", 1, 0),
        ("ttt-1b mlp_2_dual_triton [after]", 1, 1),
    ]
    assert [grid.baseline_of(one) for one in grid.series] == [grid.series[index] for index in (0, 0, 2, 2)]


def test_sets_of_two_gpus_have_the_same_looks(tmp_path: Path) -> None:
    sets = [
        RunSet(gpu, [h200.row(tmp_path, rate(), told={"ttt.verdict": "valid", "ttt.gpu_name": gpu})])
        for gpu in ("H100", "H200")
    ]
    grid = only(results_of(sets, "two"))
    assert [one.look for one in grid.series] == [0, 0]
    assert [one.label for one in grid.series] == [f"ttt-1b {h200.LINEAR}, {gpu} [{gpu}]" for gpu in ("H100", "H200")]


@pytest.mark.parametrize(("against", "label"), [("mlp_2", 2), ("ttt-1b mlp_1_dual_triton", 1), ("MAMBA", 0)])
def test_the_row_that_others_are_compared_with(measured: Sequence[RunRow], against: str, label: int) -> None:
    grid = only(of(measured, against=against))
    assert all(grid.baseline_of(one) is grid.series[label] for one in grid.series)


def test_a_number_of_one_is_singular(tmp_path: Path) -> None:
    one, several = only(of([valid(tmp_path, genlen=steps) for steps in (1, 512)])).series
    assert (one.label, several.label) == (
        f"ttt-1b {h200.LINEAR}, 1 decode step",
        f"ttt-1b {h200.LINEAR}, 512 decode steps",
    )


def test_rows_of_one_picture_have_looks_of_their_own(tmp_path: Path) -> None:
    """In all sets and both kinds of run, but for rows of the same label, which the legend has once."""

    def rows(root: Path) -> list[RunRow]:
        prefill = {"told": {"ttt.verdict": "valid"}, "mode": "prefill"}
        return [
            *(valid(root, **h200.model_of(net)) for net in (h200.LINEAR, h200.MLP)),
            *(h200.row(root, {"prefill_tokens_per_s": 1.0}, promptlen=prompt, **prefill) for prompt in (16, 32)),  # type: ignore[arg-type]
            h200.row(root, {"prefill_tokens_per_s": 1.0}, **prefill, **h200.model_of(h200.MLP)),  # type: ignore[arg-type]
        ]

    results = results_of([RunSet("a", rows(tmp_path / "a")), RunSet("b", rows(tmp_path / "b"))], "")
    looks = {one.label: (one.look, one.set_index) for grid in results.grids for one in grid.series}
    mlp, linear = f"ttt-1b {h200.MLP} [a]", f"ttt-1b {h200.LINEAR}"
    assert looks[f"{linear} [a]"] == (0, 0)
    assert looks[mlp] == (1, 0)
    assert looks[f"{linear}, prompt 16 [a]"] == (2, 0)
    assert looks[f"{linear}, prompt 32 [b]"] == (3, 1)
    assert len(set(looks.values())) == len(looks)
    _, prefill = results.grids
    assert all(prefill.baseline_of(one).label == one.label.replace("[b]", "[a]") for one in prefill.series)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("against", "why"),
    [("mlp_3", "no such row; the rows are mamba-1.4b; ttt"), ("ttt-1b", "one: ttt-1b mlp_1_dual_triton; ttt")],
)
def test_no_such_row(measured: Sequence[RunRow], against: str, why: str) -> None:
    with pytest.raises(BadInput, match=f"against={against}: .*{why}"):
        of(measured, against=against)
