"""The table of runs, in four formats: what was measured, and nothing that was not."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.catalog import metrics, tags
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import RunRow, local_row
from ttt_mlflow.report.columns import columns, refuse_unknown, typed
from ttt_mlflow.report.table import table_csv, table_json, table_markdown, table_text
from ttt_mlflow.report.text import text_table

MEASURED = {"decode_tokens_per_s": 66787.4, "relative_half_width_pct": 0.38125, "decode_step_ms_p99": 15.123456789}
GRAY = "\x1b[90m"


def run_row(root: Path, measured: dict[str, float], status: str = "ok", **values: object) -> RunRow:
    asked = {"model_name": "ttt-1b", "batch": 1024, "genlen": 256, "inner_net": "mlp_1_dual_triton", **values}
    config = RunConfig.parse({"dtype": "float16", "use_compile": True, "cuda_graph": False, **asked})
    journal = Journal.create(root, config.model_dump(mode="json"))
    journal.update_params(config.model_dump())
    journal.update_metrics(metrics(measured))
    verdict = {"ttt.verdict": "valid"} if measured else {}
    journal.update_tags(tags({"ttt.kind": config.kind, "ttt.gpu_name": "a GPU", **verdict}))
    journal.set_status(status)
    return local_row(LocalRun(journal))


def micro_row(root: Path) -> RunRow:
    config = MicroConfig.parse({"kernels": "good,bad", "batches": "128,4096"})
    journal = Journal.create(root, config.model_dump(mode="json"), config.entry_point)
    journal.update_params(config.model_dump())
    return local_row(LocalRun(journal))


@pytest.fixture
def rows(tmp_path: Path) -> list[RunRow]:
    """A decode run, one that did not fit, and a prefill run."""
    return [
        run_row(tmp_path, MEASURED),
        run_row(tmp_path, {}, "oom", batch=8192),
        run_row(tmp_path, {"prefill_tokens_per_s": 5e5}, mode="prefill"),
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_a_prefill_run_is_recognizable(rows: list[RunRow]) -> None:
    heading, rule, *lines = table_markdown(rows).splitlines()
    assert cells(heading) == [
        *("id", "date", "kind", "model", "inner net", "batch", "generated", "dtype", "compile", "graph", "GPU"),
        *("tokens/s", "± %", "verdict", "status"),
    ]
    model, how = ("ttt-1b", "mlp_1_dual_triton"), ("float16", "true", "false", "a GPU")
    assert [cells(line)[2:] for line in lines] == [
        ["decode", *model, "1024", "256", *how, "66,787", "0.3812", "valid", "ok"],
        ["decode", *model, "8192", "256", *how, "", "", "", "oom"],
        ["prefill", *model, "1024", "", *how, "500,000", "", "valid", "ok"],
    ]
    assert [cell == "---:" for cell in cells(rule)] == [
        name in ("batch", "generated", "tokens/s", "± %") for name in cells(heading)
    ]


def test_decode_runs_of_one_length_need_neither_kind_nor_length(rows: list[RunRow], tmp_path: Path) -> None:
    assert "kind" not in table_text(rows[:2])
    assert "generated" not in table_text(rows[:2])
    assert "prompt" in table_text([rows[0], run_row(tmp_path, MEASURED, promptlen=7)]).splitlines()[0]


def test_the_terminal(rows: list[RunRow]) -> None:
    heading, rule, *lines = table_text(rows).splitlines()
    assert len(lines) == 3
    assert set(rule) == {" ", "─"}
    assert len(rule) > 150  # no line is wrapped
    for row, line in zip(rows, lines, strict=True):
        assert line.split()[0] == row.id
    # numbers end below the end of their heading, texts begin below its beginning
    assert heading.index("batch") + len("batch") == lines[0].index("1024") + 4 == lines[1].index("8192") + 4
    assert heading.index("verdict") == lines[0].index("valid")


def test_an_invalid_run_is_gray_and_says_why(rows: list[RunRow], tmp_path: Path) -> None:
    assert GRAY not in table_text(rows)
    journal = Journal.open(tmp_path / rows[0].id)
    journal.update_tags(tags({"ttt.verdict": "invalid", "ttt.reasons": "drift,other_process"}))
    text = table_text([local_row(LocalRun(journal)), rows[2]]).splitlines()
    assert text[2].startswith(GRAY)
    assert GRAY not in text[3]
    assert "invalid: drift, other_process" in text[2]


def test_csv_has_full_precision_and_empty_cells(rows: list[RunRow]) -> None:
    found = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert found[0] == {
        "id": rows[0].id,
        "date": rows[0].started_at.isoformat(),
        "kind": "decode",
        "model_name": "ttt-1b",
        "inner_net": "mlp_1_dual_triton",
        "batch": "1024",
        "promptlen": "1",
        "genlen": "256",
        "dtype": "float16",
        "use_compile": "true",
        "cuda_graph": "false",
        "ttt.gpu_name": "a GPU",
        "tokens_per_s": "66787.4",
        "relative_half_width_pct": "0.38125",
        "ttt.verdict": "valid",
        "ttt.reasons": "",
        "status": "ok",
    }
    assert found[1]["tokens_per_s"] == found[1]["ttt.verdict"] == found[2]["genlen"] == ""
    assert found[2]["tokens_per_s"] == "500000.0"


def test_json_has_types_and_absent_keys(rows: list[RunRow]) -> None:
    found = json.loads(table_json(rows))
    assert (found[0]["batch"], found[0]["use_compile"], found[0]["tokens_per_s"]) == (1024, True, 66787.4)
    assert "tokens_per_s" not in found[1]
    assert "genlen" not in found[2]


def test_micro_benchmarks_are_listed_apart(tmp_path: Path) -> None:
    micro, run = micro_row(tmp_path), run_row(tmp_path, MEASURED)
    blocks = table_text([micro, run]).split("\n\n")
    assert [block.splitlines()[2].split()[0] for block in blocks] == [run.id, micro.id]
    assert blocks[1].splitlines()[2].split()[3:] == ["good,bad", "128,4096", "32", "64", "float16", "running"]
    assert table_text([micro]) == blocks[1]
    assert table_text([run]) == blocks[0]
    first, second = csv.DictReader(io.StringIO(table_csv([micro, run])))
    assert (first["kernels"], first["batch"], first["heads"]) == ("good,bad", "", "32")
    assert (second["kernels"], second["batch"], second["heads"]) == ("", "1024", "")


def test_columns_asked_for_are_named_as_asked(rows: list[RunRow]) -> None:
    asked = columns(["batch", "gpu", "decode_step_ms_p99", "tags.ttt.verdict", "metrics.batch", "name"])
    assert table_csv(rows[:1], asked).splitlines() == [
        "batch,gpu,decode_step_ms_p99,tags.ttt.verdict,metrics.batch,name",
        "1024,a GPU,15.1235,valid,1024.0,ttt-1b mlp_1_dual_triton b1024 g256 no graph",
    ]
    assert table_text(rows[:1], asked).splitlines()[0].split()[1] == "GPU"


def test_an_unknown_column_is_refused_with_the_known(rows: list[RunRow]) -> None:
    refuse_unknown(columns(["joules_per_token", "throughput"]), "columns", rows)  # known, though not measured
    with pytest.raises(BadInput) as refused:
        refuse_unknown(columns(["batch", "throughput_per_s"]), "sort", rows)
    message = str(refused.value)
    assert message.startswith("sort=throughput_per_s: no such column; did you mean ")
    assert "\n" not in message
    for known in ("tokens_per_s", "genlen", "decode_step_ms_p99", "ttt.verdict"):
        assert known in message
    with pytest.raises(BadInput, match="joules_per_token"):
        refuse_unknown(columns(["foo"]), "columns", [])  # without runs, the catalog


def test_a_name_that_only_a_run_has_is_known(tmp_path: Path) -> None:
    row = run_row(tmp_path, {"kernel_us/mine": 3.5})
    refuse_unknown(columns(["kernel_us/mine"]), "columns", [row])
    with pytest.raises(BadInput):
        refuse_unknown(columns(["kernel_us/other"]), "columns", [row])


@pytest.mark.parametrize(
    ("text", "value"),
    [("64", 64), ("0.5", 0.5), ("1e-3", 0.001), ("true", True), ("false", False), ("auto", "auto"), ("1,4", "1,4")],
)
def test_parameters_have_types(text: str, value: object) -> None:
    assert typed(text) == value
    assert type(typed(text)) is type(value)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """Brackets are no markup, a bar is no new column, and a terminal obeys no name."""
    row = run_row(tmp_path, {}, model_name="[bold]my|model[/bold] :smile:\x1b[31m\n!")
    assert "[bold]my|model[/bold] :smile:\\x1b[31m\\n!" in table_text([row])
    assert len(table_text([row]).splitlines()) == 3
    assert "my\\|model" in table_markdown([row])


def test_wide_characters_take_two_places() -> None:
    lines = text_table(("name", "n"), [("漢字", "1"), ("abcd", "2")], numeric=["n"]).splitlines()
    assert lines[2].index("1") == lines[3].index("2") - 2


def test_an_empty_table() -> None:
    assert len(table_text([]).splitlines()) == 2
    assert json.loads(table_json([])) == []
    assert len(table_csv([]).splitlines()) == 1


def test_the_accuracy_of_runs_that_have_one(rows: list[RunRow], tmp_path: Path) -> None:
    assert "tokens differ" not in table_text(rows)
    assert "accuracy" not in table_csv(rows)
    found = {"accuracy_differing_tokens_pct": 1.75, "accuracy_ratio": 1.0625}
    more = [*rows, run_row(tmp_path, MEASURED | found, batch=2)]
    heading, _, *lines = table_text(more).splitlines()
    assert "tokens differ %   of PyTorch's   verdict" in heading
    assert "1.75" in lines[-1]
    assert "1.062" in lines[-1]
    table = list(csv.DictReader(io.StringIO(table_csv(more))))
    assert [row["accuracy_ratio"] for row in table] == ["", "", "", "1.0625"]
