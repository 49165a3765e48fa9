"""The raw results, and what is derived from them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.record.micro_results import CellResult, KernelResult, MicroResults

CONFIG = {"dtype": "float16", "heads": "32", "head_dim": "64"}


def make_results() -> MicroResults:
    """Two kernels on a GPU: one right, with a batch that did not fit; one wrong."""
    return MicroResults(
        config=CONFIG,
        device_name="a card",
        l2_bytes=50_000_000,
        ceilings={"card_read_gb_per_s": 4000.0, "card_copy_gb_per_s": 3900.0, "card_matmul_tflops": 700.0},
        kernels=[
            KernelResult(name="good", layer_type="linear", form="rank-1", first_use_s=0.5, error=3e-4),
            KernelResult(
                name="bad",
                layer_type="mlp",
                form="rank-1",
                status="error",
                message="not timed: wrong result: relative error 5.0e-01 against float64, float16 may have 1e-03",
                first_use_s=1.25,
                error=0.5,
            ),
        ],
        cells=[
            CellResult(
                kernel="good", batch=128, floor_bytes=48e6, us=[15.0, 16.0, 17.0], launches=80, copies=5,
                copy_bytes=60_000_000, telemetry={"sm_clock_mhz_mean": 1900.0, "power_w_mean": 600.0}, ended_ms=1000,
            ),
            CellResult(
                kernel="good", batch=4096, floor_bytes=1536e6, status="oom", message="out of memory: it does not fit",
                ended_ms=2000,
            ),
            CellResult(kernel="bad", batch=128, floor_bytes=300e6, status="error", message="not timed", ended_ms=3000),
        ],
    )  # fmt: skip


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    results = make_results()
    path.write_text(results.model_dump_json(indent=1))
    assert MicroResults.read(path) == results


def test_derived_values() -> None:
    results = make_results()
    timed, oom, wrong = results.cells
    assert timed.quantiles == pytest.approx((16.0, 15.4, 16.6))
    assert timed.gb_per_s == pytest.approx(3000.0)
    assert results.read_ceiling_pct(timed) == pytest.approx(75.0)
    assert results.l2_sizes(timed) == pytest.approx(4.8)
    for cell in (oom, wrong):
        assert cell.quantiles is None
        assert cell.gb_per_s is None
        assert results.read_ceiling_pct(cell) is None
        assert results.l2_sizes(cell) is None
    assert results.cell("good", 4096) is oom
    assert results.cell("good", 1) is None
    assert results.kernel("bad").error == 0.5


def make_both() -> MicroResults:
    """A kernel for steps and one for prompts: 100 TFLOP/s and 1,000 GB/s on a GPU with 700 and 4,000."""
    results = make_results()
    results.config |= {"promptlen": "2048"}
    results.kernels.append(KernelResult(name="prompts", layer_type="mlp", form="rank-1", first_use_s=1.0, error=2e-4))
    results.cells[0].flops = 640e6
    for batch in (16, 64):
        results.cells.append(
            CellResult(
                kernel="prompts", batch=batch, promptlen=2048, floor_bytes=batch * 1e8, flops=batch * 1e10,
                us=[batch * 100.0] * 3, launches=2, copies=2, ended_ms=4000,
            )
        )  # fmt: skip
    return results


def test_operations_and_tokens() -> None:
    results = make_both()
    step, prompt = results.cells[0], results.cells[-1]
    assert (step.mode, step.tokens, prompt.mode, prompt.tokens) == ("decode", 128, "prefill", 64 * 2048)
    assert step.tokens_per_s == pytest.approx(8e6)
    assert prompt.tokens_per_s == pytest.approx(64 * 2048 / 6400e-6)
    assert (step.tflops, prompt.tflops) == pytest.approx((40.0, 100.0))
    assert results.matrix_ceiling_pct(prompt) == pytest.approx(100 / 7)
    assert results.read_ceiling_pct(prompt) == pytest.approx(25.0)
    assert results.roofline_pct(prompt) == pytest.approx(25.0)
    prompt.flops = 4 * 64e10
    assert results.roofline_pct(prompt) == pytest.approx(400 / 7)
    assert results.roofline_pct(step) == results.read_ceiling_pct(step)


def test_the_matrix_rate_was_not_measured_for_float32() -> None:
    results = make_both()
    results.config["dtype"] = "float32"
    prompt = results.cells[-1]
    assert prompt.tflops == pytest.approx(100.0)
    assert results.read_ceiling_pct(prompt) == pytest.approx(25.0)
    assert results.matrix_ceiling_pct(prompt) is results.roofline_pct(prompt) is None


def test_a_record_of_an_earlier_version_has_no_operations(tmp_path: Path) -> None:
    written = make_results().model_dump(mode="json")
    for cell in written["cells"]:
        del cell["flops"], cell["promptlen"]
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(written))
    results = MicroResults.read(path)
    timed = results.cells[0]
    assert (timed.mode, timed.tokens, timed.tflops) == ("decode", 128, None)
    assert results.matrix_ceiling_pct(timed) is results.roofline_pct(timed) is None
    assert results.read_ceiling_pct(timed) == pytest.approx(75.0)


def test_failures_are_named_once_a_kernel_or_once_a_batch() -> None:
    results = make_results()
    assert results.failures == {
        "bad": results.kernels[1].message,
        "good batch 4096": "out of memory: it does not fit",
    }


def test_without_a_ceiling_there_is_no_share_of_it() -> None:
    results = make_results().model_copy(update={"ceilings": {}, "l2_bytes": None})
    assert results.read_ceiling_pct(results.cells[0]) is None
    assert results.l2_sizes(results.cells[0]) is None


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=30))
def test_the_quantiles_are_those_of_triton(us: list[float]) -> None:
    from triton.testing import _quantile

    cell = CellResult(kernel="k", batch=1, floor_bytes=1.0, us=us)
    assert cell.quantiles == pytest.approx(_quantile(us, [0.5, 0.2, 0.8]))
    assert np.isfinite(cell.gb_per_s or np.nan)
