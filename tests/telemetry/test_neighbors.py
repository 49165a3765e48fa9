"""The host's other GPUs: which are busy in the measured sections, and what reading them costs."""

import math

import pytest

from tests.telemetry.fake_nvml import GPU_IS_LOST, GPU_UUID, MIG_UUID, NOT_SUPPORTED, FakeNvml
from ttt_mlflow import names
from ttt_mlflow.telemetry.nvml import Device
from ttt_mlflow.telemetry.sampler import LOOKS_PER_SECOND, NvmlSampler
from ttt_mlflow.telemetry.samples import summarize

EIGHT = [GPU_UUID, *(f"GPU-0000000{number}-0000-4000-8000-000000000000" for number in range(1, 8))]
BUSY, POWER = names.NEIGHBOR_GPUS_BUSY, names.NEIGHBOR_POWER_W


@pytest.fixture
def eight(nvml: FakeNvml) -> FakeNvml:
    """A host with eight GPUs, of which the first is measured and 1, 2 and 5 are busy too."""
    nvml.uuids = list(EIGHT)
    nvml.utilizations = {uuid: 90 if number in (1, 2, 5) else 5 for number, uuid in enumerate(EIGHT) if number}
    return nvml


def measured(sampler: NvmlSampler, samples: int = 3) -> dict[names.Metric, float]:
    """The metrics of a section with samples at once, without the thread."""
    sampler.mark("begin")
    for _ in range(samples):
        sampler._sample(with_neighbors=True)
    sampler.mark("end")
    return summarize(sampler.frame(), sampler.sections)


def test_how_many_are_busy_and_what_they_draw(eight: FakeNvml) -> None:
    sampler = NvmlSampler.open(GPU_UUID)
    sampler._sample(with_neighbors=True)  # outside of the section
    eight.utilizations[EIGHT[7]] = 6
    metrics = measured(sampler)
    assert metrics[BUSY] == 4
    assert metrics[POWER] == 7 * 500
    table = sampler.neighbors()
    assert table["gpu"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert table["uuid"].tolist() == EIGHT[1:]
    assert table["busy_pct"].tolist() == [100, 100, 0, 0, 100, 0, 100]
    assert table["utilization_pct_mean"].tolist() == [90, 90, 5, 5, 90, 5, 6]
    assert table["power_w_mean"].tolist() == [500] * 7
    assert sampler.refused == {}


def test_the_mean_is_of_the_looks_in_the_sections(eight: FakeNvml) -> None:
    sampler = NvmlSampler.open(GPU_UUID)
    sampler.mark("begin")
    sampler._sample(with_neighbors=True)
    sampler._sample()  # most samples read no neighbors
    eight.utilizations = dict.fromkeys(EIGHT, 0)
    sampler._sample(with_neighbors=True)
    sampler.mark("end")
    sampler._sample(with_neighbors=True)
    assert summarize(sampler.frame(), sampler.sections)[BUSY] == 1.5
    assert sampler.frame()[BUSY.name].isna().tolist() == [False, True, False, False]
    assert sampler.neighbors()["busy_pct"].tolist() == [50, 50, 0, 0, 50, 0, 0]


def test_short_passes_between_which_all_looks_fall_have_neighbors_too(eight: FakeNvml) -> None:
    """Of ttt-profile at batch 1, with passes of 4 ms, both metrics were missing now and then."""
    sampler = NvmlSampler.open(GPU_UUID)
    sampler._sample(with_neighbors=True)  # before all
    eight.utilizations = dict.fromkeys(EIGHT, 90)
    for _ in range(3):
        sampler.mark("begin")
        sampler._sample()
        sampler.mark("end")
        sampler._sample(with_neighbors=True)
    eight.utilizations = dict.fromkeys(EIGHT, 0)
    sampler._sample(with_neighbors=True)  # after all
    metrics = summarize(sampler.frame(), sampler.sections)
    assert (metrics[BUSY], metrics[POWER]) == (7, 7 * 500)
    assert sampler.neighbors()["busy_pct"].tolist() == [100] * 7
    assert summarize(sampler.frame(), []).keys().isdisjoint({BUSY, POWER})


def test_one_gpu_has_no_neighbors_and_no_query(nvml: FakeNvml) -> None:
    sampler = NvmlSampler.open(GPU_UUID)
    metrics = measured(sampler)
    assert not {BUSY, POWER} & metrics.keys()
    assert BUSY.name not in sampler.frame()
    assert sampler.neighbors().empty
    assert not [name for name in sampler.queries()["query"] if "neighbor" in name]


def test_what_it_costs(eight: FakeNvml) -> None:
    """Two calls for each neighbor in a look, two looks a second, and none in the other samples."""
    sampler = NvmlSampler.open(GPU_UUID)
    before = eight.calls.copy()
    sampler._sample()
    without = eight.calls - before
    before = eight.calls.copy()
    sampler._sample(with_neighbors=True)
    more = (eight.calls - before) - without
    assert more == {"nvmlDeviceGetUtilizationRates": 7, "nvmlDeviceGetPowerUsage": 7}
    assert LOOKS_PER_SECOND == 2
    costs = sampler.queries().set_index("query")
    assert costs.loc["neighbors_power", "calls"] == 1
    assert costs.loc["neighbors_power", "of"] == "other GPUs"


def test_the_thread_reads_them_at_the_rate_of_the_processes(eight: FakeNvml) -> None:
    with NvmlSampler.open(GPU_UUID, hz=500) as sampler:
        eight.wait_for_samples(20)
    looks = sampler.frame()[BUSY.name].notna()
    assert looks.any()
    assert looks.mean() < 0.5


def test_a_neighbor_that_falls_off_the_bus_ends_the_reading_and_is_named(eight: FakeNvml) -> None:
    sampler = NvmlSampler.open(GPU_UUID)
    assert measured(sampler)[BUSY] == 3
    eight.lost = {EIGHT[3]}
    metrics = measured(sampler)
    assert metrics[BUSY] == 3, "of the looks before"
    assert sampler.refused["neighbors_utilization"].endswith("GPU is lost")
    assert sampler.frame()["sm_clock_mhz"].notna().all(), "the rest is sampled"


def test_a_gpu_that_was_lost_before_is_no_neighbor(eight: FakeNvml) -> None:
    eight.lost = {EIGHT[3]}
    sampler = NvmlSampler.open(GPU_UUID)
    assert measured(sampler)[BUSY] == 3
    assert sampler.refused == {"neighbors": "GPU 3: GPU is lost"}
    assert sampler.neighbors()["gpu"].tolist() == [1, 2, 4, 5, 6, 7]


def test_power_is_known_where_utilization_is_not(eight: FakeNvml) -> None:
    eight.refuses["nvmlDeviceGetUtilizationRates"] = NOT_SUPPORTED  # as of GPUs that are divided by MIG
    sampler = NvmlSampler.open(GPU_UUID)
    metrics = measured(sampler)
    assert BUSY not in metrics
    assert metrics[POWER] == 3500
    assert math.isnan(sampler.neighbors()["busy_pct"].iloc[0])
    assert sampler.refused["neighbors_utilization"] == "Not Supported"


def test_other_gpus_than_that_of_an_instance(nvml: FakeNvml) -> None:
    nvml.uuids = [*EIGHT, MIG_UUID]
    sampler = NvmlSampler.open(MIG_UUID)
    assert [one.uuid for one in sampler._neighbors.neighbors] == EIGHT[1:]
    nvml.refuses["nvmlDeviceGetDeviceHandleFromMigDeviceHandle"] = NOT_SUPPORTED
    sampler = NvmlSampler.open(MIG_UUID)
    assert sampler._neighbors.neighbors == []
    assert "which GPU this MIG instance is a part of is not known" in sampler.refused["neighbors"]


def test_an_nvml_that_cannot_list_them(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetCount"] = GPU_IS_LOST
    sampler = NvmlSampler(nvml, Device(GPU_UUID, GPU_UUID), 20)
    assert sampler.refused["neighbors"] == "GPU is lost"
    assert BUSY not in measured(sampler)
