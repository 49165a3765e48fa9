"""The micro-benchmark's table shows what was measured, and nothing that was not."""

import io
from pathlib import Path

import pandas as pd
import pytest

from tests.catalog import tags
from tests.record.test_micro_results import make_both, make_results
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.names import ARTIFACT_MICRO_SAMPLES
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.micro_results import MicroResults
from ttt_mlflow.report.micro_table import (
    ceilings_text,
    cell_text,
    micro_markdown,
    micro_text,
    table_csv,
    table_markdown,
    table_rows,
)

CARD = "the GPU reads 4,000 GB/s, copies 3,900 GB/s (read and written), multiplies fp16 matrices at 700 TFLOP/s"


def on_a_cpu() -> MicroResults:
    results = make_results()
    results.ceilings, results.l2_bytes = {}, None
    results.cells = [cell.model_copy(update={"telemetry": {}}) for cell in results.cells]
    return results


def make_journal(root: Path, results: MicroResults | None, **asked: object) -> Journal:
    config = MicroConfig.parse({"kernels": "good,bad", "batches": "128,4096", **asked})
    journal = Journal.create(root, config.model_dump(mode="json"), config.entry_point)
    if results:
        journal.write_artifact(ARTIFACT_MICRO_SAMPLES, results.model_dump_json())
    return journal


def test_rows() -> None:
    headings, rows = table_rows(make_results())
    assert headings == [
        *("kernel", "batch", "µs", "p20 to p80", "GB/s", "% of read ceiling", "error", "first use s", "SM MHz", "W"),
        "status",
    ]
    assert rows == [
        ["good", "128", "16", "15.4 to 16.6", "3,000", "75.0", "3.0e-04", "0.50", "1,900", "600", "ok"],
        ["good", "4096", "", "", "", "", "3.0e-04", "0.50", "", "", "oom"],
        ["bad", "128", "", "", "", "", "5.0e-01", "1.25", "", "", "error"],
    ]


def test_rows_of_both_modes() -> None:
    headings, rows = table_rows(make_both())
    assert headings == [
        *("kernel", "batch", "prompt", "µs", "p20 to p80", "tokens/s", "GB/s", "% of read ceiling", "TFLOP/s"),
        *("% of matrix ceiling", "% of roofline", "error", "first use s", "SM MHz", "W", "status"),
    ]
    assert rows[0][:11] == ["good", "128", "", "16", "15.4 to 16.6", "", "3,000", "75.0", "40", "5.7", "75.0"]
    assert rows[-1][:6] == ["prompts", "64", "2048", "6,400", "6,400 to 6,400", "20,480,000"]
    assert rows[-1][6:11] == ["1,000", "25.0", "100", "14.3", "25.0"]
    frame = pd.read_csv(io.StringIO(table_csv(make_both())))
    assert frame["tokens_per_s"].dropna().tolist() == pytest.approx([8e6, 20.48e6, 20.48e6])
    assert frame["roofline_pct"].dropna().tolist() == pytest.approx([75, 25, 25])


def test_columns_without_a_value_have_no_place() -> None:
    headings, rows = table_rows(on_a_cpu())
    assert headings == ["kernel", "batch", "µs", "p20 to p80", "GB/s", "error", "first use s", "status"]
    assert all(len(row) == len(headings) for row in rows)


def test_markdown_is_a_table() -> None:
    lines = table_markdown(make_results()).splitlines()
    assert lines[0].startswith("| kernel | batch | µs |")
    assert lines[1].startswith("| --- | ---: | ---: |")
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 3


def test_csv_has_the_numbers_as_measured() -> None:
    frame = pd.read_csv(io.StringIO(table_csv(make_results())))
    good = frame.iloc[0]
    assert (good["us"], good["us_p20"], good["us_p80"]) == pytest.approx((16.0, 15.4, 16.6))
    assert (good["gb_per_s"], good["read_ceiling_pct"], good["samples"]) == pytest.approx((3000.0, 75.0, 3))
    assert frame["us"].isna().tolist() == [False, True, True]
    assert frame["status"].tolist() == ["ok", "oom", "error"]
    assert frame["message"][1] == "out of memory: it does not fit"


def test_one_line_a_cell() -> None:
    results = make_results()
    assert cell_text(results.cells[0], results) == (
        "good batch 128: 16 µs (15.4 to 16.6), 3,000 GB/s, 75.0 % of the read ceiling"
    )
    assert cell_text(results.cells[1], results) == "good batch 4096: out of memory: it does not fit"
    assert ceilings_text(results) == CARD


def test_one_line_a_prompt() -> None:
    results = make_both()
    assert cell_text(results.cells[-1], results) == (
        "prompts batch 64 prompt 2048: 6,400 µs (6,400 to 6,400), 20,480,000 tokens/s, 1,000 GB/s, 25.0 % of the read "
        "ceiling, 100 TFLOP/s, 14.3 % of the matrix ceiling"
    )


def test_the_description(tmp_path: Path) -> None:
    results = make_results()
    journal = make_journal(tmp_path, results)
    journal.update_tags(tags({"ttt.host": "somewhere", "ttt.gpu_name": "a card"}))
    journal.set_status("error", "2 of 3 measurements failed", 1)
    text = micro_markdown(journal)
    assert text.startswith("**error: 2 of 3 measurements failed**\n\n- fastest linear kernel: good batch 128: 16 µs (")
    assert "\nttt-mlflow micro --kernels good,bad --batches 128,4096\n" in text
    assert "\n**2 kernels b128,4096 good,bad**\n" in text
    assert table_markdown(results) in text
    assert CARD in text
    assert "good batch 4096: out of memory: it does not fit" in text
    assert "bad: not timed: wrong result" in text
    assert "somewhere, a card" in text
    assert "times the L2" not in text


def test_times_that_the_l2_may_have_helped_are_said(tmp_path: Path) -> None:
    results = make_results()
    results.l2_bytes = 100_000_000
    journal = make_journal(tmp_path, results)
    assert "good batch 128: the timed memory is 2.4 times the L2" in micro_markdown(journal)


def test_the_terminal(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, on_a_cpu())
    journal.set_status("oom", "too large", 3)
    lines = micro_text(journal, "over there").splitlines()
    assert lines[0] == journal.run_name
    assert lines[1].split() == [
        "kernel",
        "batch",
        "µs",
        "p20",
        "to",
        "p80",
        "GB/s",
        "error",
        "first",
        "use",
        "s",
        "status",
    ]
    assert lines[3].split()[:3] == ["good", "128", "16"]
    assert lines[-1] == "  record  over there"


def test_a_run_that_measured_nothing(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, None)
    journal.set_status("killed", "stopped by SIGTERM", 143)
    assert micro_markdown(journal).startswith("**killed: stopped by SIGTERM**\n\nTo measure this again:\n")
    assert micro_text(journal, "here").splitlines() == [journal.run_name, "  record  here"]
