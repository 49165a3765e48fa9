"""The host's clock is set while a run goes on: sections keep their length, and what was sampled in them stays there."""

import os
import time

import pytest

from tests.telemetry.fake_nvml import GPU_UUID, FakeNvml, process, utilization
from ttt_mlflow.telemetry.clock import SteadyClock
from ttt_mlflow.telemetry.quiet import wait_until_quiet
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import summarize

HOUR_NS = 3600 * 10**9
FOREIGN = 2**30  # a number that no process of this host has
host_ns = time.time_ns


class Host:
    """A host whose clock is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.by_ns = 0
        patch.setattr(time, "time_ns", lambda: host_ns() + self.by_ns)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_the_clock_is_that_of_the_host_and_then_steady(host: Host) -> None:
    clock = SteadyClock()
    assert abs(clock.now_ns() - host_ns()) < 10**9
    host.by_ns = -HOUR_NS
    assert abs(clock.now_ns() - host_ns()) < 10**9
    assert abs(clock.of_host_ns(time.time_ns() - 5 * 10**9) - (clock.now_ns() - 5 * 10**9)) < 10**9


@pytest.mark.parametrize("by_ns", [-HOUR_NS, HOUR_NS])
def test_a_section_keeps_its_length_and_its_samples(by_ns: int, host: Host, nvml: FakeNvml) -> None:
    with NvmlSampler.open(GPU_UUID, hz=500) as sampler:
        began = time.perf_counter()
        sampler.mark("begin")
        nvml.wait_for_samples(2)
        host.by_ns = by_ns
        nvml.wait_for_samples(3)
        sampler.mark("end")
        lasted = time.perf_counter() - began
        assert sampler.recent_sm_clocks(60.0), "of the last minute"
    (section,) = sampler.sections
    assert 0 < section.seconds <= lasted
    frame = sampler.frame()
    assert frame["time_ns"].is_monotonic_increasing
    assert frame["measured"].sum() >= 4
    assert summarize(frame, sampler.sections)


@pytest.mark.parametrize("by_ns", [0, -HOUR_NS, HOUR_NS])
def test_another_process_is_seen_to_compute(by_ns: int, host: Host, nvml: FakeNvml) -> None:
    """NVML's times of utilization are of the clock that was set."""
    nvml.processes = [process(os.getpid()), process(FOREIGN)]
    sampler = NvmlSampler.open(GPU_UUID)
    host.by_ns = by_ns
    sampler.mark("begin")
    # NVML answers what is newer than the time that it is given
    nvml.process_utilization = [utilization(os.getpid(), 90, time.time_ns() // 1000 + 1000)]
    nvml.process_utilization.append(utilization(FOREIGN, 55, time.time_ns() // 1000 + 1000))
    time.sleep(0.01)
    sampler.mark("end")
    sampler.stop()
    (other,) = sampler.other_processes() or []
    assert (other.pid, other.sm_utilization_pct) == (FOREIGN, 55.0)


@pytest.mark.parametrize("by_ns", [-HOUR_NS, HOUR_NS])
def test_the_waiting_for_a_quiet_gpu_ends_in_time(by_ns: int, host: Host) -> None:
    clock, samples = SteadyClock(), []

    def sleep(seconds: float) -> None:
        host.by_ns = by_ns
        samples.append({"time_ns": clock.now_ns(), "gpu_utilization_pct": 0.0})
        time.sleep(0.001)

    began = time.perf_counter()
    assert wait_until_quiet(samples, lambda text: None, clock.now_ns, most_s=30, look_back_s=0.05, sleep=sleep) == []
    assert 0.05 <= time.perf_counter() - began < 20
