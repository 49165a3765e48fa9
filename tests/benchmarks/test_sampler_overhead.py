import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.sampler_overhead import WARMUP_PASSES, Sampler, main, measure, overhead, summary
from tests.telemetry.fake_nvml import GPU_UUID, FakeNvml
from ttt_mlflow.run.lifecycle import open_sampler
from ttt_mlflow.run.reporter import Reporter


class Stage:
    """A pass and samplers that write down what happens."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.sampling = False
        self.samples: list[dict[str, float]] = []

    def one_pass(self) -> float:
        self.events.append("on" if self.sampling else "off")
        self.samples.append({})
        return 100.1 if self.sampling else 100.0

    def open(self) -> Sampler:
        return self

    def __enter__(self) -> object:
        self.sampling = True
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.sampling = False

    def stop(self) -> None:
        self.events.append("stop")

    def mark(self, edge: str) -> None:
        self.events.append(edge)


def test_the_order_of_the_passes() -> None:
    stage = Stage()
    result = measure(stage.one_pass, stage.open, 6)
    watched = ["begin", "on", "end"]
    unwatched = ["stop", "off"]
    pair_of_pairs = [*watched, *unwatched, *unwatched, *watched]
    assert stage.events == ["off"] * WARMUP_PASSES + pair_of_pairs * 3
    assert (result.on_ms, result.off_ms, result.samples) == ([100.1] * 6, [100.0] * 6, 6)
    assert result.change_pct == pytest.approx(0.1)
    assert result.within


def test_a_difference_within_pairs_is_seen_through_what_they_share() -> None:
    """The machine gets 40 % slower meanwhile; each pass with the sampler takes half a percent longer."""
    off = [100.0 + i for i in range(40)]
    result = overhead([1.005 * ms for ms in off], off, 0)
    assert (result.change_pct, result.low_pct, result.high_pct) == pytest.approx((0.5, 0.5, 0.5))
    assert not result.within
    assert "MISS  the whole 95 % confidence interval within ±0.2 %" in summary(result, {"configuration": "here"})


def test_an_interval_that_reaches_too_far_is_a_miss() -> None:
    result = overhead([99.0, 101.0] * 5, [100.0] * 10, 0)
    assert result.change_pct == pytest.approx(0)
    assert not result.within


def test_too_few_pairs() -> None:
    with pytest.raises(ValueError, match="at least 6 pairs"):
        overhead([1.0] * 5, [1.0] * 5, 0)


def test_with_the_sampler_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML is a stand-in, the sampler and its thread are not; a pass beside the thread lasts until it has sampled."""
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("ttt_mlflow.telemetry.host.device_uuid", lambda device: GPU_UUID)
    sampler: Sampler | None = None
    watched: list[bool] = []

    def open_one() -> Sampler:
        nonlocal sampler
        sampler = open_sampler(torch.device("cuda"), Reporter(Console(quiet=True)))
        assert sampler is not None
        return sampler

    def one_pass() -> float:
        threads = [thread for thread in threading.enumerate() if thread.name == "nvml-sampler"]
        watched.append(bool(threads))
        if threads and sampler is not None:
            count = len(sampler.samples)
            while len(sampler.samples) <= count:
                threads[0].join(0.001)
        return 100.0

    result = measure(one_pass, open_one, 6)
    assert watched == [False] * WARMUP_PASSES + [True, False, False, True] * 3
    assert result.samples >= 6
    assert nvml.open_count == 0  # every sampler let go of it


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--model", "ttt-tiny"]) == 2
    assert "this benchmark samples a GPU, but there is none" in capsys.readouterr().err
    assert main([str(tmp_path), "--pairs", "5"]) == 2


def test_what_is_written_can_be_read_again() -> None:
    result = overhead([1.0] * 6, [1.0] * 6, 3)
    assert json.loads(json.dumps(result.__dict__))["samples"] == 3
