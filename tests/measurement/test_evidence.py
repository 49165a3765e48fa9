"""What is brought before the verdict, from a stand-in for NVML."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.fake_nvml import GPU_UUID, NOT_SUPPORTED, FakeNvml
from ttt_mlflow.measurement.evidence import GpuEvidence, _explained_by_power, evidence, gpu_evidence
from ttt_mlflow.measurement.loop import Measurement
from ttt_mlflow.measurement.timing import StepTimes
from ttt_mlflow.names import CLOCK_EVENT_REASONS
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import Section


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def a_pass(ms: float, complete: bool = True) -> StepTimes:
    return StepTimes(step_ms=np.array([ms / 2, ms / 2]), total_ms=ms, wall_ms=ms, complete=complete)


def test_the_measurement() -> None:
    measurement = Measurement(repeats=[a_pass(100), a_pass(101), a_pass(99), a_pass(100), a_pass(50, complete=False)])
    found = evidence(measurement, None, True, 0.5)
    assert found.passes == 4
    assert found.section_s == pytest.approx(0.4)
    assert found.relative_half_width_pct == measurement.relative_half_width_pct
    assert found.drift == measurement.drifts()["drift"]
    assert found.gpu is None
    assert not found.interrupted


def test_the_card_in_the_sections_alone(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(GPU_UUID)
    thermal = 1 << CLOCK_EVENT_REASONS.index("sw_thermal_slowdown")
    sampler._sample()
    sampler.mark("begin")
    for clock, reasons in ((1980, 0), (1500, 4), (1410, thermal), (1980, 0)):
        nvml.sm_clock, nvml.reasons = clock, reasons
        sampler._sample()
    sampler.mark("end")
    nvml.sm_clock, nvml.reasons = 345, 1
    sampler._sample()
    found = gpu_evidence(sampler, sampler.sections)
    assert found.sm_clock_mhz == [1980, 1500, 1410, 1980]
    assert found.power_explained == [True] * 4, "all were taken at nearly the same time"
    assert found.event_pct is not None
    assert {name: share for name, share in found.event_pct.items() if share} == {
        "sw_power_cap": 25.0,
        "sw_thermal_slowdown": 25.0,
    }
    nothing = gpu_evidence(sampler, [])
    assert (nothing.sm_clock_mhz, nothing.event_pct) == ([], None)


def rows(*samples: tuple[int, float, int]) -> pd.DataFrame:
    """Samples of ms, clock and reasons."""
    frame = pd.DataFrame(samples, columns=["ms", "sm_clock_mhz", "clock_event_reasons"])
    return frame.assign(time_ns=frame.pop("ms") * 1_000_000)


CAPPED = 4
# from an H200 that decodes after a prompt which drew up to 920 W
LATE = [(4500, 1980, 0), (4550, 1980, 0), (4650, 1515, 0), (4700, 1515, 0), (4750, 1875, CAPPED), (4800, 1875, CAPPED)]


def test_the_power_cap_may_be_named_later_than_the_clock_falls() -> None:
    frame = rows(*LATE)
    assert _explained_by_power(frame, frame) == [False, False, True, True, True, True]
    assert _explained_by_power(frame[:4], frame) == [False, False, True, True], "also if it is named between the passes"


@given(st.lists(st.tuples(st.integers(0, 1000), st.just(1980.0), st.sampled_from([0, 1, CAPPED, CAPPED + 1]))))
def test_what_is_near_a_sample_with_the_power_cap(samples: list[tuple[int, float, int]]) -> None:
    frame = rows(*sorted(samples))
    capped = [ms for ms, _, reasons in samples if reasons & CAPPED]
    near = [any(abs(ms - one) <= 150 for one in capped) for ms, _, _ in sorted(samples)]
    assert _explained_by_power(frame, frame) == near


def test_what_the_card_refuses_stays_unknown(nvml: FakeNvml) -> None:
    nvml.refuse_everything(NOT_SUPPORTED)
    sampler = NvmlSampler.open(GPU_UUID)
    sampler.mark("begin")
    sampler._sample()
    sampler.mark("end")
    found = gpu_evidence(sampler, sampler.sections)
    assert found == GpuEvidence()


def test_what_is_counted_is_that_of_all_sections(nvml: FakeNvml) -> None:
    def section(begin: int, **counted: Any) -> Section:
        return Section(begin, begin + 1_000_000_000, **counted)

    known = [
        section(0, violation_s={"thermal": 0.0}, ecc_uncorrected_errors=1),
        section(5, violation_s={"thermal": 0.5}, ecc_uncorrected_errors=2),
    ]
    sampler = NvmlSampler.open(GPU_UUID)
    found = gpu_evidence(sampler, known)
    assert found.thermal_violation_pct == pytest.approx(25)
    assert found.ecc_uncorrected == 3
    half = gpu_evidence(sampler, [*known, section(9)])
    assert (half.thermal_violation_pct, half.ecc_uncorrected) == (None, None)


def test_reasons_that_stopped_coming_are_not_known(nvml: FakeNvml) -> None:
    """The clocks of the later samples could not be judged without them."""
    sampler = NvmlSampler.open(GPU_UUID)
    sampler.mark("begin")
    sampler._sample()
    nvml.refuses["nvmlDeviceGetCurrentClocksEventReasons"] = NOT_SUPPORTED
    sampler._sample()
    sampler.mark("end")
    found = gpu_evidence(sampler, sampler.sections)
    assert found.sm_clock_mhz == [1980, 1980]
    assert (found.power_explained, found.event_pct) == (None, None)
