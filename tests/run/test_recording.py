"""The roofline of a run: counts always, times where the card's ceilings are known, and a word where they are not."""

import csv
import gc
import io
import logging
import weakref
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.catalog import ARTIFACT_PATHS, METRIC_NAMES, by_name
from ttt_mlflow.config import RunConfig
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown
from ttt_mlflow.measurement.roofline import floor_ms
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.models.ttt.sizes import config_of
from ttt_mlflow.models.ttt.work import decode_stages, prefill_stages
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.rounding import rounded
from ttt_mlflow.run import gpu_ceilings
from ttt_mlflow.run.gpu_ceilings import find_ceilings
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.recording import record_roofline
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.workload import ATTENTION, PARTS, Workload

CEILINGS = GpuCeilings(read_gb_per_s=4480.0, copy_gb_per_s=4270.0, matmul_tflops=700.0)
USED = RunConfig.parse({"model_name": "ttt-1b", "batch": 128, "promptlen": 20, "inner_net": "mlp_1_dual"})


class Recorder:
    """Records the roofline of ``ttt-1b`` with batch 128 as on a device of one's choice."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal.create(folder, USED.model_dump(mode="json"))
        self.said = Console(file=io.StringIO(), width=400)

    def record(
        self,
        measured_ms: float | None,
        mode: str = "decode",
        device: str = "cuda",
        dtype: torch.dtype = torch.float16,
        entry: ModelEntry | None = None,
    ) -> dict[str, float]:
        used = USED.model_copy(update={"mode": mode})
        request = ModelRequest(used.model_name, used.inner_net, dtype, torch.device(device), 0, None)
        workload = Workload(mode, used.batch, used.promptlen, used.genlen)
        plan = Plan(USED, used, workload, entry or find_model("ttt-1b"), request, [], None)
        reporter = Reporter(self.said)
        roofline = record_roofline(self.journal, reporter, plan, measured_ms, find_ceilings(plan, reporter, None))
        assert by_name(rounded(roofline.metrics)) == self.journal.metrics
        return by_name(roofline.metrics)

    @property
    def output(self) -> str:
        assert isinstance(self.said.file, io.StringIO)
        return self.said.file.getvalue()

    @property
    def parts(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.journal.artifacts / "roofline/parts.csv").open()))

    @property
    def picture(self) -> Path:
        return self.journal.artifacts / "roofline/step.png"


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(gpu_ceilings, "known_ceilings", lambda device: CEILINGS)
    return Recorder(tmp_path)


def test_a_decode_run_on_a_known_card(recorder: Recorder) -> None:
    metrics = recorder.record(measured_ms=1.9)
    expected = floor_ms(decode_stages(config_of("ttt-1b", "linear"), torch.float16, 128), CEILINGS)
    assert set(metrics) == {"min_bytes_per_step", "flops_per_step", "roofline_ms", "roofline_pct"} <= METRIC_NAMES
    assert metrics["roofline_ms"] == pytest.approx(expected, rel=1e-5)
    assert metrics["roofline_pct"] == pytest.approx(100 * expected / 1.9, rel=1e-5)
    assert [row["part"] for row in recorder.parts] == [part for part in PARTS if part != ATTENTION]
    assert sum(float(row["floor_ms"]) for row in recorder.parts) == pytest.approx(expected, rel=1e-5)
    assert sum(float(row["bytes"]) for row in recorder.parts) == pytest.approx(metrics["min_bytes_per_step"])
    assert recorder.picture.read_bytes().startswith(b"\x89PNG")
    assert {"roofline/parts.csv", "roofline/step.png"} <= ARTIFACT_PATHS
    assert recorder.output == ""


def test_in_prefill_mode_a_step_is_the_prompt(recorder: Recorder) -> None:
    metrics = recorder.record(measured_ms=30.0, mode="prefill")
    expected = floor_ms(prefill_stages(config_of("ttt-1b", "linear"), torch.float16, 128, 20), CEILINGS)
    assert metrics["roofline_ms"] == pytest.approx(expected, rel=1e-5)
    assert metrics["roofline_pct"] == pytest.approx(100 * expected / 30.0)


def test_nothing_measured_has_a_floor_and_no_share(recorder: Recorder) -> None:
    assert set(recorder.record(measured_ms=None)) == {"min_bytes_per_step", "flops_per_step", "roofline_ms"}
    assert not recorder.picture.exists()


def test_a_card_whose_ceilings_cannot_be_measured(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(device: torch.device) -> GpuCeilings:
        raise CeilingsUnknown("the ceilings of this card are not known; `ttt-mlflow doctor --measure` measures them")

    def fail(device: torch.device) -> GpuCeilings:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu_ceilings, "known_ceilings", unknown)
    monkeypatch.setattr(gpu_ceilings, "measure_ceilings", fail)
    with caplog.at_level(logging.WARNING):
        metrics = recorder.record(measured_ms=1.9)
    assert set(metrics) == {"min_bytes_per_step", "flops_per_step"}
    assert not recorder.picture.exists()
    assert {row["floor_ms"] for row in recorder.parts} == {""}
    assert "Note: roofline_ms and roofline_pct are not recorded" in recorder.output
    assert "`ttt-mlflow doctor --measure` measures them; measuring them now failed: " in recorder.output
    assert "doctor --measure" in caplog.text


def test_a_dtype_whose_matrix_rate_is_not_measured(recorder: Recorder) -> None:
    assert set(recorder.record(measured_ms=1.9, dtype=torch.float32)) == {"min_bytes_per_step", "flops_per_step"}
    assert "measured in 16-bit types, but the run uses torch.float32" in recorder.output


def test_a_note_that_a_handler_keeps_does_not_keep_the_callers_memory(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in a log record holds its traceback, and with it what every caller had in its variables."""

    class Model:
        pass

    def run() -> "weakref.ref[Model]":
        model = Model()
        recorder.record(2.0, dtype=torch.float32)
        return weakref.ref(model)

    kept = run()
    gc.collect()
    assert "are not recorded" in caplog.text
    assert kept() is None


def test_a_cpu_has_counts_and_no_ceilings(recorder: Recorder) -> None:
    assert set(recorder.record(measured_ms=900.0, device="cpu")) == {"min_bytes_per_step", "flops_per_step"}
    assert recorder.output == ""


def test_a_model_that_does_not_count_its_work(recorder: Recorder) -> None:
    entry = ModelEntry("toy", find_model("ttt-1b").factory, "counts nothing")
    assert recorder.record(measured_ms=1.9, entry=entry) == {}
    assert not (recorder.journal.artifacts / "roofline").exists()
