import time
from collections.abc import Iterator

import pytest

from ttt_mlflow.names import CLOCK_EVENT_REASONS
from ttt_mlflow.telemetry.quiet import unrest, wait_until_quiet

CAP = 1 << CLOCK_EVENT_REASONS.index("sw_power_cap")
HOT = 1 << CLOCK_EVENT_REASONS.index("sw_thermal_slowdown")


def row(**values: float) -> dict[str, float]:
    return {
        "time_ns": time.time_ns(),
        "gpu_utilization_pct": 0,
        "temperature_c": 40,
        "clock_event_reasons": CAP,
    } | values


def test_a_quiet_card() -> None:
    assert unrest([row(), row(temperature_c=39), row()]) == []
    assert unrest([{"time_ns": 1}]) == [], "what a card does not say is not waited for"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no samples"),
        ([row(), row(gpu_utilization_pct=30)], "another process uses the GPU (30 %)"),
        ([row(clock_event_reasons=HOT | CAP), row()], "sw_thermal_slowdown"),
        ([row(temperature_c=80), row(temperature_c=76)], "still cooling (76 °C)"),
    ],
)
def test_what_stands_in_the_way(rows: list[dict[str, float]], says: str) -> None:
    assert unrest(rows) == [says]


def test_it_waits_until_the_card_has_cooled() -> None:
    samples: list[dict[str, float]] = [row(time_ns=1, temperature_c=99)]
    degrees: Iterator[float] = iter([80.0, 70, 60, 50])
    told: list[str] = []

    def sleep(seconds: float) -> None:
        samples.append(row(temperature_c=next(degrees, 50.0)))
        time.sleep(0.002)

    assert wait_until_quiet(samples, told.append, time.time_ns, most_s=60, look_back_s=0.02, sleep=sleep) == []
    assert samples[-1]["temperature_c"] == 50
    assert any("still cooling" in text for text in told)


def test_it_does_not_wait_for_ever() -> None:
    samples: list[dict[str, float]] = []

    def sleep(seconds: float) -> None:
        samples.append(row(gpu_utilization_pct=100))
        time.sleep(0.001)

    still = wait_until_quiet(samples, lambda text: None, time.time_ns, most_s=0.05, look_back_s=0.01, sleep=sleep)
    assert still == ["another process uses the GPU (100 %)"]


def test_what_asks_it_to_end_is_heard() -> None:
    def ended(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_until_quiet([], ended, time.time_ns, most_s=60)
