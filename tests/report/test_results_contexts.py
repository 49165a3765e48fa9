"""Models over the context length: what belongs together, what crosses, what fits, and how it is drawn and written."""

import csv
from pathlib import Path

import pytest

from tests.report import contexts as made
from tests.report import h200
from ttt_mlflow import names
from ttt_mlflow.app.report import OF_CONTEXTS, results_files
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.report.contexts_table import contexts_markdown, contexts_text, crossings_csv
from ttt_mlflow.report.crossings import ABOUT_BEYOND
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_contexts import (
    Fit,
    batches_over_contexts,
    context_charts,
    context_of,
    contexts_of,
    pairs_of,
)
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_page import page_data
from ttt_mlflow.report.results_table import results_csv

LINEAR = "ttt-1b mlp_1_dual_triton"
MHA, GQA = (f"{name} mlp_1_dual" for name in (made.MHA, made.GQA))
NAMES = {artifact.path for some in OF_CONTEXTS.values() for artifact in some}


def of(rows: list[RunRow], *sweeps: object) -> Results:
    return results_of([RunSet("one", rows, sweeps)], "a title")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[RunRow]:
    return made.rows(tmp_path_factory.mktemp("contexts"))


@pytest.fixture(scope="module")
def results(rows: list[RunRow]) -> Results:
    return of(rows)


def test_the_context_is_the_prompt_and_half_of_what_is_decoded() -> None:
    assert context_of("decode", {"promptlen": "1", "genlen": "256"}) == 128.5
    assert context_of("decode", {"promptlen": "2048", "genlen": "1"}) == 2048
    assert context_of("prefill", {"promptlen": "2048", "genlen": "512"}) == 2048
    assert context_of("decode", {"promptlen": "2048"}) is None
    assert context_of("decode", {"promptlen": "x", "genlen": "1"}) is None


def test_the_lengths_of_a_model_are_one_line(results: Results) -> None:
    lines = contexts_of(results)
    assert [line.series.label for line in lines] == [LINEAR, GQA, MHA]
    assert [line.grows for line in lines] == [False, True, True]
    assert all(tuple(line.contexts) == made.CONTEXTS for line in lines)
    assert batches_over_contexts(lines) == [16]
    assert contexts_of(results, "prefill") == []


def test_runs_of_one_context_have_no_such_charts(tmp_path: Path) -> None:
    results = of(list(h200.rows(tmp_path)))
    assert context_charts(results) == []
    assert contexts_text(results) == crossings_csv(results) == ""
    assert list(contexts_markdown(results)) == []
    assert page_data(results, [])["contexts"] is None
    assert not {artifact.path for artifact in results_files(results, [], ["csv", "png", "svg"])} & NAMES


def test_where_the_constant_state_begins_to_win(results: Results) -> None:
    """980 by hand: 1.42 ms at 65, 1.81 at 2048, in between linear; the other's 1.6."""
    pairs = {(one.constant.label, one.growing.label): one.crossing for one in pairs_of(contexts_of(results), 16)}
    assert pairs.keys() == {(LINEAR, GQA), (LINEAR, MHA)}
    assert pairs[LINEAR, GQA].context == pytest.approx(65 + (1.60 - 1.42) / (1.81 - 1.42) * 1983)
    assert pairs[LINEAR, GQA].between == (65, 2048)
    text = contexts_text(results)
    assert "980 (65 to 2,048)" in text
    assert "batch 16" in text
    assert "## Crossings, batch 16" in list(contexts_markdown(results))
    line = next(csv.DictReader(crossings_csv(results).splitlines()))
    assert (line["constant_state"], line["growing_state"], line["outcome"]) == (LINEAR, GQA, "crosses")
    assert float(line["context"]) == pytest.approx(980, abs=1)


def short_context(root: Path, tag: str | None, verdict: str = "valid") -> RunRow:
    """A run of a third model at one context. tag: whether its step costs more with the context."""
    told = {"ttt.verdict": verdict} | ({} if tag is None else {"ttt.cost_grows": tag})
    values = {"decode_tokens_per_s": 16e3 / 1.7, "decode_step_ms_p50": 1.7, "peak_memory_allocated_gb": 3.0}
    return h200.row(root, values, told=told, batch=16, promptlen=1, genlen=129, model_name="ttt-125m")


def test_a_constant_state_that_was_measured_at_one_context_is_a_level_line(rows: list[RunRow], tmp_path: Path) -> None:
    results = of([*rows, short_context(tmp_path, "false")])
    found = pairs_of(contexts_of(results), 16)
    pairs = {one.growing.label: one.crossing for one in found if "125m" in one.constant.label}
    assert pairs[GQA].context == pytest.approx(65 + (1.70 - 1.42) / (1.81 - 1.42) * 1983)
    assert all(one.is_beyond for one in pairs.values())
    assert contexts_text(results).endswith(ABOUT_BEYOND)
    step, memory = context_charts(results)
    (line,) = [one for one in step.lines if "125m" in one.series.label]
    assert [(one.x, one.y) for one in line.points] == [(65, 1.7)]
    assert line.ends == (((65, 1.7), (32768, 1.7)),)
    assert not any(one.ends for one in memory.lines), "a prompt needs memory too"
    assert not any(one.ends for one in step.lines if one is not line)
    drawn = next(one for one in page_data(results, [])["contexts"]["charts"] if one["name"] == "step-16")
    assert [one["ends"] for one in drawn["lines"] if one["ends"]] == [[[[65, 1.7], [32768, 1.7]]]]
    assert (
        "constant state, from where it was measured"
        in results_files(results, [], ["svg"])[names.ARTIFACT_RESULTS_CONTEXT_SVG].decode()
    )


@pytest.mark.parametrize(("tag", "verdict"), [("true", "valid"), (None, "valid"), ("false", "invalid")])
def test_what_is_not_known_to_be_level_is_a_point(
    tag: str | None, verdict: str, rows: list[RunRow], tmp_path: Path
) -> None:
    results = of([*rows, short_context(tmp_path, tag, verdict)])
    assert not any(line.ends for chart in context_charts(results) for line in chart.lines)
    assert "*" not in contexts_text(results)


def test_invalid_runs_decide_nothing(tmp_path: Path) -> None:
    rows = [made.run(tmp_path, made.TTT, prompt, 1.6, 3.0) for prompt in made.PROMPTS]
    rows += [made.run(tmp_path, made.GQA, 1, 1.4, 3.0)]
    rows += [made.run(tmp_path, made.GQA, 1984, 9.0, 3.0, verdict="invalid")]
    (pair,) = pairs_of(contexts_of(of(rows)), 16)
    assert (pair.crossing.outcome, pair.crossing.span) == ("never", (65, 65))


def test_other_gpus_are_not_compared(rows: list[RunRow], tmp_path: Path) -> None:
    told = {"ttt.verdict": "valid", "ttt.cost_grows": "true", "ttt.gpu_name": "NVIDIA A100"}
    values = {"decode_tokens_per_s": 1.0, "decode_step_ms_p50": 1.0}
    other = h200.row(tmp_path, values, told=told, batch=16, promptlen=1, genlen=129, model_name="ttt-125m")
    lines = contexts_of(of([*rows, other]))
    assert sum("ttt-125m" in line.series.label for line in lines) == 1
    assert not any("ttt-125m" in pair.growing.label for pair in pairs_of(lines, 16))


def test_the_charts_of_steps_and_memory(results: Results) -> None:
    charts = {chart.name: chart for chart in context_charts(results)}
    assert list(charts) == ["step-16", "memory-16"], "nothing is known not to fit"
    step = charts["step-16"]
    assert [(point.x, point.y) for point in step.lines[1].points] == [
        *zip(made.CONTEXTS, (1.42, 1.81, 2.90, 7.15), strict=True)
    ]
    assert step.is_linear
    assert sorted(mark.text for mark in step.marks) == ["293", "980"]
    assert all(mark.y == pytest.approx(1.6) for mark in step.marks)
    assert charts["memory-16"].marks == ()


def with_limits(rows: list[RunRow], root: Path) -> Results:
    more = [made.run(root, made.TTT, prompt, 8.0, 13, batch=1024) for prompt in made.PROMPTS]
    more += [made.run(root, made.GQA, 1, 7.0, 13, batch=1024), made.oom(root, made.MHA, 1984, 1024)]
    return of([*rows, *more], made.predicted(made.GQA, (8128, 32704), 1024))


def test_the_highest_batch_says_what_bounds_it(rows: list[RunRow], tmp_path: Path) -> None:
    results = with_limits(rows, tmp_path)
    by_label = {line.series.label: line for line in contexts_of(results)}
    assert [by_label[LINEAR].fit(context) for context in made.CONTEXTS] == [Fit(1024)] * 4
    assert by_label[MHA].fit(2048) == Fit(16, 1024)
    assert by_label[GQA].fit(8192) == Fit(16, 1024, is_predicted=True)
    assert by_label[GQA].fit(2048) == Fit(16)
    (chart,) = [one for one in context_charts(results) if one.name == "fits-decode"]
    drawn = {line.series.label: [(one.x, one.y, one.high, one.state) for one in line.points] for line in chart.lines}
    assert drawn[MHA][1] == (2048, 16, 1024, "valid")
    assert drawn[GQA] == [
        (65, 1024, None, "missing"),
        (2048, 16, None, "missing"),
        (8192, 16, 1024, "predicted_oom"),
        (32768, 16, 1024, "predicted_oom"),
    ]
    text = contexts_text(results)
    assert "16, not 1,024 (predicted)" in text
    assert "at least 1,024" in text


def test_all_files_have_them(rows: list[RunRow], tmp_path: Path) -> None:
    results = with_limits(rows, tmp_path)
    files = {
        artifact.path: data
        for artifact, data in results_files(results, [], ["html", "markdown", "csv", "png", "svg"]).items()
    }
    assert files.keys() >= NAMES
    assert files["results/context.png"].startswith(b"\x89PNG")
    svg = files["results/context.svg"].decode()
    for said in (
        "Decode step, median, batch 16",
        "Highest batch that fits",
        "980",
        "≥",
        "next batch predicted not to fit",
    ):
        assert said in svg, said
    assert "## Decode step, median, ms, over the context, batch 16" in files["results/results.md"].decode()
    lines = list(csv.DictReader(files["results/results.csv"].decode().splitlines()))
    assert {line["context"] for line in lines} == {str(float(context)) for context in made.CONTEXTS}


def test_the_page_has_the_charts_of_the_picture(rows: list[RunRow], tmp_path: Path) -> None:
    results = with_limits(rows, tmp_path)
    block = page_data(results, [])["contexts"]
    assert [chart["name"] for chart in block["charts"]] == [chart.name for chart in context_charts(results)]
    assert {one["label"] for one in block["series"]} == {LINEAR, MHA, GQA}
    step = next(chart for chart in block["charts"] if chart["name"] == "step-16")
    assert sorted(mark[2] for mark in step["marks"]) == ["293", "980"]
    (line,) = [one for one in step["lines"] if block["series"][one["series"]]["label"] == GQA]
    assert line["curve"][0] == [65, 1.42]
    assert line["curve"][-1] == [32768, 7.15]
    assert len(line["points"]) == 4
    assert block["crossings"][0]["rows"][0][0] == LINEAR


def test_a_repetition_does_not_hide_a_valid_run(tmp_path: Path) -> None:
    """Two lengths of the same context: the valid one counts."""
    first = made.run(tmp_path, made.GQA, 1, 1.4, 3.0)
    told = {"ttt.verdict": "invalid", "ttt.cost_grows": "true"}
    values = {"decode_tokens_per_s": 1.0, "decode_step_ms_p50": 9.0}
    asked = {"batch": 16, "promptlen": 33, "genlen": 65, "model_name": made.GQA, "inner_net": "mlp_1_dual"}
    second = h200.row(tmp_path, values, told=told, **asked)  # type: ignore[arg-type]
    other = made.run(tmp_path, made.GQA, 1984, 1.8, 3.0)
    (line,) = contexts_of(of([first, second, other]))
    assert line.at(16)[65.0].row is not None
    assert line.at(16)[65.0].state == "valid"
    assert results_csv(of([first, second, other])).count("\n") == 4


def test_decode_and_prefill_in_one_picture_have_looks_of_their_own(tmp_path: Path) -> None:
    """They share a legend: the prefill of one model is not drawn as the decode of another."""
    told = {"ttt.verdict": "valid", "ttt.cost_grows": "true"}
    rows = [made.run(tmp_path, made.MHA, prompt, 1.0, 1.0) for prompt in (1, 1984)]
    rows.append(made.oom(tmp_path, made.MHA, 1, 32))
    for prompt, values, status in ((16, {"prefill_tokens_per_s": 1.0}, "ok"), (64, {}, "oom")):
        net = h200.model_of(h200.LINEAR)
        for batch, rate, ended in ((1, {"prefill_tokens_per_s": 1.0}, "ok"), (2, values, status)):
            rows.append(h200.row(tmp_path, rate, ended, told, mode="prefill", promptlen=prompt, batch=batch, **net))
    charts = {chart.name: chart for chart in context_charts(of(rows))}
    looks = {name: [line.series.look for line in charts[name].lines] for name in ("fits-decode", "fits-prefill")}
    assert looks == {"fits-decode": [0], "fits-prefill": [1]}
