"""A run's page begins with what a reader wants first, in words, and with commands that measure the same again."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from tests.catalog import artifact, metrics
from tests.project import ROOT
from tests.test_names import literals
from ttt_mlflow.app.arguments import parse
from ttt_mlflow.cli.measuring import micro_command, run_command
from ttt_mlflow.config import CONFIGURATIONS, Configuration, MicroConfig, RunConfig
from ttt_mlflow.measurement.verdict import FAULTY_EVENTS, Finding, Verdict
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.description import REASONS, UNCHECKED, again_markdown, headline_markdown, verdict_markdown

NUMBERS = {
    "decode_tokens_per_s": 66787.0,
    "decode_tokens_per_s_ci_low": 66500.0,
    "decode_tokens_per_s_ci_high": 67010.0,
    "relative_half_width_pct": 0.3814,
    "roofline_pct": 72.1,
    "peak_memory_allocated_gb": 17.5,
}


def journal_of(root: Path, config: Configuration | None = None, facts: dict[str, object] | None = None) -> Journal:
    config = config or RunConfig.parse({})
    journal = Journal.create(root, config.model_dump(mode="json"), config.entry_point)
    journal.write_artifact(artifact("environment/host.json"), json.dumps(facts or {}))
    return journal


def test_the_headline(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.update_metrics(metrics(NUMBERS))
    journal.write_artifact(artifact("verdict.json"), json.dumps(Verdict("valid").record()))
    assert headline_markdown(journal) == [
        "**66,787 tokens/s** decode, 95 % confidence interval [66,500, 67,010] (±0.3814 %)",
        "",
        "- verdict **valid**",
        "- 72.1 % of the roofline",
        "- peak memory 17.5 GB",
        "",
    ]


def test_what_was_not_measured_is_not_in_the_headline(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, RunConfig.parse({"mode": "prefill"}))
    assert headline_markdown(journal) == ["**No prefill throughput was measured.**", ""]
    journal.update_metrics(metrics({"prefill_tokens_per_s": 10.0}))
    assert headline_markdown(journal) == ["**10 tokens/s** prefill", ""]


def test_the_verdict_in_words(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    assert verdict_markdown(journal) == []
    verdict = Verdict(
        "invalid", (Finding("wide_interval", "±76 %"), Finding("drift", "+2 %")), {"sm_clock": "no samples"}
    )
    journal.write_artifact(artifact("verdict.json"), json.dumps(verdict.record()))
    assert verdict_markdown(journal) == [
        "verdict **invalid**: the confidence interval is too wide (±76 %); the throughput drifted (+2 %)",
        "not checked: the SM clock (no samples)",
    ]


def test_every_reason_has_words() -> None:
    source = (ROOT / "ttt_mlflow/measurement/verdict.py").read_text()
    assert set(re.findall(r'Finding\(\s*"(\w+)"', source)) | set(FAULTY_EVENTS) == set(REASONS)
    assert set(re.findall(r'Missing\(\s*"(\w+)"', source)) | {"measurement"} == set(UNCHECKED)
    assert "measurement" in literals(ROOT / "ttt_mlflow/measurement/verdict.py")


@pytest.mark.parametrize(
    "config",
    [
        RunConfig.parse({}),
        RunConfig.parse({"batch": 1024, "use_compile": False, "profile": "torch,nsys", "checkpoint": "/a b/c.pt"}),
        MicroConfig.parse({"kernels": "b,a", "batches": "1,2", "thresholds": "drift_pct=1,section_s=2"}),
    ],
)
def test_the_commands_measure_the_same_again(tmp_path: Path, config: Configuration) -> None:
    text = again_markdown(journal_of(tmp_path, config))
    assert text[0] == "To measure this again:"
    project, own = (shlex.split(line) for line in text[3:5])
    kind = CONFIGURATIONS[config.entry_point]
    assert project[:3] == ["mlflow", "run", "."]
    given = dict(word.split("=", 1) for option, word in pairwise(project) if option == "-P")
    assert kind.parse(given) == config
    assert ("-e" in project) == (kind is MicroConfig)
    command = run_command if kind is RunConfig else micro_command
    assert own[:2] == ["ttt-mlflow", command.name]
    with command.make_context("x", own[2:]) as context:
        options = {name: context.params[name] for name in kind.model_fields}
    assert parse(kind, options, []) == config


def test_the_commit(tmp_path: Path) -> None:
    assert (
        again_markdown(journal_of(tmp_path, facts={"git_commit": "abc"}))[0] == "To measure this again at commit abc:"
    )
    text = again_markdown(journal_of(tmp_path, facts={"git_commit": "abc", "git_dirty": True}))[0]
    assert text == "To measure this again at commit abc with uncommitted changes:"
