"""GPM's readings, each of the span since the one before."""

import pynvml
import pytest

from tests.telemetry.fake_nvml import FUNCTION_NOT_FOUND, GPU_IS_LOST, GPU_UUID, MIG_UUID, NOT_SUPPORTED, FakeNvml
from ttt_mlflow.telemetry import gpm
from ttt_mlflow.telemetry.gpm import GpmReader
from ttt_mlflow.telemetry.nvml import find_device


class Clock:
    """The host's monotonic clock, as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(gpm.time, "monotonic", lambda: self.now_s)

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def reader(nvml: FakeNvml, uuid: str = GPU_UUID) -> GpmReader:
    nvml.nvmlInit()
    return GpmReader(nvml, find_device(nvml, uuid))


def test_a_reading_covers_the_span_since_the_one_before(nvml: FakeNvml, clock: Clock) -> None:
    one = reader(nvml)
    clock.pass_by(0.5)
    assert one.read() == {
        "sm_active_pct": 99.5,
        "tensor_active_pct": 66.5,
        "dram_bandwidth_pct": 74.25,
        "gpm_span_ms": pytest.approx(500),
    }
    nvml.gpm_values[10] = 12.0
    clock.pass_by(0.2)
    second = one.read()
    assert second["dram_bandwidth_pct"] == 12
    assert second["gpm_span_ms"] == pytest.approx(200)
    assert len(nvml.gpm_buffers) == 2, "two buffers that take turns"
    assert one.query.calls == 2


def test_samples_closer_than_nvml_refreshes_them_are_not_taken(nvml: FakeNvml, clock: Clock) -> None:
    one = reader(nvml)
    for _ in range(2):
        clock.pass_by(0.05)
        assert one.read() == {}
    assert len(nvml.gpm_taken) == 1
    clock.pass_by(0.05)
    assert one.read()["gpm_span_ms"] == pytest.approx(150)


@pytest.mark.parametrize("how", ["unsupported", "unknown", "no sample"])
def test_a_card_without_gpm(how: str, nvml: FakeNvml, clock: Clock) -> None:
    if how == "unsupported":
        nvml.gpm = 0
    else:
        name = "nvmlGpmQueryDeviceSupport" if how == "unknown" else "nvmlGpmSampleGet"
        nvml.refuses[name] = FUNCTION_NOT_FOUND
    one = reader(nvml)
    for _ in range(3):
        clock.pass_by(1)
        assert one.read() == {}
    assert one.query.refused == ("Not Supported" if how == "unsupported" else "Function Not Found")
    assert nvml.calls["nvmlGpmSampleGet"] <= 1
    one.close()
    assert nvml.gpm_buffers == []


def test_a_metric_that_is_refused_is_named_and_the_others_go_on(nvml: FakeNvml, clock: Clock) -> None:
    nvml.gpm_returns[5] = NOT_SUPPORTED
    one = reader(nvml)
    for _ in range(2):
        clock.pass_by(1)
        assert set(one.read()) == {"sm_active_pct", "dram_bandwidth_pct", "gpm_span_ms"}
    assert one.refused == {"gpm_tensor_active_pct": "Not Supported"}
    assert one.query.refused is None


def test_without_any_metric_there_is_no_gpm(nvml: FakeNvml, clock: Clock) -> None:
    nvml.gpm_returns = dict.fromkeys((2, 5, 10), NOT_SUPPORTED)
    one = reader(nvml)
    clock.pass_by(1)
    assert one.read() == {}
    assert one.query.refused is not None
    assert len(one.refused) == 3


def test_a_value_that_is_no_number_is_no_reading(nvml: FakeNvml, clock: Clock) -> None:
    nvml.gpm_values[5] = float("nan")
    one = reader(nvml)
    clock.pass_by(1)
    assert "tensor_active_pct" not in one.read()
    assert one.refused == {}


def test_a_card_that_is_lost_ends_gpm(nvml: FakeNvml, clock: Clock) -> None:
    one = reader(nvml)
    nvml.refuses["nvmlGpmSampleGet"] = GPU_IS_LOST
    clock.pass_by(1)
    assert one.read() == {}
    assert one.query.refused == "stopped answering after 0 answers: GPU is lost"


def test_an_instances_counters_are_asked_of_its_card(nvml: FakeNvml, clock: Clock) -> None:
    nvml.uuids = [GPU_UUID, MIG_UUID]
    one = reader(nvml, MIG_UUID)
    clock.pass_by(1)
    assert one.read()["dram_bandwidth_pct"] == 74.25
    assert {of for of, _ in nvml.gpm_taken} == {(GPU_UUID, 9)}
    assert one.query.of == "instance"


def test_an_instance_that_refuses_gpm_is_named(nvml: FakeNvml, clock: Clock) -> None:
    nvml.uuids = [GPU_UUID, MIG_UUID]
    nvml.refuses["nvmlGpmMigSampleGet"] = NOT_SUPPORTED
    assert reader(nvml, MIG_UUID).query.refused == "Not Supported"


def test_the_metrics_have_pynvmls_names() -> None:
    assert [getattr(pynvml, name) for name in gpm.METRICS.values()] == [2, 5, 10]
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 1
    request.sample1 = request.sample2 = pynvml.c_nvmlGpmSample_t()
    request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
    assert (request.metrics[0].nvmlReturn, request.metrics[0].value) == (0, 0.0)
