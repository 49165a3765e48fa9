"""Each reason on composed samples: found where it is, not found where it is not, and named where data is missing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.measurement.drift import Drift
from ttt_mlflow.measurement.evidence import Evidence, GpuEvidence
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.measurement.verdict import (
    FAULTY_EVENTS,
    Verdict,
    combined,
    judge,
    judge_section,
    steady_clock,
    verdict_text,
)
from ttt_mlflow.names import TAG_MISSING
from ttt_mlflow.telemetry.processes import GpuProcess

STEADY = [1980.0, 1965.0] * 20
FREE = [False] * 40
CARD = GpuEvidence(
    sm_clock_mhz=STEADY,
    power_explained=FREE,
    event_pct={"sw_power_cap": 0.0},
    thermal_violation_pct=0.0,
    ecc_uncorrected=0,
    other_processes=(),
)
GOOD = Evidence(
    on_gpu=True,
    section_s=2.0,
    passes=12,
    relative_half_width_pct=0.2,
    drift=Drift(0.05, 0.4),
    precision_pct=0.5,
    gpu=CARD,
)


def on_card(**changes: object) -> Verdict:
    return judge(replace(GOOD, gpu=replace(CARD, **changes)))  # type: ignore[arg-type]


def test_an_undisturbed_run_is_valid() -> None:
    verdict = judge(GOOD)
    assert verdict.word == "valid"
    assert verdict.text == "valid"
    assert {tag.name: text for tag, text in verdict.tags().items()} == {"ttt.verdict": "valid"}
    assert not verdict.retry_can_help


def test_a_cpu_run_names_what_it_found_and_what_it_could_not_look_at() -> None:
    verdict = judge(replace(GOOD, on_gpu=False, gpu=None, relative_half_width_pct=76.0))
    assert (verdict.word, verdict.names, list(verdict.missing)) == ("invalid", ["wide_interval"], ["gpu_telemetry"])
    assert verdict.retry_can_help


def test_a_cpu_run_without_a_fault_is_unjudged() -> None:
    verdict = judge(replace(GOOD, on_gpu=False, gpu=None))
    assert verdict.word == "unjudged"
    assert {tag.name: text for tag, text in verdict.tags().items()} == {
        "ttt.verdict": "unjudged",
        "ttt.missing": "gpu_telemetry",
    }


def test_one_pass_is_one_pass() -> None:
    verdict = judge(replace(GOOD, passes=1, relative_half_width_pct=None, drift=None))
    assert verdict.missing["interval"] == "1 complete pass; a confidence interval needs at least two"


def test_a_run_without_a_pass_is_unjudged() -> None:
    verdict = judge(replace(GOOD, passes=0, section_s=0.0, relative_half_width_pct=None, drift=None))
    assert (verdict.word, verdict.names, list(verdict.missing)) == ("unjudged", [], ["measurement"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"section_s": 0.49}, "short_section"),
        ({"relative_half_width_pct": 1.01}, "wide_interval"),
        ({"drift": Drift(0.6, 0.001)}, "drift"),
        ({"drift": Drift(-0.6, 0.001)}, "drift"),
    ],
)
def test_faults_of_the_measurement(changes: dict[str, object], reason: str) -> None:
    verdict = judge(replace(GOOD, **changes))  # type: ignore[arg-type]
    assert (verdict.word, verdict.names) == ("invalid", [reason])
    assert {tag.name: text for tag, text in verdict.tags().items()} == {"ttt.verdict": "invalid", "ttt.reasons": reason}
    assert verdict.retry_can_help == (reason != "short_section")


@pytest.mark.parametrize(
    "changes",
    [
        {"section_s": 0.5},
        {"relative_half_width_pct": 1.0},
        {"relative_half_width_pct": 4.9, "precision_pct": 5.0},  # narrow enough for what was asked
        {"drift": Drift(0.5, 0.001)},  # found, and too small to matter
        {"drift": Drift(3.0, 0.03)},  # large, and no more than noise
        {"drift": Drift(-0.5, None), "passes": 2},  # too small to matter, whether noise or not
    ],
)
def test_what_is_within_the_thresholds_is_no_fault(changes: dict[str, object]) -> None:
    assert judge(replace(GOOD, **changes)).word == "valid"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"relative_half_width_pct": None, "passes": 1}, "interval"),
        ({"drift": None, "passes": 1}, "drift"),
        ({"drift": Drift(0.51, None), "passes": 3}, "drift"),
        ({"gpu": None}, "gpu_telemetry"),
        ({"interrupted": True}, "end"),
    ],
)
def test_what_a_run_does_not_tell(changes: dict[str, object], missing: str) -> None:
    verdict = judge(replace(GOOD, **changes))  # type: ignore[arg-type]
    assert (verdict.word, verdict.names, list(verdict.missing)) == ("unjudged", [], [missing])


@pytest.mark.parametrize("event", FAULTY_EVENTS)
def test_faulty_clock_events(event: str) -> None:
    assert on_card(event_pct={event: 1.0}).word == "valid"
    verdict = on_card(event_pct={event: 1.01})
    assert (verdict.word, verdict.names) == ("invalid", [event])
    assert verdict.retry_can_help


def test_the_power_cap_is_said_and_no_fault() -> None:
    falling = np.linspace(1980, 1305, 40).tolist()
    verdict = on_card(event_pct={"sw_power_cap": 100.0}, sm_clock_mhz=falling, power_explained=[True] * 40)
    assert verdict.word == "valid"
    assert "power cap was active in 100 %" in verdict.notes[0]


def test_a_thermal_slowdown_between_two_samples_is_counted() -> None:
    assert on_card(thermal_violation_pct=0.9).word == "valid"
    assert on_card(thermal_violation_pct=1.1).names == ["thermal_violation"]
    assert on_card(thermal_violation_pct=None).word == "valid", "the sampled reasons have to do"


def test_a_clock_that_falls_without_the_power_cap() -> None:
    clocks = [*STEADY, *[1410.0] * 4]
    verdict = on_card(sm_clock_mhz=clocks, power_explained=[False] * 44)
    assert verdict.names == ["clock_drop"]
    assert "from 1,980 to 1,410 MHz" in verdict.reasons[0].found
    # the same where the power cap explains it
    assert on_card(sm_clock_mhz=clocks, power_explained=[*FREE, *[True] * 4]).word == "valid"


@pytest.mark.parametrize("low", [1, 4, 20, 35])
def test_the_steady_state_is_the_upper_one(low: int) -> None:
    found = steady_clock([1410.0] * low + [1980.0] * (40 - low), FREE)
    assert found is not None
    assert found[0] == 1980.0


@given(st.lists(st.tuples(st.floats(200, 2000), st.booleans()), max_size=60))
def test_only_clocks_that_nothing_explains_are_looked_at(rows: list[tuple[float, bool]]) -> None:
    found = steady_clock([mhz for mhz, _ in rows], [explained for _, explained in rows])
    if found is None:
        return
    steady, free = found
    assert len(free) == sum(not explained for _, explained in rows)
    assert np.min(free) <= steady <= np.max(free)


def test_too_few_clock_samples() -> None:
    few = on_card(sm_clock_mhz=STEADY[:9], power_explained=FREE[:9])
    assert (few.word, few.missing["sm_clock"]) == ("unjudged", "9 samples in the section; the check needs at least 10")
    assert on_card(sm_clock_mhz=None).missing["sm_clock"].startswith("no samples")


def test_missing_reasons_for_the_clocks() -> None:
    verdict = on_card(event_pct=None, power_explained=None)
    assert (verdict.word, list(verdict.missing)) == ("unjudged", ["clock_events"])


def test_ecc_errors() -> None:
    assert on_card(ecc_uncorrected=1).names == ["ecc_error"]
    uncounted = on_card(ecc_uncorrected=None)
    assert uncounted.word == "valid", "a card without ECC can be measured"
    assert "ECC" in uncounted.notes[0]


def process(busy: float | None) -> GpuProcess:
    return GpuProcess(4242, "python", 1_500_000_000, busy)


def test_another_process_that_computes() -> None:
    verdict = on_card(other_processes=(process(37.0),))
    assert verdict.names == ["other_process"]
    found = verdict.reasons[0].found
    assert found == "python (pid 4242), 1.50 GB held used 37 % of the SMs, at most 1 % is allowed"


def test_another_process_that_holds_memory_alone_is_named() -> None:
    verdict = on_card(other_processes=(process(0.0),))
    assert (verdict.word, verdict.notes) == (
        "valid",
        ("python (pid 4242), 1.50 GB held was on the GPU and did not compute",),
    )


def test_processes_of_which_the_card_tells_nothing() -> None:
    assert list(on_card(other_processes=None).missing) == ["other_processes"]
    unknown = on_card(other_processes=(process(None),))
    assert unknown.word == "unjudged"
    assert "python (pid 4242)" in unknown.missing["other_processes"]


def test_a_fault_outweighs_what_is_missing() -> None:
    verdict = judge(replace(GOOD, drift=None, section_s=0.1))
    assert (verdict.word, verdict.names, list(verdict.missing)) == ("invalid", ["short_section"], ["drift"])
    assert verdict.tags()[TAG_MISSING] == "drift"
    assert verdict.text.startswith(
        "invalid: short_section (0.1 s measured, at least 0.5 s are needed); without drift ("
    )


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("section_s=3", {}),
        ("half_width_pct=0.1", {"precision_pct": 0.1}),
        ("drift_pct=0.01", {"drift": Drift(0.05, 0.001)}),
        ("event_pct=0", {"gpu": replace(CARD, event_pct={"hw_slowdown": 0.1})}),
        ("clock_drop_pct=0.5", {}),
        ("other_process_sm_pct=0", {"gpu": replace(CARD, other_processes=(process(0.5),))}),
    ],
)
def test_thresholds_can_be_set_and_are_in_the_record(setting: str, changes: dict[str, object]) -> None:
    evidence = replace(GOOD, **changes)  # type: ignore[arg-type]
    assert judge(evidence).word == "valid"
    strict = judge(evidence, Thresholds.parse([setting]))
    assert strict.word == "invalid"
    name, _, value = setting.partition("=")
    assert strict.record()["thresholds"][name] == float(value)


def test_the_record_reads_as_the_verdict_does() -> None:
    verdict = judge(replace(GOOD, drift=None, section_s=0.1))
    assert verdict_text(verdict.record()) == verdict.text


def test_a_section_of_a_micro_benchmark() -> None:
    assert judge_section(True, 1.0, CARD).word == "valid"
    assert judge_section(True, 0.1, CARD).names == ["short_section"]
    assert judge_section(True, 1.0, None).word == "unjudged"
    assert judge_section(False, 1.0, None).word == "unjudged"


def test_several_sections_together() -> None:
    limit = Thresholds()
    good, short, unknown = judge(GOOD), judge_section(True, 0.1, CARD), judge(replace(GOOD, drift=None))
    assert combined([good, good], limit).word == "valid"
    assert combined([good, unknown], limit).word == "unjudged"
    found = combined([good, short, unknown, short], limit)
    assert (found.word, found.names, list(found.missing)) == ("invalid", ["short_section"], ["drift"])
    assert combined([], limit).word == "unjudged"


def test_large_percentages_are_written_out() -> None:
    text = judge(replace(GOOD, relative_half_width_pct=1063.4, drift=Drift(2345.6, 0.001))).text
    assert "wide_interval (±1,063 %, at most ±1 % is allowed)" in text
    assert "drift (+2,346 % from the first third to the last" in text
