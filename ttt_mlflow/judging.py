"""What a run measured and what its card said, brought before :mod:`ttt_mlflow.measure.verdict`."""

from collections.abc import Sequence

from ttt_mlflow.measure.loop import Measurement
from ttt_mlflow.measure.verdict import EXPLAINED_BY_POWER, CardEvidence, Evidence
from ttt_mlflow.names import CLOCK_EVENT_REASONS
from ttt_mlflow.telemetry.sampler import NvmlSampler
from ttt_mlflow.telemetry.samples import Section, inside

THERMAL = "thermal"  # of names.VIOLATION_POLICIES
POWER_CAP_BIT = 1 << CLOCK_EVENT_REASONS.index(EXPLAINED_BY_POWER)


def evidence(measurement: Measurement, sampler: NvmlSampler | None, on_gpu: bool, precision_pct: float) -> Evidence:
    """Of one attempt at a decode or prefill measurement."""
    complete = measurement.complete_repeats
    return Evidence(
        on_gpu=on_gpu,
        section_s=sum(repeat.total_ms for repeat in complete) / 1e3,
        passes=len(complete),
        relative_half_width_pct=measurement.relative_half_width_pct,
        drift=measurement.drifts().get("drift"),
        precision_pct=precision_pct,
        card=card_evidence(sampler, sampler.sections) if sampler else None,
        interrupted=measurement.interrupted,
    )


def card_evidence(sampler: NvmlSampler, sections: Sequence[Section]) -> CardEvidence:
    """What the card said in ``sections``; a question that it did not answer stays None."""
    frame = sampler.frame()
    rows = frame[inside(frame, sections)] if not frame.empty else frame
    clocks = capped = events = None
    if "sm_clock_mhz" in rows:
        rows = rows[rows["sm_clock_mhz"].notna()]
        clocks = rows["sm_clock_mhz"].tolist()
    if "clock_event_reasons" in rows and rows["clock_event_reasons"].notna().all() and len(rows):
        masks = rows["clock_event_reasons"].astype("int64")
        capped = ((masks & POWER_CAP_BIT) != 0).tolist()
        events = {
            reason: 100.0 * float(((masks & (1 << bit)) != 0).mean()) for bit, reason in enumerate(CLOCK_EVENT_REASONS)
        }
    return CardEvidence(
        sm_clock_mhz=clocks,
        power_capped=capped,
        event_pct=events,
        thermal_violation_pct=_thermal_violation_pct(sections),
        ecc_uncorrected=_ecc_errors(sections),
        other_processes=sampler.other_processes(sections),
    )


def _thermal_violation_pct(sections: Sequence[Section]) -> float | None:
    """The share of the sections' time that the counter grew by; None where one of them does not know."""
    seconds = sum(section.seconds for section in sections)
    if not seconds or any(THERMAL not in section.violation_s for section in sections):
        return None
    return 100 * sum(section.violation_s[THERMAL] for section in sections) / seconds


def _ecc_errors(sections: Sequence[Section]) -> int | None:
    """Of all sections together; None where one of them does not know."""
    counts = [section.ecc_uncorrected_errors for section in sections]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
