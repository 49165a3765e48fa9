import threading
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from tests.telemetry import fake_nvml
from tests.telemetry.fake_nvml import GPU_UUID, MIG_UUID, OTHER_UUID, FakeNvml
from ttt_mlflow.names import VIOLATION_POLICIES
from ttt_mlflow.run.lifecycle import open_sampler
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry import gpm
from ttt_mlflow.telemetry import sampler as telemetry
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable
from ttt_mlflow.telemetry.sampler import NvmlSampler, uneven
from ttt_mlflow.telemetry.samples import summarize

TORCH_UUID = GPU_UUID.removeprefix("GPU-")
WAIT_SECONDS = 30.0


def take(sampler: NvmlSampler, count: int) -> None:
    """Samples at once, without the thread."""
    for _ in range(count):
        sampler._sample()


def test_a_thread_samples_until_it_is_stopped(nvml: FakeNvml) -> None:
    with NvmlSampler.open(TORCH_UUID, hz=1000) as sampler:
        probe, samples = 1, 5
        for _ in range(probe + samples):
            assert nvml.sampled.acquire(timeout=WAIT_SECONDS)
    assert len(sampler.samples) >= samples
    assert sampler.refused == {}
    assert nvml.open_count == 0
    assert "nvml-sampler" not in {thread.name for thread in threading.enumerate()}
    frame = sampler.frame()
    assert frame["time_ns"].is_monotonic_increasing
    assert (frame["read_ms"] >= 0).all()


def test_a_row_holds_every_reading(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 1)
    row = sampler.frame().drop(columns=["time_ns", "read_ms"]).iloc[0].to_dict()
    assert 20 <= row.pop("power_instant_age_ms") < 1000 * WAIT_SECONDS
    assert row == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 3201,
        "power_w": 500.0,
        "power_instant_w": 630.25,
        "temperature_c": 41,
        "gpu_utilization_pct": 97,
        "memory_utilization_pct": 60,
        "memory_used_bytes": 20_000_000_000,
        "clock_event_reasons": 4,
        "measured": False,
    }
    assert sampler.memory_total_bytes == 150_754_820_096


@pytest.mark.parametrize(
    ("asked", "known", "found"),
    [
        (TORCH_UUID, GPU_UUID, GPU_UUID),
        (GPU_UUID, GPU_UUID, GPU_UUID),
        (MIG_UUID.removeprefix("MIG-"), MIG_UUID, MIG_UUID),
        (MIG_UUID, MIG_UUID, MIG_UUID),
    ],
)
def test_the_device_is_found_by_uuid(nvml: FakeNvml, asked: str, known: str, found: str) -> None:
    nvml.uuids = [known]
    assert NvmlSampler.open(asked).uuid == found


def test_an_unknown_device_is_unavailable(nvml: FakeNvml) -> None:
    with pytest.raises(TelemetryUnavailable, match=r"not recorded: .*no-such-gpu \(Not Found\); run nvidia-smi -L"):
        NvmlSampler.open("no-such-gpu")
    assert nvml.open_count == 0


def test_a_refused_query_is_asked_once_and_named(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetPowerUsage"] = fake_nvml.NOT_SUPPORTED
    nvml.field_return = fake_nvml.NOT_SUPPORTED
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 3)
    assert sampler.refused == {"power": "Not Supported", "power_instant": "Not Supported"}
    assert nvml.calls["nvmlDeviceGetPowerUsage"] == 1
    assert nvml.calls["nvmlDeviceGetFieldValues"] == 1
    assert not {"power_w", "power_instant_w"} & set(sampler.frame().columns)
    assert sampler.frame()["sm_clock_mhz"].tolist() == [1980] * 3


def test_recent_clocks_are_those_of_the_last_seconds(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    assert sampler.recent_sm_clocks(60) == []
    for clock in (345, 1500, 1980):
        nvml.sm_clock = clock
        take(sampler, 1)
    sampler.samples[0]["time_ns"] -= 120 * 10**9
    assert sampler.recent_sm_clocks(60) == [1500, 1980]
    assert sampler.recent_sm_clocks(600) == [345, 1500, 1980]


def test_a_card_that_does_not_say_its_clock_has_no_recent_ones(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 2)
    nvml.refuses["nvmlDeviceGetClockInfo"] = fake_nvml.GPU_IS_LOST
    take(sampler, 1)
    assert sampler.recent_sm_clocks(60) is None


@pytest.mark.parametrize("driver_lacks_it", [True, False])
def test_the_old_name_of_the_clock_events_serves_too(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, driver_lacks_it: bool
) -> None:
    if driver_lacks_it:
        nvml.refuses["nvmlDeviceGetCurrentClocksEventReasons"] = fake_nvml.FUNCTION_NOT_FOUND
    else:  # an nvidia-ml-py from before the new name
        monkeypatch.delattr(FakeNvml, "nvmlDeviceGetCurrentClocksEventReasons")
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 2)
    assert sampler.refused == {}
    assert sampler.frame()["clock_event_reasons"].tolist() == [4, 4]
    assert nvml.calls["nvmlDeviceGetCurrentClocksEventReasons"] <= 1


def test_other_spellings_of_memory_and_temperature(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetMemoryInfo_v2"] = fake_nvml.FUNCTION_NOT_FOUND
    nvml.refuses["nvmlDeviceGetTemperature"] = fake_nvml.FUNCTION_NOT_FOUND
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 1)
    assert sampler.refused == {}
    assert sampler.frame()["memory_used_bytes"].tolist() == [20_600_000_000]
    assert sampler.frame()["temperature_c"].tolist() == [41]


def test_a_query_that_fails_in_the_run_ends_alone(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 2)
    nvml.refuses["nvmlDeviceGetTemperature"] = fake_nvml.GPU_IS_LOST
    take(sampler, 2)
    assert sampler.refused == {"temperature": "stopped answering after 2 answers: GPU is lost"}
    frame = sampler.frame()
    assert frame["temperature_c"].isna().tolist() == [False, False, True, True]
    assert frame["sm_clock_mhz"].tolist() == [1980] * 4


def test_a_lost_gpu_ends_the_samples_and_not_the_run(nvml: FakeNvml) -> None:
    with NvmlSampler.open(TORCH_UUID, hz=1000) as sampler:
        assert nvml.sampled.acquire(timeout=WAIT_SECONDS)
        nvml.refuse_everything(fake_nvml.GPU_IS_LOST)
        sampler.mark("begin")
        sampler.mark("end")
    take(sampler, 1)  # whatever the thread still asked, nothing is left to ask
    count = len(sampler.samples)
    take(sampler, 1)
    assert len(sampler.samples) == count
    assert sampler.refused["energy"] == "stopped answering after 0 answers: GPU is lost"
    assert sampler.refused["sm_clock"].endswith("GPU is lost")
    assert sampler.sections[0].energy_j is None


def test_a_card_that_answers_nothing_gives_no_samples(nvml: FakeNvml) -> None:
    nvml.refuse_everything(fake_nvml.NOT_SUPPORTED)
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 2)
    assert sampler.frame().empty
    assert sampler.memory_total_bytes is None
    assert summarize(sampler.frame(), sampler.sections) == {}


def test_sections_mark_the_samples_and_read_the_energy_at_their_ends(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 1)
    for _ in range(2):
        sampler.mark("begin")
        take(sampler, 2)
        nvml.energy_mj += 250_000
        sampler.mark("end")
        take(sampler, 1)
    assert sampler.frame()["measured"].tolist() == [False, True, True, False, True, True, False]
    assert [section.energy_j for section in sampler.sections] == [250.0, 250.0]
    assert all(section.begin_ns <= section.end_ns for section in sampler.sections)
    assert nvml.calls["nvmlDeviceGetTotalEnergyConsumption"] == 1 + 4, "at the ends alone, and once to see whether"


def test_a_refused_energy_counter_is_asked_once(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetTotalEnergyConsumption"] = fake_nvml.NOT_SUPPORTED
    sampler = NvmlSampler.open(TORCH_UUID)
    for edge in ["begin", "end", "begin", "end"]:
        sampler.mark(edge)
    assert nvml.calls["nvmlDeviceGetTotalEnergyConsumption"] == 1
    assert sampler.refused == {"energy": "Not Supported"}
    assert [section.energy_j for section in sampler.sections] == [None, None]


@pytest.mark.parametrize("edges", [["end"], ["begin", "begin"], ["middle"]])
def test_sections_begin_and_end_in_turn(nvml: FakeNvml, edges: list[str]) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    *before, last = edges
    for edge in before:
        sampler.mark(edge)
    with pytest.raises(ValueError, match="out of order"):
        sampler.mark(last)


def test_a_section_that_did_not_end_is_none(nvml: FakeNvml) -> None:
    with NvmlSampler.open(TORCH_UUID) as sampler:
        sampler.mark("begin")
    assert sampler.sections == []


def test_stop_twice_lets_go_of_nvml_once(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID).start()
    sampler.stop()
    sampler.stop()
    assert nvml.open_count == 0


def test_a_call_that_never_returns_does_not_hold_the_run(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "STOP_SECONDS", 0.01)
    sampler = NvmlSampler.open(TORCH_UUID)
    hanging, release = threading.Event(), threading.Event()

    def hang(handle: object) -> int:
        hanging.set()
        release.wait(WAIT_SECONDS)
        return 0

    monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", hang)
    sampler.start()
    assert hanging.wait(WAIT_SECONDS)
    sampler.stop()
    assert "did not return" in sampler.refused["sampling"]
    assert nvml.open_count == 1  # NVML is not taken from under the call
    release.set()


def test_sampling_that_fails_is_told_and_costs_no_run(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(handle: object) -> int:
        failed.set()
        raise ZeroDivisionError("a fault of this program")

    with NvmlSampler.open(TORCH_UUID) as sampler:
        monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", fail)
        assert failed.wait(WAIT_SECONDS)
        sampler.mark("begin")
        sampler.mark("end")
    assert "samples (ZeroDivisionError: a fault of this program)" in sampler.refused["sampling"]
    assert len(sampler.sections) == 1


# What the card counts


def test_sections_have_what_the_card_counted_in_them(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(TORCH_UUID)
    sampler.mark("begin")
    nvml.violation_ns[0] += 1_500_000_000
    nvml.ecc_errors += 2
    nvml.energy_mj += 250_000
    sampler.mark("end")
    (section,) = sampler.sections
    assert section.violation_s == {policy: 1.5 if policy == "power" else 0.0 for policy in VIOLATION_POLICIES}
    assert section.ecc_uncorrected_errors == 2
    assert section.energy_j == 250.0
    assert sampler.refused == {}


def test_counters_that_the_card_does_not_have(nvml: FakeNvml) -> None:
    del nvml.violation_ns[5]
    nvml.refuses["nvmlDeviceGetTotalEccErrors"] = fake_nvml.NOT_SUPPORTED
    sampler = NvmlSampler.open(TORCH_UUID)
    for edge in ["begin", "end"]:
        sampler.mark(edge)
    assert sampler.refused == {"violation_reliability": "Not Supported", "ecc_uncorrected_errors": "Not Supported"}
    assert set(sampler.sections[0].violation_s) == set(VIOLATION_POLICIES) - {"reliability"}
    assert sampler.sections[0].ecc_uncorrected_errors is None
    assert nvml.calls["nvmlDeviceGetTotalEccErrors"] == 1


# The processes


def test_the_thread_and_the_sections_look_at_the_processes(nvml: FakeNvml) -> None:
    me, other = nvml.processes[0], fake_nvml.process(2**30)
    with NvmlSampler.open(TORCH_UUID, hz=1000) as sampler:
        assert sampler.other_processes() is None, "no section yet"
        sampler.mark("begin")
        nvml.processes = [me, other]
        sampler.mark("end")
        nvml.processes = [me]
    assert [(found.pid, found.memory_bytes) for found in sampler.other_processes() or []] == [(2**30, 3_000_000_000)]
    assert sampler.refused == {}


def test_the_thread_looks_between_the_ends_too(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "LOOKS_PER_SECOND", 1000.0)
    me, looked = nvml.processes[0], threading.Semaphore(0)
    original = FakeNvml.nvmlDeviceGetComputeRunningProcesses

    def list_processes(handle: object) -> object:
        if threading.current_thread().name == "nvml-sampler":
            looked.release()
        return original(nvml, handle)

    monkeypatch.setattr(nvml, "nvmlDeviceGetComputeRunningProcesses", list_processes)
    with NvmlSampler.open(TORCH_UUID, hz=1000) as sampler:
        sampler.mark("begin")
        nvml.processes = [me, fake_nvml.process(2**30)]
        while looked.acquire(blocking=False):
            pass
        for _ in range(2):  # one from beginning to end
            assert looked.acquire(timeout=WAIT_SECONDS)
        nvml.processes = [me]
        sampler.mark("end")
    assert [found.pid for found in sampler.other_processes() or []] == [2**30]


def test_processes_that_cannot_be_seen_are_named(nvml: FakeNvml) -> None:
    nvml.processes = []
    sampler = NvmlSampler.open(TORCH_UUID)
    assert sampler.refused == {}, "nobody computes yet"
    for edge in ["begin", "end"]:
        sampler.mark(edge)
    assert sampler.other_processes() is None
    assert "not visible from this container" in sampler.refused["processes"]
    assert "not visible" in str(sampler.queries().set_index("query").loc["processes", "refused"])


# GPM


def test_gpm_comes_with_the_rows_that_are_far_enough_apart(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(gpm.time, "monotonic", lambda: now_s[0])
    sampler = NvmlSampler.open(TORCH_UUID)
    for _ in range(6):
        now_s[0] += 0.05
        take(sampler, 1)
    frame = sampler.frame()
    assert frame["gpm_span_ms"].dropna().to_dict() == pytest.approx({2: 150.0, 5: 150.0})
    assert frame["dram_bandwidth_pct"].dropna().to_dict() == {2: 74.25, 5: 74.25}
    sampler.stop()
    assert nvml.gpm_buffers == []


# The record of the queries


def test_every_query_has_a_row(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetPowerUsage"] = fake_nvml.NOT_SUPPORTED
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 3)
    table = sampler.queries()
    assert list(table.columns) == ["query", "of", "calls", "mean_us", "max_us", "age_ms", "covers", "refused"]
    rows = table.set_index("query")
    expected = {
        *("sm_clock", "memory_clock", "power", "power_instant", "temperature", "utilization", "memory", "clock_events"),
        *("gpm", "energy", "ecc_uncorrected_errors", "memory_total", "process_utilization"),
        *("processes", "processes_graphics", "processes_mps"),
        *(f"violation_{policy}" for policy in VIOLATION_POLICIES),
    }
    assert set(rows.index) == expected
    assert rows.loc["power", "refused"] == "Not Supported"
    assert rows["refused"].isna().sum() == len(rows) - 1
    assert rows.loc["sm_clock", "calls"] == 3
    assert rows.loc["power", "calls"] == 0
    assert 0 < rows["mean_us"]["sm_clock"] <= rows["max_us"]["sm_clock"]
    assert 20 <= rows["age_ms"]["power_instant"] < 1000 * WAIT_SECONDS
    assert rows["covers"].str.len().min() > 0
    assert set(rows.loc[rows["refused"].isna(), "of"]) == {"GPU"}


# Several GPUs


def test_an_order_that_differs_from_nvmls_confuses_nothing(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CUDA_VISIBLE_DEVICES=1,0: PyTorch's first GPU is NVML's second."""
    nvml.uuids = [OTHER_UUID, GPU_UUID]
    nvml.sm_clocks = {OTHER_UUID: 345, GPU_UUID: 1980}
    of_torch = [TORCH_UUID, OTHER_UUID.removeprefix("GPU-")]
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=of_torch[device.index])
    )
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # also on a machine with a GPU
    for index, clock in enumerate([1980, 345]):
        sampler = open_sampler(torch.device("cuda", index), Reporter(Console(quiet=True)))
        assert sampler is not None
        take(sampler, 2)
        sampler.stop()
        assert sampler.uuid.removeprefix("GPU-") == of_torch[index]
        assert sampler.frame()["sm_clock_mhz"].tolist() == [clock] * 2


def test_what_an_instance_does_not_say_its_card_does(nvml: FakeNvml) -> None:
    nvml.uuids = [GPU_UUID, MIG_UUID]
    nvml.sm_clocks = {GPU_UUID: 1755}
    sampler = NvmlSampler.open(MIG_UUID)
    take(sampler, 1)
    for edge in ["begin", "end"]:
        sampler.mark(edge)
    assert sampler.frame()["sm_clock_mhz"].tolist() == [1755]
    of = sampler.queries().set_index("query")["of"]
    assert set(of[["memory", "processes", "gpm", "memory_total"]]) == {"instance"}
    assert set(of[["sm_clock", "power", "utilization", "clock_events", "violation_power"]]) == {"parent GPU"}
    # the card's energy is that of its other instances too
    assert sampler.refused == {"energy": "Not Supported", "process_utilization": "Not Supported"}
    assert sampler.sections[0].energy_j is None
    assert nvml.gpm_taken[0][0] == (GPU_UUID, 9), "of the instance, asked of its card"


# The cost


def test_the_energy_counter_is_never_read_in_a_section(nvml: FakeNvml) -> None:
    """Nor the other counters, nor by the rows the lists of processes: they are read at the ends, or now and then."""
    sampler = NvmlSampler.open(TORCH_UUID)
    sampler.mark("begin")
    before = dict(nvml.calls)
    take(sampler, 10)
    asked = {name for name, count in nvml.calls.items() if count != before.get(name)}
    sampler.mark("end")
    assert not asked & {
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetViolationStatus",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetComputeRunningProcesses",
    }


def test_the_thread_waits_as_long_as_the_uneven_pauses_say(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last of them it ends, and says so."""
    asked: list[float] = []

    def three(hz: float) -> Iterator[float]:
        asked.append(hz)
        yield from (0.0, 0.0, 0.0)

    monkeypatch.setattr(telemetry, "uneven", three)
    with NvmlSampler.open(TORCH_UUID, hz=0.001) as sampler:
        assert sampler._thread is not None
        sampler._thread.join(WAIT_SECONDS)
        assert not sampler._thread.is_alive(), "even pauses of 1,000 s would keep it waiting"
        assert len(sampler.samples) == 4
        assert asked == [0.001]


@given(period_s=st.floats(0.01, 1.0), share=st.floats(0.2, 0.8), phase=st.floats(0.0, 1.0))
@example(period_s=0.05, share=0.5, phase=0.0)  # that of even samples: all in the passes or none
def test_samples_are_not_in_step_with_the_passes(period_s: float, share: float, phase: float) -> None:
    """Of samples at any phase, about the share of the time that the passes take is in them."""
    times = np.cumsum(list(islice(uneven(20.0), 1000)))
    assert times[-1] == pytest.approx(1000 / 20, rel=0.05)
    in_a_pass = (times / period_s + phase) % 1.0 < share
    assert in_a_pass.mean() == pytest.approx(share, abs=0.1)
