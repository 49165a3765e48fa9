"""What a sweep says about the GPUs of its host, before and after."""

from pathlib import Path

import pytest

from tests.app.sweep.test_board import NUMBERS
from tests.telemetry.conftest import nvml
from tests.telemetry.fake_nvml import FakeNvml, process
from ttt_mlflow.app.sweep.host_notes import marked_gpus, neighbor_notes, not_known_note, slower_notes
from ttt_mlflow.app.sweep.measured import Measured
from ttt_mlflow.config import SweepConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.neighbors_cache import NeighborChange, keep_neighbors
from ttt_mlflow.telemetry.gpus import Gpu

__all__ = ["nvml"]

GPUS = [Gpu(number, "NVIDIA H200", f"GPU-{number}", 150 * 10**9) for number in range(4)]


@pytest.fixture
def host(nvml: FakeNvml) -> FakeNvml:
    nvml.uuids = [gpu.uuid for gpu in GPUS]
    nvml.processes, nvml.utilization = [], 0
    nvml.process_names = {2**30: "python"}
    return nvml


def config(**values: str) -> SweepConfig:
    return SweepConfig.parse({"model_name": "ttt-1b", **values})


def run(gpu: int, rate: float, config_id: str = "c", **tags: str) -> Measured:
    known = {
        **{"ttt.config_id": config_id, "ttt.gpu_name": "NVIDIA H200", "ttt.gpu_uuid": str(gpu), "ttt.host": "h"},
        **{"ttt.code_id": "a", "ttt.method": "2", "ttt.verdict": "valid", "ttt.kind": "decode"},
    }
    named = {f"ttt.{name}": text for name, text in tags.items()}
    return Measured("ok", 0, {**known, **named}, {**NUMBERS, "decode_tokens_per_s": rate})


def test_gpus_as_they_should_be(host: FakeNvml) -> None:
    assert marked_gpus(config(), GPUS) == {}
    assert marked_gpus(config(), []) == {}


def test_each_fault_is_one_line_with_what_to_do(host: FakeNvml) -> None:
    host.users, host.utilizations = {"GPU-1": [process(2**30)]}, {"GPU-1": 61}
    host.power_limits = {"GPU-3": 500}
    with pytest.raises(BadInput) as refused:
        marked_gpus(config(), GPUS)
    assert str(refused.value).splitlines() == [
        "gpus=auto: GPU 1 (NVIDIA H200) is in use by python (pid 1073741824) (61 % busy); wait until it is idle, leave "
        "it out with gpus=0,2, or mark its numbers: any_gpu",
        "gpus=auto: GPU 3 (NVIDIA H200) has power limit 500 W, its siblings have 700 W; set it as they are, leave it "
        "out with gpus=0,2, or mark its numbers: any_gpu",
    ]
    with pytest.raises(BadInput, match=r"^gpus=1: GPU 1 .* wait until it is idle, or mark its numbers: any_gpu$"):
        marked_gpus(config(gpus="1"), GPUS[1:2])
    assert marked_gpus(config(gpus="0,2"), [GPUS[0], GPUS[2]]) == {}


def test_with_any_gpu_its_numbers_are_marked(host: FakeNvml) -> None:
    host.users, host.utilizations = {"GPU-3": [process(2**30)]}, {"GPU-3": 61}
    host.power_limits = {"GPU-3": 500}
    assert marked_gpus(config(any_gpu="true"), GPUS) == {
        "3": "GPU 3 (NVIDIA H200) is in use by python (pid 1073741824) (61 % busy); "
        "GPU 3 (NVIDIA H200) has power limit 500 W, its siblings have 700 W"
    }


def test_what_is_known_of_neighbors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert list(neighbor_notes(GPUS[:1], False)) == [], "one GPU has no neighbors"
    assert list(neighbor_notes(GPUS, False)) == []
    assert "is not known on this host; `ttt-mlflow doctor --neighbors` measures it" in str(not_known_note(GPUS))
    assert not_known_note(GPUS[:1]) is None
    same = NeighborChange("power-bound", "no significant difference", 0.1, -0.2, 0.3)
    keep_neighbors("0123", [same], [])
    assert list(neighbor_notes(GPUS[:2], False)) == []
    assert not_known_note(GPUS[:2]) is None
    slower = NeighborChange("launch-bound", "slower", -3.1, -3.6, -2.6)
    keep_neighbors("0123", [slower, same], ["GPU 3 is 1.8 % slower than the median of four (power-bound)"])
    offered, named = neighbor_notes(GPUS[:2], False)
    assert offered.startswith("launch-bound runs are 3.1 % slower [2.6, 3.6] beside others on this host (doctor")
    assert offered.endswith("; --exclusive measures launch-bound runs alone on the host")
    assert named.startswith("GPU 3 is 1.8 % slower than the median of four (power-bound) (2")
    assert "--exclusive" not in next(iter(neighbor_notes(GPUS, True))), "it was chosen"


def test_a_slower_gpu_is_named_by_runs_of_one_configuration() -> None:
    numbers = {str(gpu.number): gpu.number for gpu in GPUS}
    runs = [run(gpu, 100.0) for gpu in range(4)] + [run(0, 50.0, "other")]
    assert slower_notes(runs, numbers) == []
    runs[3] = run(3, 98.2)
    assert slower_notes(runs, numbers) == ["GPU 3 is 1.8 % slower than the median of four"]
    for tag in ("code_id", "method", "host", "gpu_name", "config_id"):
        assert slower_notes([*runs[:3], run(3, 98.2, **{tag: "another"})], numbers) == [], tag
    assert slower_notes([*runs[:3], run(3, 98.2, verdict="invalid")], numbers) == []
