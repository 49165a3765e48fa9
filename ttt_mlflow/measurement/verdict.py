"""The verdict on a measurement: valid, invalid with named reasons, or unjudged because data is missing.

The software power cap is not a fault: decoding a large batch on a power-limited GPU always reaches it. docs/verdict.md
has every reason with its threshold. The evidence is plain values (:class:`Evidence`), so recorded samples are judged
in the same way as live ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ttt_mlflow import names
from ttt_mlflow.measurement.drift import ACROSS_LEAST, NOISE_LEAST
from ttt_mlflow.measurement.evidence import EXPLAINED_BY_POWER, Evidence, GpuEvidence
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.names import Tags
from ttt_mlflow.numerals import significant
from ttt_mlflow.telemetry.processes import GpuProcess

Word = Literal["valid", "invalid", "unjudged"]

# NVML's clock events that are faults, the most serious first
FAULTY_EVENTS = ("hw_thermal_slowdown", "hw_power_brake_slowdown", "hw_slowdown", "sw_thermal_slowdown")
# reasons that would occur again in the next attempt, so waiting does not help
LASTING = ("short_section",)
STEADY_PERCENTILE = 90  # of the SM clock samples that no power cap explains: the steady state
CLOCK_SAMPLES_LEAST = 10
NOTHING_MEASURED = "no timed pass was completed"


@dataclass(frozen=True)
class Finding:
    """A reason for an invalid run: its name, and what was found and what is allowed."""

    name: str
    found: str


@dataclass(frozen=True)
class Verdict:
    """missing: what could not be judged, by name, and why. notes: remarks that are not faults."""

    word: Word
    reasons: tuple[Finding, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def names(self) -> list[str]:
        return [reason.name for reason in self.reasons]

    @property
    def retry_can_help(self) -> bool:
        """Whether there is a reason that may not occur again in another attempt."""
        return any(name not in LASTING for name in self.names)

    def record(self) -> dict[str, Any]:
        """The content of verdict.json."""
        return {
            "verdict": self.word,
            "reasons": [asdict(reason) for reason in self.reasons],
            "missing": dict(self.missing),
            "notes": list(self.notes),
            "thresholds": self.thresholds.as_dict(),
        }

    def tags(self) -> Tags:
        """The tags of the run. A tag without content is absent."""
        tags: Tags = {names.TAG_VERDICT: self.word}
        if self.reasons:
            tags[names.TAG_REASONS] = ",".join(self.names)
        if self.missing:
            tags[names.TAG_MISSING] = ",".join(self.missing)
        return tags

    @property
    def text(self) -> str:
        """The verdict in one line, for people."""
        return verdict_text(self.record())


def verdict_text(record: Mapping[str, Any]) -> str:
    """The content of verdict.json in one line, for people."""
    parts = [f"{reason['name']} ({reason['found']})" for reason in record["reasons"]]
    if record["missing"]:
        parts.append("without " + ", ".join(f"{name} ({why})" for name, why in record["missing"].items()))
    return f"{record['verdict']}: {'; '.join(parts)}" if parts else str(record["verdict"])


@dataclass(frozen=True)
class Missing:
    """A question that the evidence does not answer."""

    name: str
    why: str


@dataclass(frozen=True)
class Note:
    text: str


Answer = Finding | Missing | Note


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> Verdict:
    """The verdict on one measurement. A fault outweighs missing data, so a run on a CPU is invalid or unjudged."""
    thresholds = thresholds or Thresholds()
    if not evidence.passes:
        return Verdict("unjudged", missing={"measurement": NOTHING_MEASURED}, thresholds=thresholds)
    answers = [*_of_the_measurement(evidence, thresholds), *_of_the_device(evidence.on_gpu, evidence.gpu, thresholds)]
    return _verdict(answers, thresholds)


def judge_section(
    on_gpu: bool, section_s: float, gpu: GpuEvidence | None, thresholds: Thresholds | None = None
) -> Verdict:
    """The verdict on one section of a micro-benchmark: its length, and the state of the GPU."""
    thresholds = thresholds or Thresholds()
    answers = [*_section_length(section_s, thresholds), *_of_the_device(on_gpu, gpu, thresholds)]
    return _verdict(answers, thresholds)


def combined(verdicts: Sequence[Verdict], thresholds: Thresholds) -> Verdict:
    """The verdict on a run with several sections: invalid if one is, else unjudged if one is. Reasons occur once."""
    if not verdicts:
        return Verdict("unjudged", missing={"measurement": NOTHING_MEASURED}, thresholds=thresholds)
    words = {verdict.word for verdict in verdicts}
    word: Word = "invalid" if "invalid" in words else "valid" if words == {"valid"} else "unjudged"
    reasons = {reason.name: reason for verdict in verdicts for reason in verdict.reasons}
    missing = {name: why for verdict in verdicts for name, why in verdict.missing.items()}
    notes = tuple(dict.fromkeys(note for verdict in verdicts for note in verdict.notes))
    return Verdict(word, tuple(reasons.values()), missing, notes, thresholds)


def steady_clock(mhz: Sequence[float], power_explained: Sequence[bool]) -> tuple[float, np.ndarray] | None:
    """The steady state of the SM clock (MHz), and the clocks that no power cap explains. None if there are too few."""
    clocks, explained = np.asarray(mhz, dtype=np.float64), np.asarray(power_explained, dtype=bool)
    free = clocks[~explained & np.isfinite(clocks)]
    if len(free) < CLOCK_SAMPLES_LEAST:
        return None
    return float(np.percentile(free, STEADY_PERCENTILE)), free


def _verdict(answers: Sequence[Answer], thresholds: Thresholds) -> Verdict:
    reasons = tuple(answer for answer in answers if isinstance(answer, Finding))
    missing = {answer.name: answer.why for answer in answers if isinstance(answer, Missing)}
    notes = tuple(answer.text for answer in answers if isinstance(answer, Note))
    word: Word = "invalid" if reasons else "unjudged" if missing else "valid"
    return Verdict(word, reasons, missing, notes, thresholds)


def _section_length(section_s: float, limit: Thresholds) -> Iterator[Answer]:
    if section_s < limit.section_s:
        measured = significant(section_s, 3)
        yield Finding("short_section", f"{measured} s measured, at least {limit.section_s:g} s are needed")


def _of_the_measurement(evidence: Evidence, limit: Thresholds) -> Iterator[Answer]:
    if evidence.interrupted:
        yield Missing("end", "the measurement ended early")
    yield from _section_length(evidence.section_s, limit)
    widest = max(limit.half_width_pct, evidence.precision_pct)
    complete = f"{evidence.passes} complete pass{'' if evidence.passes == 1 else 'es'}"
    if evidence.relative_half_width_pct is None:
        yield Missing("interval", f"{complete}; a confidence interval needs at least two")
    elif evidence.relative_half_width_pct > widest:
        half_width = significant(evidence.relative_half_width_pct, 3)
        yield Finding("wide_interval", f"±{half_width} %, at most ±{widest:g} % is allowed")
    drift = evidence.drift
    if drift is None:
        yield Missing("drift", f"{complete}; drift needs at least {ACROSS_LEAST}")
    elif abs(drift.pct) <= limit.drift_pct:
        return  # noise or not, it is too small to matter
    elif drift.p_value is None:
        yield Missing(
            "drift",
            f"{significant(drift.pct, 3, '+')} % from the first of {evidence.passes} complete passes to the last; it "
            f"takes at least {NOISE_LEAST} to tell whether that is noise",
        )
    elif drift.found:
        found = f"{significant(drift.pct, 3, '+')} % from the first third to the last (p {drift.p_value:.2g})"
        yield Finding("drift", f"{found}, at most {limit.drift_pct:g} % is allowed")


def _of_the_device(on_gpu: bool, gpu: GpuEvidence | None, limit: Thresholds) -> Iterator[Answer]:
    if not on_gpu:
        yield Missing("gpu_telemetry", "a CPU has no such telemetry, and other programs share it")
        return
    if gpu is None:
        yield Missing("gpu_telemetry", "nothing was read from NVML")
        return
    questions: tuple[Callable[[GpuEvidence, Thresholds], Iterator[Answer]], ...]
    questions = (_events, _thermal_violation, _clock_drop, _ecc, _other_processes)
    for question in questions:
        yield from question(gpu, limit)


def _events(gpu: GpuEvidence, limit: Thresholds) -> Iterator[Answer]:
    if gpu.event_pct is None:
        yield Missing("clock_events", "NVML named no clock event reasons in the section")
        return
    for event in FAULTY_EVENTS:
        share = gpu.event_pct.get(event, 0.0)
        if share > limit.event_pct:
            yield Finding(event, f"in {share:.3g} % of the section, at most {limit.event_pct:g} % is allowed")
    capped = gpu.event_pct.get(EXPLAINED_BY_POWER, 0.0)
    if capped > 0:
        yield Note(f"the software power cap was active in {capped:.3g} % of the section, which is not a fault")


def _thermal_violation(gpu: GpuEvidence, limit: Thresholds) -> Iterator[Answer]:
    """NVML's counter also sees events between two samples. Without the counter, the samples are used."""
    share = gpu.thermal_violation_pct
    if share is not None and share > limit.event_pct:
        yield Finding("thermal_violation", f"{share:.3g} % of the section, at most {limit.event_pct:g} % is allowed")


def _clock_drop(gpu: GpuEvidence, limit: Thresholds) -> Iterator[Answer]:
    clocks = gpu.sm_clock_mhz
    if clocks is None or len(clocks) < CLOCK_SAMPLES_LEAST:
        count = "no" if not clocks else str(len(clocks))
        yield Missing("sm_clock", f"{count} samples in the section; the check needs at least {CLOCK_SAMPLES_LEAST}")
        return
    if gpu.power_explained is None:
        return  # without the reasons, a drop by the power cap cannot be excluded; _events reports that they are missing
    found = steady_clock(clocks, gpu.power_explained)
    if found is None:
        return  # the power cap explains nearly all samples
    steady, free = found
    low = free < steady * (1 - limit.clock_drop_pct / 100)
    share = 100 * float(np.mean(low))
    if share > limit.clock_drop_share_pct:
        fell = f"the SM clock fell from {steady:,.0f} to {np.min(free):,.0f} MHz without the power cap"
        below = f"{share:.3g} % of the samples are more than {limit.clock_drop_pct:g} % below"
        yield Finding("clock_drop", f"{fell}; {below}, at most {limit.clock_drop_share_pct:g} % is allowed")


def _ecc(gpu: GpuEvidence, limit: Thresholds) -> Iterator[Answer]:
    if gpu.ecc_uncorrected is None:
        yield Note("uncorrected ECC errors were not counted: the GPU does not report them")
    elif gpu.ecc_uncorrected > 0:
        yield Finding("ecc_error", f"{gpu.ecc_uncorrected} uncorrected in the section")


def _named(process: GpuProcess) -> str:
    named = f"{process.name} (pid {process.pid})" if process.name else f"pid {process.pid}"
    held = "" if process.memory_bytes is None else f", {process.memory_bytes / 1e9:.2f} GB held"
    return named + held


def _other_processes(gpu: GpuEvidence, limit: Thresholds) -> Iterator[Answer]:
    if gpu.other_processes is None:
        yield Missing("other_processes", "the GPU does not list the processes on it")
        return
    for process in gpu.other_processes:
        busy = process.sm_utilization_pct
        if busy is None:
            yield Missing("other_processes", f"the GPU does not report whether {_named(process)} computed")
        elif busy > limit.other_process_sm_pct:
            allowed = f"at most {limit.other_process_sm_pct:g} % is allowed"
            yield Finding("other_process", f"{_named(process)} used {busy:.3g} % of the SMs, {allowed}")
        else:
            yield Note(f"{_named(process)} was on the GPU and did not compute")
