import sys
import threading

import pytest

from tests.telemetry import fake_nvml
from tests.telemetry.fake_nvml import GPU_UUID, MIG_UUID, FakeNvml
from ttt_mlflow.telemetry import nvml as telemetry
from ttt_mlflow.telemetry.nvml import NvmlSampler, TelemetryUnavailable, driver_version
from ttt_mlflow.telemetry.samples import summarise

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
    nvml.uuids = {known}
    assert NvmlSampler.open(asked).uuid == found


def test_an_unknown_device_is_unavailable(nvml: FakeNvml) -> None:
    with pytest.raises(TelemetryUnavailable, match=r"not recorded: .*no-such-gpu \(Not Found\); nvidia-smi -L"):
        NvmlSampler.open("no-such-gpu")
    assert nvml.open_count == 0


def test_without_nvidia_ml_py_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    with pytest.raises(TelemetryUnavailable) as raised:
        NvmlSampler.open(TORCH_UUID)
    message = str(raised.value)
    assert "\n" not in message
    assert "clocks, power, temperature" in message
    assert "pip install nvidia-ml-py" in message
    assert driver_version() is None


def test_without_a_driver_it_says_so(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlInit"] = fake_nvml.DRIVER_NOT_LOADED
    with pytest.raises(TelemetryUnavailable, match=r"NVML does not start \(Driver Not Loaded\); .*driver"):
        NvmlSampler.open(TORCH_UUID)


def test_driver_version(nvml: FakeNvml) -> None:
    assert driver_version() == "580.159.04"
    assert nvml.open_count == 0
    nvml.refuses["nvmlSystemGetDriverVersion"] = fake_nvml.NOT_SUPPORTED
    assert driver_version() is None
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
    assert sampler.refused == {"temperature": "stopped answering after 2 samples: GPU is lost"}
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
    assert sampler.refused["energy"] == "GPU is lost"
    assert sampler.refused["sm_clock"].endswith("GPU is lost")
    assert sampler.sections[0].energy_j is None


def test_a_card_that_answers_nothing_gives_no_samples(nvml: FakeNvml) -> None:
    nvml.refuse_everything(fake_nvml.NOT_SUPPORTED)
    sampler = NvmlSampler.open(TORCH_UUID)
    take(sampler, 2)
    assert sampler.frame().empty
    assert sampler.memory_total_bytes is None
    assert summarise(sampler.frame(), sampler.sections) == {}


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
    assert nvml.calls["nvmlDeviceGetTotalEnergyConsumption"] == 4


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
    with pytest.raises(ValueError, match="out of turn"):
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
