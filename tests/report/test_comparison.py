import json
from pathlib import Path
from typing import Any

import pytest

from tests import catalog
from tests.catalog import artifact
from tests.runs import measured_in
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.comparison import RunToRun, answers
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.passes import throughputs
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.comparison import RunComparison, compare_runs

H200 = {
    "gpu_name": "NVIDIA H200",
    "gpu_uuid": "1",
    "cpu_model": "Xeon",
    "hostname": "lab",
    "driver": "580",
    "torch": "2.11.0",
    "triton": "3.6.0",
    "git_commit": "abc",
}
KNOWN = RunToRun(0.18, "a test")
STEADY = [100.0, 100.1, 99.9, 100.05, 99.95, 100.0]  # ms a pass


def make_run(
    root: Path,
    total_ms: list[float] = STEADY,
    *,
    complete: list[bool] | None = None,
    facts: dict[str, Any] = H200,
    tags: dict[str, str] | None = None,
    status: str = "ok",
    **settings: Any,
) -> LocalRun:
    """A run's record with these passes, judged valid unless ``tags`` say otherwise."""
    used = RunConfig.parse({"batch": 8, "genlen": 10, "dtype": "float16", "device": "cuda", **settings})
    journal = Journal.create(root, used.model_dump(mode="json"))
    journal.set_used(used.model_dump(mode="json"))
    journal.update_tags(catalog.tags({"ttt.verdict": "valid"} if tags is None else tags))
    passes = {"repeat_total_ms": total_ms, "repeat_complete": complete or [True] * len(total_ms)}
    journal.write_artifact(artifact("timing/passes.json"), json.dumps(passes))
    journal.write_artifact(artifact("environment/host.json"), json.dumps(facts))
    journal.set_status(status)
    return LocalRun(journal)


def answer(compared: RunComparison) -> str:
    return answers([compared.comparison], 1.0)[0]


def test_the_same_thing_twice(tmp_path: Path) -> None:
    compared = compare_runs(make_run(tmp_path), make_run(tmp_path), run_to_run=KNOWN)
    assert answer(compared) == "no significant difference"
    assert compared.comparison.baseline == pytest.approx(1e3 * 8 * 10 / 100)
    assert compared.differences == []


def test_a_slower_one(tmp_path: Path) -> None:
    compared = compare_runs(make_run(tmp_path), make_run(tmp_path, [1.02 * ms for ms in STEADY]), run_to_run=KNOWN)
    assert answer(compared) == "slower"
    assert compared.comparison.change_pct == pytest.approx(100 * (1 / 1.02 - 1))


def test_what_runs_differ_by_can_be_set(tmp_path: Path) -> None:
    pair = make_run(tmp_path), make_run(tmp_path, [1.02 * ms for ms in STEADY])
    assert answer(compare_runs(*pair, run_to_run=RunToRun(3, "a test"))) == "cannot tell"


def test_only_complete_passes_count(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*STEADY, 12.0], complete=[True] * len(STEADY) + [False], status="killed")
    compared = compare_runs(make_run(tmp_path), run, run_to_run=KNOWN)
    assert compared.comparison.candidate_passes == len(STEADY)
    assert answer(compared) == "no significant difference"
    assert compared.differences == ["the candidate ended early: its status is killed"]


def test_a_prompts_tokens_count_in_prefill_mode(tmp_path: Path) -> None:
    assert throughputs(make_run(tmp_path, [10.0], mode="prefill", promptlen=3)) == [pytest.approx(1e3 * 8 * 3 / 10)]


# Verdicts

INVALID = {"ttt.verdict": "invalid", "ttt.reasons": "drift,short_section"}


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_an_invalid_run_is_refused_by_name(tmp_path: Path, side: str) -> None:
    good, bad = make_run(tmp_path), make_run(tmp_path, tags=INVALID)
    pair = (bad, good) if side == "baseline" else (good, bad)
    with pytest.raises(BadInput) as refused:
        compare_runs(*pair)
    text = str(refused.value)
    assert text.startswith(f"the {side} {bad.id} (ttt-1b decode b8 p1 g10) is invalid")
    assert "drift,short_section" in text


def test_an_invalid_run_that_is_asked_for_is_said(tmp_path: Path) -> None:
    compared = compare_runs(make_run(tmp_path), make_run(tmp_path, tags=INVALID), include_invalid=True)
    assert compared.differences == ["the candidate is invalid: drift,short_section"]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"ttt.verdict": "unjudged"}, "the baseline is unjudged"),
        ({"ttt.verdict": "unjudged", "ttt.reasons": "no samples"}, "the baseline is unjudged: no samples"),
        ({}, "the baseline has no verdict in its record"),
    ],
)
def test_an_unjudged_run_is_compared_and_said(tmp_path: Path, tags: dict[str, str], said: str) -> None:
    assert compare_runs(make_run(tmp_path, tags=tags), make_run(tmp_path)).differences == [said]


# What else differs


def test_other_hardware_is_said_first(tmp_path: Path) -> None:
    other = {**H200, "gpu_name": "NVIDIA H100", "gpu_uuid": "2", "driver": "590", "torch": "2.12.0"}
    run = make_run(tmp_path, facts=other, tags={"ttt.verdict": "unjudged"}, batch=16, max_seconds=5)
    assert compare_runs(make_run(tmp_path), run).differences == [
        "GPU: NVIDIA H200 and NVIDIA H100",
        "GPU UUID: 1 and 2",
        "driver: 580 and 590",
        "the candidate is unjudged",
        "batch: 8 and 16",
        "torch: 2.11.0 and 2.12.0",
    ]


def test_a_fact_that_one_side_lacks_is_a_difference(tmp_path: Path) -> None:
    facts = {name: value for name, value in H200.items() if name != "driver"}
    assert compare_runs(make_run(tmp_path), make_run(tmp_path, facts=facts)).differences == ["driver: 580 and unknown"]


# What cannot be compared


def test_a_run_without_complete_passes(tmp_path: Path) -> None:
    run = make_run(tmp_path, [], status="oom")
    with pytest.raises(BadInput, match=rf"{run.id}: the run has no complete pass .*status oom"):
        compare_runs(make_run(tmp_path), run)


def test_a_run_that_did_not_come_to_its_passes(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="error")
    (run.journal.artifacts / "timing/passes.json").unlink()
    with pytest.raises(BadInput, match="no complete pass"):
        compare_runs(make_run(tmp_path), run)


def test_two_modes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mode=decode and the candidate .* mode=prefill"):
        compare_runs(make_run(tmp_path), make_run(tmp_path, mode="prefill"))


def test_a_micro_benchmark(tmp_path: Path) -> None:
    micro = LocalRun(Journal.create(tmp_path, MicroConfig.parse({}).model_dump(mode="json"), MicroConfig.entry_point))
    with pytest.raises(BadInput, match=r"is a record of micro: compare two runs of main"):
        compare_runs(make_run(tmp_path), micro)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "not a file of a run's record"),
        ('{"repeat_total_ms": [1.0], "repeat_complete": []}', "does not hold the passes of a run"),
        ('{"repeat_total_ms": [0.0], "repeat_complete": [true]}', "does not hold the passes of a run"),
    ],
)
def test_a_damaged_record(tmp_path: Path, text: str, said: str) -> None:
    run = make_run(tmp_path)
    run.journal.write_artifact(artifact("timing/passes.json"), text)
    with pytest.raises(BadInput, match=said):
        compare_runs(run, make_run(tmp_path))


def test_runs_as_they_are_recorded(tmp_path: Path) -> None:
    """The rates are those that the run's own metric is the median of."""
    asked = {"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 4, "warmup": 0, "repeats": 3}
    runs = [LocalRun(measured_in(tmp_path, asked).journal) for _ in range(2)]
    compared = compare_runs(*runs, include_invalid=True)
    assert compared.comparison.baseline == pytest.approx(runs[0].metrics["decode_tokens_per_s"])
    assert compared.comparison.candidate_passes == 3
    assert not any("GPU" in line or "batch" in line for line in compared.differences)
