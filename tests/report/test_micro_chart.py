"""The pictures: what is in them, and that the chart is drawn by a browser without a network."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.record.test_micro_results import make_both, make_results
from tests.report.browser import BROWSER, rendered
from ttt_mlflow.kernels.inner_layers import decode_kernel_bytes
from ttt_mlflow.record.micro_results import CellResult, KernelResult, MicroResults
from ttt_mlflow.report.micro_chart import chart_html, kernels_png, timed_kernels
from ttt_mlflow.report.style import GRAY

BUTTONS = ["µs", "GB/s", "% of the read ceiling"]


def two_kernels() -> MicroResults:
    """TTT-Linear at half and TTT-MLP at a quarter of the card's bandwidth, with three batches."""
    results = make_results().model_copy(update={"kernels": [], "cells": []})
    for name, layer_type, share in (("fast", "linear", 0.5), ("slow", "mlp", 0.25)):
        results.kernels.append(KernelResult(name=name, layer_type=layer_type, form="rank-1"))
        for batch in (8, 64, 512):
            floor = decode_kernel_bytes(layer_type, batch, 32, 64, torch.float16)
            us = floor / 4000e3 / share
            results.cells.append(
                CellResult(kernel=name, batch=batch, floor_bytes=floor, us=[0.5 * us, us, us, us, 2 * us])
            )
    return results


def figure(results: MicroResults) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Data and layout that the page hands to plotly."""
    call = re.search(r'Plotly\.newPlot\(\s*"[^"]+",\s*', page := chart_html(results).decode())
    assert call is not None
    data, end = json.JSONDecoder().raw_decode(page, call.end())
    layout, _ = json.JSONDecoder().raw_decode(page, page.index("{", end))
    return data, layout


def traces(results: MicroResults, button: int) -> dict[str, dict[str, Any]]:
    data, layout = figure(results)
    shown = layout["updatemenus"][0]["buttons"][button]["args"][0]["visible"]
    assert len(shown) == len(data)
    return {trace["name"]: trace for trace, visible in zip(data, shown, strict=True) if visible}


def test_the_chart_has_a_line_a_kernel_and_a_floor_an_inner_net() -> None:
    results = two_kernels()
    lines = traces(results, 0)
    assert list(lines) == ["fast", "slow", "roofline of TTT-Linear", "roofline of TTT-MLP"]
    for kernel, floor, share in (("fast", "TTT-Linear", 0.5), ("slow", "TTT-MLP", 0.25)):
        line, limit = lines[kernel], lines[f"roofline of {floor}"]
        assert line["x"] == limit["x"] == [8, 64, 512]
        assert [share * us for us in line["y"]] == pytest.approx(limit["y"])
        assert limit["line"]["dash"] in ("dash", "dot")
        cell = results.cell(kernel, 8)
        assert cell is not None
        median, low, high = cell.quantiles or (0, 0, 0)
        assert line["error_y"]["array"][0] == pytest.approx(high - median)
        assert line["error_y"]["arrayminus"][0] == pytest.approx(median - low)


def test_the_buttons_choose_the_quantity() -> None:
    results = two_kernels()
    data, layout = figure(results)
    buttons = layout["updatemenus"][0]["buttons"]
    assert [button["label"] for button in buttons] == BUTTONS
    assert [trace["visible"] for trace in data] == buttons[0]["args"][0]["visible"]
    assert len({button["args"][1]["yaxis.title.text"] for button in buttons}) == 3
    rates, shares = traces(results, 1), traces(results, 2)
    assert rates["fast"]["y"] == pytest.approx([2000] * 3)
    assert shares["slow"]["y"] == pytest.approx([25] * 3)
    assert rates["the GPU's read bandwidth"]["y"] == [4000] * 3
    assert shares["the GPU's read bandwidth"]["y"] == [100] * 3
    bars = rates["fast"]["error_y"]
    assert min(bars["array"] + bars["arrayminus"]) >= 0


def test_labels_of_large_batches_are_short() -> None:
    results = two_kernels()
    for cell in results.cells:
        cell.batch *= 2048
    _, layout = figure(results)
    assert layout["updatemenus"][0]["buttons"][0]["args"][1]["xaxis.ticktext"] == ["16,384", "131,072", "1.049M"]


def test_on_a_cpu_there_is_no_ceiling_to_show() -> None:
    results = two_kernels().model_copy(update={"ceilings": {}})
    data, layout = figure(results)
    assert [button["label"] for button in layout["updatemenus"][0]["buttons"]] == BUTTONS[:2]
    assert {trace["name"] for trace in data} == {"fast", "slow"}


def test_decode_steps_and_prompts_are_never_on_one_axis() -> None:
    results = make_both()
    _, layout = figure(results)
    buttons = layout["updatemenus"][0]["buttons"]
    prompts = ["µs", "tokens/s", "% of the roofline"]
    assert [one["label"] for one in buttons] == [f"decode {q}" for q in BUTTONS] + [f"prefill {q}" for q in prompts]
    assert [traces(results, at).get("good") is not None for at in range(6)] == [True] * 3 + [False] * 3
    times, rates, shares = (traces(results, at) for at in (3, 4, 5))
    assert list(times) == ["prompts", "roofline of TTT-MLP"]
    assert (times["prompts"]["x"], times["prompts"]["y"]) == ([16, 64], [1600, 6400])
    assert times["roofline of TTT-MLP"]["y"] == pytest.approx([400, 1600])
    assert rates["roofline of TTT-MLP"]["y"] == pytest.approx([4 * rate for rate in rates["prompts"]["y"]])
    assert shares["prompts"]["y"] == pytest.approx([25, 25])
    assert shares["the roofline"]["y"] == [100, 100]
    decode, prefill = (buttons[at]["args"][1] for at in (0, 3))
    assert decode["title.text"].startswith("Decode step of one layer")
    assert prefill["title.text"].startswith("Prompt of 2048 tokens through one layer")
    assert (decode["xaxis.tickvals"], prefill["xaxis.tickvals"]) == ([128], [16, 64])
    assert layout["title"]["text"] == decode["title.text"]


def test_prompts_alone_have_a_chart_of_their_own() -> None:
    results = make_both()
    results.cells = [cell for cell in results.cells if cell.promptlen]
    _, layout = figure(results.model_copy(update={"ceilings": {}}))
    assert [one["label"] for one in layout["updatemenus"][0]["buttons"]] == ["µs", "tokens/s"]
    assert layout["title"]["text"].startswith("Prompt of 2048 tokens")


def test_what_was_not_timed_is_not_drawn() -> None:
    results = make_results()
    assert timed_kernels(results) == ["good"]
    lines = traces(results, 0)
    assert list(lines) == ["good", "roofline of TTT-Linear"]
    assert lines["good"]["x"] == [128]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = chart_html(two_kernels()).decode()
    assert not re.search(r"<script[^>]*\ssrc=", page)
    assert not re.search(r"<link[^>]*\shref=", page)
    assert "MathJax.js" not in page
    assert len(page) < 10_000_000


def test_the_library_in_the_page_is_whole() -> None:
    from plotly.offline import get_plotlyjs

    assert f"<script>{get_plotlyjs()}</script>" in chart_html(two_kernels()).decode()


@pytest.mark.skipif(not BROWSER, reason="no chromium or Chrome is installed")
def test_a_browser_without_a_network_draws_it(tmp_path: Path) -> None:
    page = tmp_path / "kernels.html"
    page.write_bytes(chart_html(two_kernels()))
    drawn = re.sub(r"<script.*?</script>", "", rendered(page), flags=re.DOTALL)
    assert len(re.findall(r'<g class="trace scatter', drawn)) == 4
    for text in ("fast", "slow", "roofline of TTT-Linear", "roofline of TTT-MLP", *BUTTONS):
        assert f">{text}</text>" in drawn


def test_the_picture() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert kernels_png(two_kernels()).startswith(b"\x89PNG")
    assert kernels_png(make_results()).startswith(b"\x89PNG"), "one batch, and kernels without a time"
    assert kernels_png(make_both()).startswith(b"\x89PNG"), "two panels"
    assert plt.get_fignums() == before


def test_what_was_judged_invalid_is_gray_and_says_why(tmp_path: Path) -> None:
    import matplotlib.image
    from matplotlib.colors import to_rgb

    results = two_kernels()
    cell = results.cell("fast", 64)
    assert cell is not None
    before = kernels_png(results)
    cell.verdict, cell.reasons = "invalid", ["other_process", "short_section"]
    lines = traces(results, 0)
    colors = lines["fast"]["marker"]["color"]
    assert colors[1] != colors[0] == colors[2]
    assert set(lines["slow"]["marker"]["color"]).isdisjoint({colors[1]})
    assert lines["fast"]["hovertext"] == ["", "invalid: other_process, short_section", ""]

    pictures = []
    for name, content in (("before.png", before), ("after.png", kernels_png(results))):
        (tmp_path / name).write_bytes(content)
        pictures.append(matplotlib.image.imread(tmp_path / name)[..., :3])
    points = [int((abs(picture - to_rgb(GRAY)).max(-1) < 0.01).sum()) for picture in pictures]
    assert points[1] > points[0] + 50, "a point of its own"
