"""The tables as text, Markdown and CSV."""

import csv
import io
from pathlib import Path

import pytest

from tests.report import h200
from ttt_mlflow.report.best_run import best_of, parse_limits
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_quantities import speedup
from ttt_mlflow.report.results_table import results_csv, results_markdown, results_text

INVALID = {"ttt.verdict": "invalid", "ttt.reasons": "wide_interval"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The runs on an H200, one more that is invalid, and links to all."""
    root = tmp_path_factory.mktemp("h200")
    invalid = h200.row(
        root, {"decode_tokens_per_s": 1234.5}, told=INVALID, batch=256, genlen=128, **h200.model_of(None)
    )
    rows = [*h200.rows(root), invalid]
    return results_of(
        [RunSet("h200", rows)], "On an *H200*", links={row.id: f"http://x/#/runs/{row.id}" for row in rows}
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def block(text: str, heading: str) -> list[str]:
    """The lines of the table below a heading of Markdown."""
    _, _, rest = text.partition(f"## {heading}\n")
    assert rest, heading
    return [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]


def test_the_table_for_a_terminal(results: Results) -> None:
    first, heading, _, *rows = results_text(results).splitlines()
    assert first == (
        "Decode throughput, tokens/s, by batch: "
        "NVIDIA H200, float16, prompt 1, 128 decode steps, CUDA graph, random weights"
    )
    assert heading.split() == ["128", "256", "1,024", "2,048", "8,192"]
    assert rows[0].split() == ["mamba-1.4b", "(1,234)", "67,344"]
    assert rows[1].split() == ["ttt-1b", "mlp_1_dual_triton", "67,641", "131,109", "139,837?"]
    assert rows[2].endswith("33,412              46,712   47,378?   out of memory")
    assert rows[3:] == [
        "(…): the measurement is invalid; the table of runs has the reason.",
        "…?: not judged, because data for a verdict is missing.",
    ]


def test_the_markdown_table_has_intervals_and_links(results: Results) -> None:
    head, rule, mamba, *_ = block(results_markdown(results), "Decode throughput, tokens/s")
    assert cells(head) == ["model", "batch 128", "batch 256", "batch 1,024", "batch 2,048", "batch 8,192"]
    assert cells(rule) == ["---", *["---:"] * 5]
    (run,) = (run for run in results.runs if run.row.params["batch"] == "256")
    assert cells(mamba)[2] == f"[(1,234)](http://x/#/runs/{run.row.id})"
    assert cells(mamba)[3].endswith(") [67,257, 67,401]")


def test_the_reason_is_a_column_of_the_table_of_runs(results: Results) -> None:
    head, _, *rows = block(results_markdown(results), "Runs")
    assert cells(head)[-2:] == ["verdict", "why"]
    assert len(rows) == 9
    told = [cells(row)[-2:] for row in rows]
    assert ["invalid", "wide_interval"] in told
    assert ["oom", "CUDA out of memory"] in told
    assert ["unjudged", "not checked: drift"] in told


def test_further_tables_have_only_what_was_measured(results: Results) -> None:
    text = results_markdown(results)
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        *("Decode throughput, tokens/s", "Throughput against mamba-1.4b", "Decode step, median, ms"),
        *("Decode step, 99th percentile, ms", "Peak memory, GB", "Energy per token, mJ", "Runs"),
    ]
    linear = cells(block(text, "Energy per token, mJ")[3])
    assert linear[1] == "", "its energy was not measured"
    assert linear[3].startswith("[5.245]")


def test_zeros_at_the_end_of_a_number_are_kept(tmp_path: Path) -> None:
    """18 beside 34.1 looks as if one was measured to a millisecond."""
    row = h200.row(tmp_path, {"decode_tokens_per_s": 66611.0, "decode_step_ms_p50": 18.0})
    text = results_markdown(results_of([RunSet("a", [row])], ""))
    assert cells(block(text, "Decode step, median, ms")[2])[1].startswith("18.00")
    assert "| 66,611 | 18.00 |" in text, "in the table of runs"


def test_sets_are_told_apart_and_compared_to_the_per_mille(tmp_path: Path) -> None:
    """One configuration differs by a percent or less from one set to the next."""
    rows = [h200.row(tmp_path, {"decode_tokens_per_s": speed}) for speed in (100_000.0, 100_300.0)]
    text = results_markdown(results_of([RunSet("one GPU", rows[:1]), RunSet("two GPUs", rows[1:])], ""))
    assert [
        line.split("|")[2].strip() for line in block(text, "Throughput against the same configuration of one GPU")[2:4]
    ] == ["1.000×", "1.003×"]
    runs = block(text, "Runs")
    assert cells(runs[0])[2] == "set"
    assert sorted(cells(line)[2] for line in runs[2:]) == ["one GPU", "two GPUs"]


def test_speed_up(results: Results) -> None:
    (grid,) = results.grids
    linear = grid.series[1]
    factor = speedup(grid, linear, 1024)
    assert factor is not None
    assert str(factor) == "1.95×"
    assert factor.low == pytest.approx(130799 / 67401)
    assert factor.high == pytest.approx(131308 / 67257)
    assert speedup(grid, linear, 128) is None, "the baseline was not measured there"
    assert speedup(grid, grid.series[0], 256) is None, "an invalid number takes no part"


def test_the_answer_to_best_is_on_top(results: Results) -> None:
    best = best_of(results, parse_limits("decode_step_ms_p99 < 11"))
    assert (
        results_markdown(results, best).splitlines()[2].startswith("- Best decode under decode_step_ms_p99 &lt; 11: ")
    )


def lines_of(results: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(results_csv(results))))


def test_csv_has_a_line_for_each_run(results: Results) -> None:
    lines = lines_of(results)
    assert len(lines) == 9
    (linear,) = (one for one in lines if (one["inner_net"], one["batch"]) == (h200.LINEAR, "1024"))
    assert linear["state"] == "valid"
    assert linear["tokens_per_s"] == "131109.0"
    assert linear["tokens_per_s_ci_high"] == "131308.0"
    assert (linear["gpu"], linear["use_compile"], linear["genlen"]) == ("NVIDIA H200", "true", "128")
    assert (linear["speedup"][:6], linear["speedup_against"]) == ("1.9468", "mamba-1.4b")
    assert linear["link"].endswith(linear["run_id"])
    (invalid,) = (one for one in lines if one["state"] == "invalid")
    assert (invalid["reason"], invalid["tokens_per_s"]) == ("wide_interval", "1234.5")
    (oom,) = (one for one in lines if one["state"] == "oom")
    assert (oom["reason"], oom["tokens_per_s"]) == ("CUDA out of memory", "")


def test_csv_has_repetitions_too(tmp_path: Path) -> None:
    rows = [h200.row(tmp_path, {"decode_tokens_per_s": rate}, told={"ttt.verdict": "valid"}) for rate in (1.0, 2.0)]
    lines = lines_of(results_of([RunSet("a", rows)], ""))
    assert [(one["shown"], one["tokens_per_s"], one["set"]) for one in lines] == [
        ("true", "2.0", "a"),
        ("false", "1.0", "a"),
    ]


def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    """In Markdown a name is no link and no HTML, in CSV no formula."""
    model = "=x|<img src=x>[a](http://evil)"
    row = h200.row(tmp_path, {}, "oom", {"ttt.message": "=1+1"}, model_name=model, inner_net=None)
    results = results_of([RunSet("a", [row])], "<b>title</b>")
    text = results_markdown(results)
    assert "<img" not in text
    assert "](http://evil" not in text
    assert text.startswith("# &lt;b>title")
    assert lines_of(results)[0]["model_name"] == f"'{model}"
    assert lines_of(results)[0]["reason"] == "'=1+1"


def test_no_digits_that_were_not_measured(tmp_path: Path) -> None:
    """A wide interval leaves a throughput three digits in its record; a step's time has six and shows four."""
    wide = {"decode_tokens_per_s": 278.0, "decode_tokens_per_s_ci_low": 7.17, "decode_tokens_per_s_ci_high": 3240.0}
    narrow = {"decode_tokens_per_s": 66.5, "decode_tokens_per_s_ci_low": 66.41, "decode_tokens_per_s_ci_high": 66.59}
    rows = [
        h200.row(tmp_path, values | {"decode_step_ms_p50": 18.0}, told={"ttt.verdict": "valid"}, batch=batch)
        for batch, values in ((1, wide), (2, narrow))
    ]
    text = results_markdown(results_of([RunSet("", rows)], ""))
    (line,) = block(text, "Decode throughput, tokens/s")[2:]
    assert cells(line)[1:] == ["278 [7.17, 3,240]", "66.50 [66.41, 66.59]"]
    (line,) = block(text, "Decode step, median, ms")[2:]
    assert cells(line)[1:] == ["18.00", "18.00"]
    assert {cells(line)[2] for line in block(text, "Runs")[2:]} == {"278", "66.50"}


def test_no_speed_ups_without_a_number_to_compare_with(tmp_path: Path) -> None:
    rows = [
        h200.row(tmp_path, {"decode_tokens_per_s": 1.0}, told=INVALID, **h200.model_of(net)) for net in (None, h200.MLP)
    ]
    text = results_markdown(results_of([RunSet("", rows)], ""))
    _, _, rest = text.partition("## Throughput against mamba-1.4b\n")
    assert rest.strip().startswith("None, because it has no number that is not invalid.\n\n## Runs")
