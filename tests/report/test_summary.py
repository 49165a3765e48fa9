"""The summaries show what was measured, and nothing that was not."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import catalog
from tests.catalog import artifact, tags
from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.measurement.verdict import Finding, Verdict
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import local_row
from ttt_mlflow.report.summary import summary_markdown, summary_text, throughput
from ttt_mlflow.report.table import table_text
from ttt_mlflow.report.text import number

CPU = {
    "decode_tokens_per_s": 66787.4,
    "decode_tokens_per_s_ci_low": 66500.2,
    "decode_tokens_per_s_ci_high": 67010.0,
    "decode_step_ms_p50": 15.3321,
    "decode_step_ms_p90": 15.4,
    "decode_step_ms_p99": 16.0,
    "decode_step_ms_mean": 15.35,
    "relative_spread_pct": 0.41,
    "relative_half_width_pct": 0.3814,
    "measured_passes": 7.0,
    "warmup_passes": 4.0,
    "drift_pct": -0.0312,
    "drift_p_value": 0.43,
    "drift_within_pass_pct": 0.25,
    "drift_within_pass_p_value": 0.012,
    "prefill_tokens_per_s": 512.0,
    "prefill_ms": 2.0,
    "time_to_first_token_ms": 17.25,
    "imports_s": 4.0,
    "setup_s": 1.5,
    "model_parameters": 1_323_070_592.0,
}
GPU = {
    **CPU,
    "peak_memory_allocated_gb": 17.5,
    "peak_memory_reserved_gb": 18.25,
    "device_memory_used_gb": 19.0,
    "sm_clock_mhz_mean": 1975.2,
    "sm_clock_mhz_min": 1965.0,
    "sm_clock_mhz_max": 1980.0,
    "memory_clock_mhz_mean": 3201.0,
    "power_w_mean": 630.0,
    "energy_j": 1234.0,
    "joules_per_token": 0.0094,
    "temperature_c_max": 61.0,
    "gpu_utilization_pct_mean": 99.5,
    "clock_event_sw_power_cap_pct": 83.0,
    "clock_event_gpu_idle_pct": 0.0,
    "compile_s": 30.0,
}
# series, and numbers that the run's name and parameters have
ELSEWHERE = ("pass_tokens_per_s", "discarded_tokens_per_s", "batch", "promptlen", "genlen")
GPU_LINES = ("memory", "clocks", "power", "clock events")


def make_journal(root: Path, metrics: dict[str, float], **values: object) -> Journal:
    config = RunConfig.parse({"model_name": "ttt-1b", "batch": 1024, "promptlen": 1, "genlen": 256, **values})
    journal = Journal.create(root, config.model_dump(mode="json"))
    used = {"inner_net": "mlp_1_dual_triton", "device": "cuda", "dtype": "float16"}
    journal.set_used({**config.model_dump(mode="json"), "use_compile": False, "cuda_graph": True, **used, **values})
    journal.update_metrics(catalog.metrics(metrics))
    return journal


def lines(text: str) -> dict[str, str]:
    """The terminal summary's lines, without the title: label -> text."""
    rows = [line.strip().split("  ", 1) for line in text.splitlines()[1:]]
    return {label: rest.strip() for label, rest in rows}


def test_one_is_singular(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, {"measured_passes": 2.0, "warmup_passes": 1.0})
    assert lines(summary_text(journal, "here"))["passes"] == "2 timed, 1 warm-up pass"


def test_the_terminal_summary_of_a_gpu_run(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, GPU)
    journal.update_tags(tags({"ttt.stop_reason": "interval", "ttt.warmup_stop_reason": "time_share"}))
    journal.set_status("ok")
    text = summary_text(journal, "http://team:5000/#/experiments/1/runs/2")
    assert text.splitlines()[0] == "ttt-1b mlp_1_dual_triton b1024 g256 no compile"
    assert lines(text) == {
        "configuration": "cuda, float16, torch.compile off, CUDA graph on, seed 0",
        "decode": "66,787 tokens/s, 95 % confidence interval [66,500, 67,010], coefficient of variation 0.41 %",
        "decode step": "15.33 ms p50, 15.4 p90, 16 p99, 15.35 mean",
        "prefill": "512 tokens/s, 2 ms, first token after 17.25 ms",
        "passes": "7 timed, stopped by the confidence interval, confidence interval ±0.3814 %, "
        "4 warm-up passes, not settled: time limit reached",
        "drift": "-0.0312 % from the first third of the passes to the last (p 0.43), 0.25 % within a pass (p 0.012)",
        "memory": "peak 17.5 GB allocated, 18.25 GB reserved, 19 GB used on the device",
        "clocks": "SM 1,975 MHz (1,965 to 1,980), memory 3,201 MHz",
        "power": "630 W, 1,234 J, 0.0094 J per token, 61 °C at most, GPU 99.5 % busy",
        "clock events": "sw_power_cap 83 %",
        "overhead": "imports 4 s, build 1.5 s, compilation 30 s",
        "model": "1,323,070,592 parameters",
        "record": "http://team:5000/#/experiments/1/runs/2",
    }


def test_of_few_passes_the_first_is_compared_with_the_last(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, {})
    journal.update_metrics({names.DRIFT_PCT: 16.69})
    assert lines(summary_text(journal, "x"))["drift"] == "16.69 % from the first pass to the last"


def test_how_sequences_part_can_be_read(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, {})
    journal.update_metrics({names.ACCURACY_TOTAL_VARIATION: 0, names.ACCURACY_PARTED_SEQUENCES_PCT: 0})
    told = "total variation 0, 0 % of the free-running sequences part from float32's"
    assert lines(summary_text(journal, "x"))["accuracy"] == told


def test_a_cpu_run_has_no_lines_for_what_it_did_not_measure(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, CPU, device="cpu", dtype="float32", cuda_graph=False)
    journal.set_status("ok")
    shown = lines(summary_text(journal, "here"))
    assert not set(GPU_LINES) & set(shown)
    assert shown["configuration"] == "cpu, float32, torch.compile off, CUDA graph off, seed 0"
    assert all(f"| {label} |" not in summary_markdown(journal) for label in GPU_LINES)


def test_one_repeat_has_no_interval(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, {"decode_tokens_per_s": 10.0})
    assert lines(summary_text(journal, "here"))["decode"] == "10 tokens/s"
    assert throughput(journal.metrics, "decode") == "10"
    assert throughput(journal.metrics, "prefill") is None


def test_samples_without_an_event_say_so(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, {"clock_event_hw_slowdown_pct": 0.0})
    assert lines(summary_text(journal, "here"))["clock events"] == "none"


@pytest.mark.parametrize("status", ["oom", "error", "killed"])
def test_a_run_that_did_not_end_well_says_so_first(tmp_path: Path, status: str) -> None:
    journal = make_journal(tmp_path, {"peak_memory_allocated_gb": 11.5})
    journal.set_status(status, "batch 1024 does not fit: the card has 12 GB")
    shown = lines(summary_text(journal, "here"))
    assert next(iter(shown.items())) == ("status", f"{status}: batch 1024 does not fit: the card has 12 GB")
    assert shown["memory"] == "peak 11.5 GB allocated"
    assert "decode" not in shown
    assert f"| status | {status}: batch 1024" in summary_markdown(journal)


def test_a_run_that_ended_before_its_configuration_was_settled(tmp_path: Path) -> None:
    config = RunConfig.parse({"batch": 4}).model_dump(mode="json")
    journal = Journal.create(tmp_path, config)
    journal.set_status("error", "the disk is full")
    text = summary_text(journal, "here")
    assert text.splitlines()[0] == "ttt-1b b4"
    assert lines(text)["configuration"] == "seed 0"


def test_the_markdown_description(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, GPU, checkpoint="/weights/a|b.safetensors")
    journal.update_tags(tags({"ttt.host": "node7", "ttt.gpu_name": "NVIDIA H200", "ttt.torch": "2.13.0"}))
    journal.set_status("error", "one\ntwo | three")
    text = summary_markdown(journal)
    assert text.startswith("**error: one two \\| three**\n\n**66,787 tokens/s** decode, ")
    assert "ttt-mlflow run --batch 1024 --genlen 256 --checkpoint '/weights/a|b.safetensors'\n```\n" in text
    assert "\n\n**ttt-1b mlp_1_dual_triton b1024 g256 no compile a\\|b.safetensors**\n\n| | |\n| --- | --- |\n" in text
    assert "| status | error: one two \\| three |" in text
    assert "weights /weights/a\\|b.safetensors |" in text
    assert (
        "| decode | 66,787 tokens/s, 95 % confidence interval [66,500, 67,010], coefficient of variation 0.41 % |"
        in text
    )
    assert text.endswith("| host | node7, NVIDIA H200, torch 2.13.0 |\n")


def test_the_spread_is_that_of_the_mode(tmp_path: Path) -> None:
    metrics = {"prefill_tokens_per_s": 10.0, "prefill_ms": 5.0, "relative_spread_pct": 0.5}
    journal = make_journal(tmp_path, metrics, mode="prefill")
    shown = lines(summary_text(journal, "here"))
    assert shown["prefill"] == "10 tokens/s, coefficient of variation 0.5 %, 5 ms"
    assert "decode" not in shown


@settings(max_examples=40)
@given(
    metrics=st.dictionaries(
        st.sampled_from([metric.name for metric in names.METRICS]),
        st.floats(min_value=1e-3, max_value=1e12, allow_nan=False),
        max_size=40,
    )
)
def test_any_part_of_the_metrics_can_be_missing(
    tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float]
) -> None:
    journal = make_journal(tmp_path_factory.getbasetemp(), metrics)
    table = table_text([local_row(LocalRun(journal))])
    for text in (summary_markdown(journal), summary_text(journal, "here"), table):
        assert "None" not in text
        assert "nan" not in text
        assert "{" not in text
    # every value that was measured can be seen, apart from the ends of half an interval
    shown = summary_text(journal, "here")
    for name, value in journal.metrics.items():
        if name in ELSEWHERE:
            continue
        if "_ci_" not in name and not (name.startswith("sm_clock") and name != "sm_clock_mhz_mean"):
            assert number(value) in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (66787.4, "66,787"),
        (1_323_070_592.0, "1,323,070,592"),
        (999.949, "999.9"),
        (999.96, "1,000"),
        (15.3321, "15.33"),
        (64.0, "64"),
        (0.0123456, "0.01235"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_the_summary_has_the_verdict_with_its_reasons(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, CPU)
    verdict = Verdict("invalid", (Finding("drift", "+1.2 %"),), {"other_processes": "not listed"}, ("a note",))
    journal.write_artifact(artifact("verdict.json"), json.dumps(verdict.record()))
    journal.set_status("ok")
    expected = "invalid: drift (+1.2 %); without other_processes (not listed). a note"
    assert lines(summary_text(journal, "here"))["verdict"] == expected
    assert f"| verdict | {expected} |" in summary_markdown(journal)
