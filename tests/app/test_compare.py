"""The command `compare`: what it prints, its exit codes, and the run that it leaves."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from tests.compared import H200, passes_around, recorded
from tests.inline import InlinePublisher
from tests.project import ROOT, environment, free_port, made_by_mlflow_run, new_store
from ttt_mlflow.app import publishing
from ttt_mlflow.cli import cli
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.tracking.publish import publish


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)


def compare(*words: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, words)], catch_exceptions=False)


def two(slower_pct: float, **candidate: Any) -> tuple[LocalRun, LocalRun]:
    """Two local records in ./ttt_runs, the second slower."""
    root = Path("ttt_runs")
    left = recorded(root, passes_around(1000))
    return left, recorded(root, passes_around(1000 * (1 - slower_pct / 100), seed=2), **candidate)


def test_local_records_need_no_store() -> None:
    left, right = two(3.0)
    done = compare(left.id, right.id)
    assert done.exit_code == 0, done.output
    assert "slower" in done.output
    assert "-3.0" in done.output
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize(
    ("slower", "words", "code"),
    [
        (3.0, ("--fail-above", "2%"), 1),
        (3.0, ("--fail-above", "2"), 1),
        (3.0, ("--fail_above=4 %",), 0),
        (3.0, (), 0),
        (0.0, ("--fail-above", "0.1%"), 5),
        (0.0, ("--fail-above", "0.1%", "--inconclusive-ok"), 0),
        (0.0, ("--fail-above", "0.1%", "--inconclusive-ok", "false"), 5),
    ],
)
def test_the_gate(slower: float, words: tuple[str, ...], code: int) -> None:
    left, right = two(slower)
    done = compare(left.id, right.id, *words)
    assert done.exit_code == code, done.output


def test_strict() -> None:
    left, right = two(3.0, host={**H200, "driver": "590"})
    assert compare(left.id, right.id, "--strict").exit_code == 5
    assert compare("--strict", left.id, right.id).exit_code == 5, "a switch takes no side for its value"
    assert compare("--strict", "false", left.id, right.id).exit_code == 0
    assert compare("--strict=true", left.id, right.id).exit_code == 5
    assert compare(left.id, right.id).exit_code == 0


def test_invalid_runs() -> None:
    left, right = two(3.0, tag={"ttt.verdict": "invalid", "ttt.reasons": "drift"})
    assert compare(left.id, right.id, "--fail-above", "2%").exit_code == 5
    assert compare(left.id, right.id, "--fail-above", "2%", "--include-invalid").exit_code == 1


@pytest.mark.parametrize("form", ["text", "markdown", "json", "junit", "html"])
def test_each_format(form: str) -> None:
    left, right = two(3.0)
    done = compare(left.id, right.id, "--format", form)
    assert done.exit_code == 0
    begins = {"text": "Baseline", "markdown": "**slower", "json": "{", "junit": "<?xml", "html": "<!DOCTYPE"}
    assert done.stdout.startswith(begins[form])
    if form == "json":
        assert json.loads(done.stdout)["answer"] == "slower"


def test_sides_by_option_and_by_place() -> None:
    left, right = two(3.0)
    expected = compare(left.id, right.id).output
    assert compare("--baseline", left.id, "--candidate", right.id).output == expected
    assert compare("--baseline", left.id, right.id).output == expected
    repeated = compare("--baseline", left.id, "--baseline", right.id, "--candidate", right.id)
    assert "2 : 1" in repeated.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "the candidate is missing"),
        ((), "the baseline is missing"),
        (("a", "b", "c"), "two sides are compared"),
        (("a", "b"), "baseline=a: it is no run that is known"),
        (("a", "b", "--fail-above", "much"), "fail_above=much: not allowed; fail_above takes a percentage"),
        (("a", "b", "--resolution", "0"), "resolution=0: not allowed"),
        (("a", "b", "--format", "pdf"), "format=pdf: not allowed; format takes text, markdown"),
        (("a", "b", "--tracking-uri", "sqlite:///none.db"), "cannot be read (there is no"),
        (("a", "b", "--tracking-uri", f"http://127.0.0.1:{free_port()}"), "cannot be read"),
    ],
)
def test_bad_input(words: tuple[str, ...], said: str) -> None:
    done = compare(*words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert not [path for path in Path().iterdir() if path.name in ("ttt_runs", "none.db", "mlflow.db")]


def test_two_kinds() -> None:
    left, right = two(0.0, config={"mode": "prefill"})
    done = compare(left.id, right.id)
    assert done.exit_code == 2
    assert "compare two runs of one kind" in done.output


def test_a_fault_of_the_program_is_not_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = two(3.0)
    monkeypatch.setattr("ttt_mlflow.report.comparison.conditions_of", lambda *_: 1 / 0)
    done = compare(left.id, right.id)
    assert done.exit_code == 70
    assert "ZeroDivisionError" in done.output


def test_it_is_kept_as_a_run(tmp_path: Path) -> None:
    uri = new_store(tmp_path)
    left, right = two(3.0)
    first = publish(left.journal, uri).run_id
    publish(right.journal, uri)
    done = compare(first, "latest", "--record", "--tracking-uri", uri)
    assert done.exit_code == 0, done.output
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id], "tags.`ttt.kind` = 'compare'")
    assert run.data.tags["ttt.comparison"] == "slower"
    assert run.data.tags["mlflow.note.content"].startswith("**slower")
    assert run.info.status == "FINISHED"
    assert run.data.params["candidate"] == "latest"
    names = {item.path for item in client.list_artifacts(run.info.run_id, "comparison")}
    assert names == {"comparison/comparison.html", "comparison/comparison.json"}
    again = compare(first, "latest", "--tracking-uri", uri)
    assert right.name in again.output, "latest is never a comparison itself"


def test_under_mlflow_run_the_answer_is_recorded_in_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = new_store(tmp_path)
    left, right = two(3.0)
    ids = [publish(run.journal, uri).run_id for run in (left, right)]
    client = MlflowClient(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def inside(*words: str) -> tuple[int, Any]:
        made = made_by_mlflow_run(client, "compare", list(words))
        monkeypatch.setenv("MLFLOW_RUN_ID", made)
        monkeypatch.setattr(sys, "argv", ["ttt-mlflow", "compare", *words])
        code = compare(*words).exit_code
        return code, client.get_run(made)

    code, run = inside("--baseline", ids[0], "--candidate", ids[1], "--strict", "true")
    assert (code, run.data.tags["ttt.comparison"]) == (0, "slower")
    code, run = inside("--baseline", ids[0], "--candidate", ids[1], "--fail_above", "2%")
    assert (code, run.info.status) == (1, "FINISHED")
    # `mlflow run` names MLFLOW_EXPERIMENT_ID=0 where nobody chose one; the runs are in ttt-mlflow
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    code, run = inside("--baseline", "latest~1", "--candidate", "latest")
    assert (code, run.data.tags["ttt.comparison"]) == (0, "slower")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    code, run = inside("--baseline", "nothing of the kind", "--candidate", ids[1])
    assert (code, run.info.status) == (2, "FAILED")
    assert "nothing of the kind" in run.data.tags["ttt.message"]
    assert run.data.tags["ttt.kind"] == "compare"


@pytest.mark.long
def test_the_recipe_for_continuous_integration(tmp_path: Path) -> None:
    """The two commands of the page, with a model that a CPU measures at once."""
    page = (ROOT / "docs/comparing.md").read_text()
    (recipe,) = (block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "junit" in block)
    quick = "--model-name ttt-tiny --batch 2 --genlen 8 --device cpu --repeats 3"
    quick += " --thresholds section_s=0,half_width_pct=1000"  # such a short run would be invalid
    recipe = recipe.replace("--batch 128 --genlen 128", quick).replace("ttt-mlflow ", "python -m ttt_mlflow ")
    script = f"{recipe.splitlines()[0]}\n{recipe}"  # the baseline is measured first
    variables = {**environment(new_store(tmp_path)), "BASELINE": "latest~1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 5, done.stdout + done.stderr  # one run a side on a CPU: cannot tell
    report = (tmp_path / "performance.xml").read_text()
    assert 'tests="1" failures="0" skipped="1"' in report
    assert "3 runs a side" in report
