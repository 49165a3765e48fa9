"""``ttt-mlflow ab`` as a whole, on versions that measure nothing: the order, the answer, and what is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from tests.app.ab.conftest import NOWHERE, Project
from tests.project import ROOT, environment, started
from tests.proxies import SILENCE, proxy
from ttt_mlflow.cli import cli
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.recorded_run import LocalRun

Ab = Callable[..., Result]
SHORT = ["--max-seconds=4", "--thresholds=half_width_pct=100"]
WARM = ["--warmup=0", "--repeats=1"]
ABBA = ["slow", "fast", "fast", "slow"]


def test_both_are_warmed_then_measured_in_turns(ab: Ab, project: Project) -> None:
    result = ab("slow", "fast", "--", "--batch", "4", "--genlen=8")
    assert result.exit_code == 4, "compared, and not published"
    assert project.versions == ["slow", "fast", *ABBA, *ABBA]
    given = [*SHORT, "--batch", "4", "--genlen=8"]
    for index, call in enumerate(project.calls()):
        assert call["words"][:-1] == given + (WARM if index < 2 else [])
    assert "faster" in result.stdout
    assert "+3.00 %" in result.stdout
    assert "round 2" in result.stderr
    kept = find_journals("ttt_runs").journals
    assert len(kept) == 9, "the comparison and its eight runs; the warm runs are dropped"


def test_the_options_of_a_side_come_after_those_of_both(ab: Ab, project: Project) -> None:
    sides = ("--baseline-options", "--dtype float16", "--candidate-options", "--dtype bfloat16 --max-seconds 2")
    ab("slow", "slow", *sides, "--", "--dtype", "float32")
    one, other = (call["words"][:-1] for call in project.calls()[2:4])
    assert one == [*SHORT, "--dtype", "float32", "--dtype", "float16"]
    assert other == [*SHORT, "--dtype", "float32", "--dtype", "bfloat16", "--max-seconds", "2"]


def test_the_uncommitted_tree_and_a_folder_without_history(ab: Ab, project: Project, tmp_path: Path) -> None:
    copy = Project(tmp_path, project.calls_file)
    copy.write("copy", 1010.0)
    project.write("edited", 1020.0)
    (project.folder / "ignored").mkdir()
    result = ab(str(tmp_path), ".")
    assert project.versions == ["copy", "edited", *["copy", "edited", "edited", "copy"] * 2]
    assert f"baseline: {tmp_path}, the folder {tmp_path}" in result.stderr
    assert f"candidate: ., {project.folder} with its uncommitted changes (commit " in result.stderr
    assert "+0.99 %" in result.stdout


def test_an_edit_during_the_measurement_changes_nothing(
    ab: Ab, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttt_mlflow.app.ab import command

    measure = command.run_once

    def then_edit(*arguments: object) -> object:
        done = measure(*arguments)  # type: ignore[arg-type]
        project.write("edited while it was measured")
        return done

    monkeypatch.setattr(command, "run_once", then_edit)
    ab("slow", ".")
    assert set(project.versions) == {"slow", "fast"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("slow", "fast", "--fail-above", "2%"), 4),  # faster, and the store is away
        (("fast", "slow", "--fail-above", "2"), 1),
        (("fast", "slow", "--fail-above", "4%"), 4),
    ],
)
def test_the_gate(ab: Ab, arguments: tuple[str, ...], code: int) -> None:
    assert ab(*arguments).exit_code == code


def test_the_time_is_used_up(ab: Ab, project: Project) -> None:
    """Runs that scatter by 10 % are never narrow; two rounds are made, whatever the time."""
    project.commit("scattering", 1000.0, scatter=0.1)
    result = ab("scattering", "slow", "--max-minutes", "0.0001")
    assert len(project.calls()) == 2 + 8
    assert "the time is used up (--max-minutes 0.0001)" in result.stderr


def test_more_rounds_until_it_is_narrow(ab: Ab, project: Project) -> None:
    project.commit("scattering", 1000.0, scatter=0.02)
    result = ab("scattering", "slow", "--resolution", "1.5")
    rounds = (len(project.calls()) - 2) / 4
    assert rounds == int(rounds) > 2
    assert "used up" not in result.stderr


def test_runs_that_are_invalid_do_not_count(ab: Ab, project: Project) -> None:
    project.commit("throttled", verdict="invalid")
    arguments = ("slow", "throttled", "--max-minutes", "0.0001", "--fail-above", "2")
    assert ab(*arguments).exit_code == 5
    assert ab(*arguments, "--include-invalid").exit_code == 4, "no difference, and the store is away"


def test_what_cannot_be_told_may_pass(ab: Ab, project: Project) -> None:
    project.commit("throttled", verdict="invalid")
    arguments = ("slow", "throttled", "--max-minutes", "0.0001", "--fail-above", "2", "--inconclusive-ok")
    assert ab(*arguments).exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none-such", "fast"), "baseline=none-such: neither a commit, branch or tag of"),
        (("slow", "ignored"), "candidate=ignored: neither"),
        (("slow", ".."), "holds no package ttt_mlflow; name the folder of a checkout"),
        (("before", "fast"), "holds no package ttt_mlflow; name another commit"),
        (("slow", "fast", "--", "--batches", "4"), "baseline: batches=4: no such parameter"),
        (("slow", "fast", "--", "--batch", "none"), "baseline: batch=none: not allowed"),
        (("slow", "fast", "--", "--batch"), "Option '--batch' requires an argument"),
        (("slow", "fast", "--candidate-options", "--foo 1"), "candidate: foo=1: no such parameter"),
        (("slow", "fast", "--candidate-options", "'"), "candidate_options=': not allowed (No closing quotation)"),
        (("slow", "fast", "--", "--logdir", "x"), "logdir=x: it holds for both sides; give it before `--`"),
        (
            ("slow", "fast", "--", "--publish-seconds", "9"),
            "publish_seconds=9: it holds for both sides; give it before `--`",
        ),
        (("slow", "fast", "--publish-patience", "0"), "publish_patience=0: "),
        (("slow", "fast", "--resolution", "0"), "resolution=0: not allowed; resolution takes a percentage above 0"),
        (("slow", "fast", "--fail-above", "-1"), "fail_above=-1: not allowed"),
        (("slow", "fast", "--max-minutes", "soon"), "max_minutes=soon: not allowed"),
        (
            ("slow", "fast", "--format", "xml"),
            "format=xml: not allowed; format takes text, markdown, json, junit or html",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    ab: Ab, project: Project, arguments: tuple[str, ...], says: str
) -> None:
    empty = project.git("hash-object", "-t", "tree", "-w", "/dev/null")
    project.git("tag", "before", project.git("commit-tree", "-m", "before", empty))
    result = ab(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    assert "Traceback" not in result.output
    assert project.calls() == []
    assert not list(Path.cwd().glob("ttt_runs/*"))


def test_outside_of_a_repository(ab: Ab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    result = ab("HEAD", "HEAD")
    assert result.exit_code == 2
    assert f"baseline=HEAD: no such folder, and {outside} is in no git repository" in result.stderr


def test_a_commit_that_does_not_run(ab: Ab, project: Project) -> None:
    (project.folder / "ttt_mlflow/__main__.py").write_text("import none_such_module\n")
    project.git("commit", "-qam", "broken")
    result = ab("slow", "HEAD")
    assert result.exit_code == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    command = "python -m ttt_mlflow run --max-seconds=4 --thresholds=half_width_pct=100 --warmup=0 --repeats=1"
    reason = "ModuleNotFoundError: No module named 'none_such_module'"
    assert error == f"Error: candidate=HEAD: `{command}` ended with code 1: {reason}"
    assert not list(Path("ttt_runs").iterdir())


def test_a_side_that_fails_later(ab: Ab, project: Project, tmp_path: Path) -> None:
    """What was measured before is kept on disk. Nothing goes to the store, and no comparison is left."""
    project.commit("failing", fails_after=2, failure="RuntimeError: it broke")
    result = ab("slow", "failing", "--tracking-uri", f"sqlite:///{tmp_path}/none.db")
    assert result.exit_code == 2
    assert "ended with code 1: RuntimeError: it broke" in result.stderr
    assert "The runs that were measured before are kept in" in result.stderr
    kept = find_journals("ttt_runs").journals
    assert [journal.entry_point for journal in kept] == ["main", "main"]
    assert not (tmp_path / "none.db").exists()


def test_a_bug_is_none_of_the_other_exit_codes(ab: Ab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*sides: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("ttt_mlflow.app.ab.command.compare", broken)
    result = ab("slow", "fast")
    assert result.exit_code == 70
    assert "ZeroDivisionError: a bug" in result.stderr


def test_one_parent_run_with_its_children(ab: Ab, project: Project, sqlite_uri: str) -> None:
    result = ab("slow", "fast", "--tracking-uri", sqlite_uri, "--experiment-name", "pairs", "--format", "markdown")
    assert result.exit_code == 0, result.output
    client = MlflowClient(sqlite_uri)
    experiment = client.get_experiment_by_name("pairs")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("ttt.kind") == "compare"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == 8
    assert parent.info.run_name == "compare slow with fast"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["ttt.comparison"] == "faster"
    assert (parent.data.params["baseline"], parent.data.params["candidate"]) == ("slow", "fast")
    description = parent.data.tags["mlflow.note.content"]
    assert "faster" in description
    assert f"Candidate: fast, commit {project.git('rev-parse', 'fast')[:10]}; run --max-seconds=4" in description
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id, "comparison")}
    assert artifacts == {"comparison/comparison.json", "comparison/comparison.html"}
    sides = {
        (run.data.tags["ttt.side"], run.data.tags["ttt.git_ref"], run.data.metrics["decode_tokens_per_s"])
        for run in children
    }
    assert sides == {("baseline", "slow", 1000.0), ("candidate", "fast", 1030.0)}
    assert f"MLflow run {parent.info.run_id} in {sqlite_uri}, with 8 child runs" in result.stderr


@pytest.mark.long
def test_a_server_that_never_answers_holds_the_comparison_up_no_longer_than_asked(ab: Ab) -> None:
    with proxy(lambda method, path: SILENCE) as silent:
        result = ab("slow", "fast", "--tracking-uri", silent.uri, "--publish-patience", "0.5")
    assert result.exit_code == 4, result.output
    assert "for 0.5 s no byte moved and no answer came" in result.stderr
    assert f"`ttt-mlflow sync {Path.cwd()}/ttt_runs --tracking-uri {silent.uri}` publishes them" in result.stderr
    assert "faster" in result.stdout


def test_a_store_that_was_away_gets_the_same_by_sync(ab: Ab, sqlite_uri: str) -> None:
    from ttt_mlflow.tracking.sync import sync

    result = ab("slow", "fast", "--experiment-name", "later")
    assert result.exit_code == 4, result.output
    assert f"Warning: tracking_uri={NOWHERE}: cannot be reached (" in result.stderr
    assert f"`ttt-mlflow sync {Path.cwd()}/ttt_runs --tracking-uri {NOWHERE}` publishes them" in result.stderr
    assert [done.outcome for done in sync("ttt_runs", sqlite_uri)] == ["published"] * 9
    client = MlflowClient(sqlite_uri)
    experiment = client.get_experiment_by_name("later")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("ttt.kind") == "compare"]
    assert [run.data.tags.get("mlflow.parentRunId") for run in runs].count(parent.info.run_id) == 8


@pytest.mark.parametrize(
    ("signum", "before"),
    [(signal.SIGINT, 5), pytest.param(signal.SIGTERM, 1, marks=pytest.mark.long), (signal.SIGTERM, 0)],
)
def test_a_signal(project: Project, tmp_path: Path, signum: signal.Signals, before: int) -> None:
    """A process hangs after ``before`` complete runs; a signal then ends ``ab`` and everything that it started."""
    hangs_after = {5: 3, 1: 1, 0: 0}[before]
    project.commit("hanging", hangs_after=hangs_after)
    command = [sys.executable, "-m", "ttt_mlflow", "ab", "slow", "hanging", "--tracking-uri", NOWHERE]
    env = {**environment(), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TMPDIR": str(tmp_path / "temporary")}
    with started(command, env, project.folder) as process:
        process.wait_for(lambda: project.versions.count("hanging") > hangs_after)
        process.process.send_signal(signum)
        assert process.wait() == 128 + signum
    assert "Traceback" not in process.output
    assert len(project.work_trees()) == 1
    assert not list((tmp_path / "temporary").iterdir())
    assert not os.path.exists(f"/proc/{project.calls()[-1]['pid']}"), "the process that hung is gone"
    records = find_journals("ttt_runs").journals
    if before == 0:
        assert f"Stopped by {signum.name} before anything was measured." in process.output
        assert records == []
        return
    parent, *runs = records
    assert len(runs) == before
    assert parent.status["status"] == "killed"
    if before == 1:
        assert "Too little was measured for a comparison" in process.output
        assert "Too little was measured" in parent.description
        assert "ttt.comparison" not in parent.tags
    else:
        assert f"Stopped by {signum.name} after 5 runs, of which this is the comparison" in process.output
        assert parent.tags["ttt.comparison"]
        assert f"Stopped by {signum.name}: this is what was measured until then." in parent.description


def test_json_is_the_only_thing_on_standard_output(ab: Ab) -> None:
    assert json.loads(ab("slow", "fast", "--format", "json").stdout)["answer"] == "faster"


@pytest.mark.long
def test_the_real_program_against_itself(tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEAD of this repository, twice, on the CPU. No speed: what was measured, and how it is recorded."""
    monkeypatch.chdir(ROOT)
    options = ["--model-name=ttt-tiny", "--batch=1", "--genlen=2", "--device=cpu", "--warmup=0", "--repeats=2"]
    places = ["--logdir", str(tmp_path / "runs"), "--tracking-uri", sqlite_uri, "--experiment-name", "itself"]
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    before = len(subprocess.check_output(["git", "worktree", "list"]).splitlines())
    result = CliRunner().invoke(cli, ["ab", "HEAD", "HEAD", "--max-minutes=0.01", *places, "--", *options])
    assert result.exit_code == 0, result.output
    assert len(subprocess.check_output(["git", "worktree", "list"]).splitlines()) == before
    parent, *runs = find_journals(tmp_path / "runs").journals
    assert {LocalRun(run).commit for run in runs} == {head}
    assert [run.tags["ttt.side"] for run in runs] == ["baseline", "candidate", "candidate", "baseline"] * 2
    assert {run.tags["ttt.parent_journal_id"] for run in runs} == {parent.journal_id}
    assert "ttt-tiny" in result.stdout
