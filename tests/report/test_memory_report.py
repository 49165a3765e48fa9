"""The memory's tables and page."""

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.profilers.snapshots import KB, eager_pass
from tests.report.browser import BROWSER, rendered
from ttt_mlflow.profilers.memory import history, table_of
from ttt_mlflow.report import memory_report as module
from ttt_mlflow.report.memory_report import memory_page, parts_csv, parts_markdown

ROWS = table_of(eager_pass(), {100: "weights", 200: "state"})
ALLOCATOR = eager_pass().allocator


def test_the_csv_has_whole_bytes_and_empty_cells() -> None:
    text = parts_csv(ROWS)
    table = pd.read_csv(io.StringIO(text)).set_index("part")
    assert table.loc[["weights"]].to_numpy().tolist() == [[50 * KB] * 3]
    assert table["peak_bytes"].sum() == ALLOCATOR.peak
    assert "activations,,30000,\n" in text


def test_the_table_is_checked_against_the_allocator() -> None:
    text = parts_markdown(ROWS, ALLOCATOR)
    assert "| sum | 0.0001 | 0.0001 | 0.0002 |" in text
    assert text.endswith("The sums equal the allocator's.\n")
    apart = parts_markdown(ROWS, replace(ALLOCATOR, reserved=ALLOCATOR.reserved - 5 * KB))
    assert apart.endswith("The sums differ from the allocator's: reserved +5,000 bytes.\n")


@pytest.mark.skipif(not BROWSER, reason="no chromium or Chrome is installed")
@pytest.mark.parametrize("shown", [2, 100])
def test_a_browser_without_a_network_draws_it(shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_SHOWN", shown)
    page = tmp_path / "open.html"
    page.write_text(memory_page(ROWS, history(eager_pass()), "a run: memory"))
    drawn = rendered(page)
    assert drawn.count("<tr>") == len(ROWS) + 2
    for text in ("weights", "50 kB", "115 kB", "152 kB"):
        assert f">{text}<" in drawn
    left = "4 allocations and releases in the pass." if shown > 4 else "the 2 earlier ones are only in snapshot.pickle."
    assert left in drawn
    assert 'id="history" width="' in drawn
