"""The account of a step's microseconds, on times that are known."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.step_timeline import DRAWN_LAYER, draw, main, stage_times, table
from ttt_mlflow.kernels.persistent.launch import Timeline

STAGES = ("projection", "inner net")


def made(layers: int = 24) -> Timeline:
    """Three programs. Each stage works 4, 5 and 9 µs; all go on 2 µs after the last one has come."""
    stages = ("embedding", *(STAGES * layers), "head")
    times, now = [], 1_000_000
    for _ in stages:
        times.append([[now + work, now + 11_000] for work in (4_000, 5_000, 9_000)])
        now += 11_000
    return Timeline(torch.tensor(times), stages)


def test_work_the_last_one_and_the_meeting_are_told_apart() -> None:
    found = stage_times(made())
    assert set(found) == {"embedding", *STAGES, "head"}
    assert found["projection"] == [(5.0, 4.0, 2.0)] * 24


def test_the_table_adds_up() -> None:
    lines = table([made(), made()]).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("projection"))
    assert row[1:] == ["24", "5.00", "4.00", "2.00", "264.0"]
    assert f"{50 * 11 - 4:.1f} (median of 2 steps)" in lines[-1]


def test_a_layer_is_drawn() -> None:
    figure = draw(made(), "a title")
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == list(STAGES)
    assert axes.get_title() == "a title"
    assert DRAWN_LAYER < 24


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "no CUDA GPU was found" in done.output
    assert not (tmp_path / "out").exists()
