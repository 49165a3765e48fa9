"""What the card counts, from end to end of a section."""

import pynvml
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.fake_nvml import GPU_IS_LOST, GPU_UUID, FakeNvml
from ttt_mlflow.names import VIOLATION_POLICIES
from ttt_mlflow.telemetry.counters import SectionCounters
from ttt_mlflow.telemetry.nvml import find_device

COUNTERS = st.dictionaries(st.sampled_from(["energy", "violation_power", "violation_thermal"]), st.floats(0, 1e9))


def counters(nvml: FakeNvml) -> SectionCounters:
    return SectionCounters(nvml, find_device(nvml, GPU_UUID))


def test_units() -> None:
    nvml = FakeNvml()
    nvml.energy_mj, nvml.violation_ns[1], nvml.ecc_errors = 1_500, 2_500_000_000, 3
    read = counters(nvml).at_begin()
    assert (read["energy"], read["violation_thermal"], read["ecc_uncorrected_errors"]) == (1.5, 2.5, 3)
    assert set(read) == {"energy", "ecc_uncorrected_errors", *(f"violation_{policy}" for policy in VIOLATION_POLICIES)}


def test_energy_is_read_next_to_the_section() -> None:
    one = counters(FakeNvml())
    assert (list(one.at_begin())[-1], next(iter(one.at_end()))) == ("energy", "energy")


def test_a_counter_that_runs_backwards_is_not_known_and_named() -> None:
    nvml = FakeNvml()
    one = counters(nvml)
    begin = one.at_begin()
    nvml.violation_ns[0], nvml.ecc_errors = -1_000_000_000, 0
    counted = one.between(begin, one.at_end())
    assert not {"violation_power", "ecc_uncorrected_errors"} & set(counted)
    assert counted["energy"] == counted["violation_thermal"] == 0
    assert one.backwards == {
        "violation_power": "decreased by 1 in a section: not known there",
        "ecc_uncorrected_errors": "decreased by 7 in a section: not known there",
    }


def test_a_counter_that_stops_in_the_section_is_not_known_there() -> None:
    nvml = FakeNvml()
    one = counters(nvml)
    begin = one.at_begin()
    nvml.refuses["nvmlDeviceGetTotalEccErrors"] = GPU_IS_LOST
    assert "ecc_uncorrected_errors" not in one.between(begin, one.at_end())


@given(COUNTERS, COUNTERS)
def test_what_is_counted_is_known_at_both_ends_and_never_negative(
    begin: dict[str, float], end: dict[str, float]
) -> None:
    one = counters(FakeNvml())
    counted = one.between(begin, end)
    assert counted.keys() | one.backwards.keys() == begin.keys() & end.keys()
    assert not counted.keys() & one.backwards.keys()
    assert all(value >= 0 and value == end[name] - begin[name] for name, value in counted.items())


def test_the_policies_are_nvmls() -> None:
    numbers = [getattr(pynvml, f"NVML_PERF_POLICY_{policy.upper()}") for policy in VIOLATION_POLICIES]
    assert numbers == list(range(6))
