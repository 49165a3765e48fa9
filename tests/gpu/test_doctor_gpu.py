"""The doctor on a machine with a GPU, and the roofline of a run once the card's ceilings are kept."""

from pathlib import Path

import pytest
import torch

from tests.runs import measured_in
from ttt_mlflow.app.doctor import diagnosis, finding, gpu
from ttt_mlflow.run import gpu_ceilings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
RUN = {"model_name": "ttt-profile", "batch": 64, "genlen": 64, "warmup": 1, "repeats": 3}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_doctor_knows_the_card(tmp_path: Path) -> None:
    asked = finding.Asked(tmp_path / "runs", f"sqlite:///{tmp_path}/mlflow.db", None)
    before = {finding.name: finding for finding in diagnosis.diagnose(asked, seconds=60)}
    for name in ("gpu", "clocks", "telemetry", "gpm", "triton", "logdir", "temp", "tracking"):
        assert before[name].state == "ok", before[name]
    assert "unknown" not in before["clocks"].found
    assert "doctor --measure" in before["ceilings"].found
    measured = gpu.measure_gpus(lambda text: None)
    assert len(measured) == torch.cuda.device_count()
    after = {finding.name: finding for finding in diagnosis.diagnose(asked, seconds=60)}
    assert after["ceilings"].state == "ok"


def test_the_first_run_measures_the_card_and_each_run_has_a_roofline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # other tests may use the same GPU; what a run says then is tested in tests/run/test_gpu_ceilings.py
    monkeypatch.setattr(gpu_ceilings, "_computing", lambda sampler: [])
    first = measured_in(tmp_path / "runs", RUN)
    assert "The GPU's ceilings were not known and took " in first.output
    assert "they are kept for later runs" in first.output
    known = measured_in(tmp_path / "runs", RUN)
    assert "ceilings were not known" not in known.output
    assert known.failure is None, known.log
    floors = [run.metrics["roofline_ms"] for run in (first, known)]
    assert floors[0] == floors[1], "both use what was kept"
    # the memory of that measurement is not the run's
    assert first.metrics["peak_memory_allocated_gb"] == known.metrics["peak_memory_allocated_gb"]
    assert 0 < known.metrics["roofline_pct"] <= 100, "no step is faster than its floor"
    # no speed, which may be any: the floor is the least time that there is
    assert known.metrics["roofline_ms"] < known.metrics["decode_step_ms_mean"]
    assert "roofline/step.png" in known.artifacts
