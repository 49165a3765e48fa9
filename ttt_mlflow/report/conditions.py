"""What stands against a comparison of the code alone: GPU, driver, clocks, libraries, settings, verdicts.

Most of it differs between the two sides. The rest limits both: a verdict that is not valid, or several GPUs on a side.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ttt_mlflow import names
from ttt_mlflow.measurement.method import FIRST_METHOD
from ttt_mlflow.names import Metric
from ttt_mlflow.record.recorded_run import RecordedRun, read_object
from ttt_mlflow.report.measured import UNKNOWN, Measured, differing, setting_text
from ttt_mlflow.report.text import number

# facts of environment/host.json, the most important first
FACTS = {
    "gpu_name": "GPU",
    "gpu_uuid": "GPU UUID",
    "driver": "driver",
    "gpu_enforced_power_limit_w": "power limit in W",
    "gpu_sm_clock_max_mhz": "highest SM clock in MHz",
    "gpu_memory_clock_max_mhz": "highest memory clock in MHz",
    "gpu_mig": "MIG",
    "gpu_ecc": "ECC",
    "cpu_model": "CPU",
    "torch": "torch",
    "triton": "triton",
    "cuda": "CUDA",
    "mamba_ssm": "mamba-ssm",
    "causal_conv1d": "causal-conv1d",
    "flash_linear_attention": "flash-linear-attention",
    "python": "Python",
}
# A run on the CPU depends on the host's load and cooling, so its host counts.
CPU_FACTS = {"hostname": "host"}
CLOCK_PCT = 2.0  # difference of the mean SM clocks that is named; a run that draws more power has a lower clock
BUSY_NEIGHBORS = 0.5  # difference in the mean number of other GPUs of the host that were busy that is named
TEMPERATURE_C = 10.0  # difference of the highest temperatures that is named


@dataclass(frozen=True)
class Condition:
    """One such thing. baseline, candidate: its value on each side, several values comma-separated."""

    name: str
    baseline: str
    candidate: str

    @property
    def differs(self) -> bool:
        """Whether the two sides differ in it. If not, it limits both."""
        return self.baseline != self.candidate

    def __str__(self) -> str:
        both = f"{self.baseline} and {self.candidate}" if self.differs else f"{self.baseline} on both sides"
        return f"{self.name}: {both}"


class Facts:
    """The facts of runs' hosts, each read once."""

    def __init__(self) -> None:
        self._read: dict[str, dict[str, Any]] = {}

    def of(self, run: RecordedRun) -> Mapping[str, Any]:
        if run.id not in self._read:
            self._read[run.id] = read_object(run, names.ARTIFACT_HOST)
        return self._read[run.id]


def conditions_of(baseline: Sequence[Measured], candidate: Sequence[Measured], facts: Facts) -> tuple[Condition, ...]:
    """The conditions of one pair, in the order of importance. Empty if the two sides differ in the code at most."""
    sides = [one.run for one in baseline], [one.run for one in candidate]
    found = [*_facts(sides, facts), *_measured_conditions(sides)]
    found += _different("way of measuring (ttt.method)", *(_values(side, _method) for side in sides))
    found += _verdicts(baseline, candidate)
    found += _configuration(baseline, candidate)
    return tuple(found)


def _facts(sides: tuple[list[RecordedRun], list[RecordedRun]], facts: Facts) -> Iterable[Condition]:
    runs = [run for side in sides for run in side]
    on_cpu = all("gpu_name" not in facts.of(run) for run in runs)
    for fact, label in {**FACTS, **(CPU_FACTS if on_cpu else {})}.items():
        yield from _different(label, *({_text(facts.of(run).get(fact)) for run in side} for side in sides))


def _measured_conditions(sides: tuple[list[RecordedRun], list[RecordedRun]]) -> Iterable[Condition]:
    """Clocks, temperature and busy neighbors in the measured section."""
    clocks = [_median(side, names.SM_CLOCK_MHZ_MEAN) for side in sides]
    if None not in clocks and abs(clocks[1] / clocks[0] - 1) > CLOCK_PCT / 100:  # type: ignore[operator]
        yield Condition("mean SM clock in MHz", *(number(clock) for clock in clocks if clock is not None))
    heat = [_median(side, names.TEMPERATURE_C_MAX) for side in sides]
    if None not in heat and abs(heat[1] - heat[0]) > TEMPERATURE_C:  # type: ignore[operator]
        yield Condition("temperature in °C", *(number(one) for one in heat if one is not None))
    busy = [_median(side, names.NEIGHBOR_GPUS_BUSY) for side in sides]
    if None not in busy and abs(busy[1] - busy[0]) > BUSY_NEIGHBORS:  # type: ignore[operator]
        yield Condition("other GPUs of the host that were busy", *(number(one) for one in busy if one is not None))


def _verdicts(baseline: Sequence[Measured], candidate: Sequence[Measured]) -> Iterable[Condition]:
    """A verdict that is not valid is named, also if both sides have it."""
    words = [sorted({one.verdict or "none" for one in side}) for side in (baseline, candidate)]
    if words != [["valid"], ["valid"]]:
        yield Condition("verdict", *(", ".join(side) for side in words))


def _configuration(baseline: Sequence[Measured], candidate: Sequence[Measured]) -> Iterable[Condition]:
    """Settings that differ where two configurations were paired on request."""
    for name in differing([*baseline, *candidate]):
        texts = (sorted({one.setting(name) for one in side}) for side in (baseline, candidate))
        yield Condition(name, *(", ".join(side) for side in texts))


def _different(label: str, left: set[str], right: set[str]) -> Iterable[Condition]:
    """The condition, unless both sides have the same single value."""
    if left != right or len(left) > 1:
        yield Condition(label, ", ".join(sorted(left)), ", ".join(sorted(right)))


def _values(side: Sequence[RecordedRun], value: Any) -> set[str]:
    return {value(run) for run in side}


def _method(run: RecordedRun) -> str:
    return run.tags.get(names.TAG_METHOD.name, str(FIRST_METHOD))


def _median(side: Sequence[RecordedRun], metric: Metric) -> float | None:
    values = [run.metrics[metric.name] for run in side if metric.name in run.metrics]
    return median(values) if values else None


def _text(value: Any) -> str:
    """A fact of the host. One that is not recorded may be there all the same."""
    return UNKNOWN if value is None else setting_text(value)
