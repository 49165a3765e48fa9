"""The command report: which runs it finds, what it writes, and what it says to bad input."""

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.catalog import artifact
from tests.project import ROOT, environment, new_store
from tests.report import h200
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.app.report import FORMATS, Asked, make_report, report_on
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.sweep_file import SweepCell, SweepFile
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.query import open_store

FILES = {"results.html", "results.md", "results.csv", "table.png", "table.svg", "charts.png", "charts.svg"}
TEXTS = "markdown,csv"
PREDICTED = "281 GB predicted; the GPU has 141 GB"


def sweep_record(root: Path) -> Journal:
    """The parent of a sweep that did not try one configuration."""
    config = RunConfig(model_name="ttt-1b", inner_net=h200.MLP, batch=4096, genlen=128).model_dump(mode="json")
    cells = (SweepCell(key="x", config=config, state="predicted_oom", reason=PREDICTED),)
    record = h200.record(root, {}, told={"ttt.kind": "sweep"})
    record.write_artifact(artifact("sweep.json"), SweepFile(sweep_id="s", cells=cells).text())
    return record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs on an H200 and their sweep, and the store that has them as children of the sweep's run."""
    root = tmp_path_factory.mktemp("report")
    store, runs = new_store(root), root / "runs"
    parent = publish(sweep_record(runs), store, None, "mine").run_id
    (root / "parent").write_text(parent)
    client = MlflowClient(store)
    for record in h200.records(runs):
        child = publish(record, store, None, "mine").run_id
        client.set_tag(child, "mlflow.parentRunId", parent)
    h200.record(root / "other", {"decode_tokens_per_s": 7e4}, told={"ttt.verdict": "valid"}, batch=128, genlen=128)
    return root


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def store_of(place: Path) -> str:
    return f"sqlite:///{place}/mlflow.db"


def lines_of(asked: Asked, code: int = 0) -> list[dict[str, str]]:
    """The lines of the CSV file."""
    assert make_report(asked) == code
    return list(csv.DictReader((Path(asked.out) / "results.csv").read_text().splitlines()))


def asked_of(place: Path, source: str, **values: Any) -> Asked:
    values = {"formats": TEXTS, **values}
    if source == "folder":
        return Asked((str(place / "runs"),), **values)
    sets = ((place / "parent").read_text(),) if source == "parent" else ()
    return Asked(sets, Destination("./ttt_runs", store_of(place), None if source == "parent" else "mine"), **values)


def cells_of(lines: Sequence[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    return [(one["inner_net"], one["batch"], one["state"], one["tokens_per_s"]) for one in lines]


@pytest.mark.parametrize("source", ["folder", "experiment", "parent"])
def test_the_same_report_from_a_folder_an_experiment_and_a_parent(source: str, place: Path) -> None:
    lines = lines_of(asked_of(place, source))
    assert sorted(cells_of(lines)) == sorted(
        [
            *(
                (net or "", str(batch), str(values[-1]), f"{values[0]}.0")
                for (net, batch), values in h200.MEASURED.items()
            ),
            (h200.MLP, "8192", "oom", ""),
            (h200.MLP, "4096", "predicted_oom", ""),
        ]
    )
    (predicted,) = (one for one in lines if one["state"] == "predicted_oom")
    assert (predicted["reason"], predicted["run_id"]) == (PREDICTED, "")
    runs = [one for one in lines if one["run_id"]]
    assert all(one["link"].endswith(f"/runs/{one['run_id']}") for one in runs)
    assert all(one["link"].startswith("http://127.0.0.1:5000/#/experiments/") for one in runs), (
        "where `mlflow ui` listens"
    )
    assert all((place / "runs" / one["record"]).is_dir() for one in runs)


def test_all_files(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best run is said first."""
    asked = Asked((str(place / "runs"),), best="decode_step_ms_p99 < 11", out=str(tmp_path / "out"), title="H200")
    assert make_report(asked) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    said = capsys.readouterr()
    assert said.out.startswith(
        "Best decode under decode_step_ms_p99 < 11: ttt-1b mlp_1_dual_triton b1024 g128, 131,109"
    )
    assert "mamba-1.4b" in said.out
    assert "Written: " in said.err
    assert (tmp_path / "out/results.md").read_text().startswith("# H200\n\n- Best decode under ")
    page = (tmp_path / "out/results.html").read_text()
    assert len(page) < 8e6
    assert "<title>H200</title>" in page


def test_only_what_was_asked_for(place: Path, tmp_path: Path) -> None:
    make_report(Asked((str(place / "runs"),), out="only", formats="csv,svg"))
    assert {path.name for path in Path("only").iterdir()} == {"results.csv", "table.svg", "charts.svg"}


def test_two_sets_on_top_of_each_other(place: Path) -> None:
    lines = lines_of(Asked((str(place / "runs"), str(place / "other")), formats="csv"))
    assert [one["set"] for one in lines if (one["inner_net"], one["batch"]) == (h200.LINEAR, "128")] == [
        "runs",
        "other",
    ]
    (other,) = (one for one in lines if one["set"] == "other")
    assert float(other["speedup"]) == pytest.approx(7e4 / 67641)
    assert other["speedup_against"] == "the same configuration of runs"


def test_sets_of_one_name_are_told_apart(place: Path) -> None:
    lines = lines_of(Asked((str(place / "runs"), str(place / "runs")), formats="csv"))
    assert {one["set"] for one in lines} == {"runs", "runs (2)"}


@pytest.mark.parametrize("source", ["folder", "experiment", "parent"])
def test_filter(source: str, place: Path) -> None:
    lines = lines_of(asked_of(place, source, condition="metrics.batch = 1024 and params.model_name = 'ttt-1b'"))
    assert sorted(cells_of(lines)) == [
        (h200.LINEAR, "1024", "valid", "131109.0"),
        (h200.MLP, "1024", "valid", "46712.0"),
    ]
    assert "Only runs with metrics.batch = 1024" in Path("report/results.md").read_text()


def test_the_record_of_a_sweep_means_its_children(tmp_path: Path) -> None:
    parent = sweep_record(tmp_path)
    told = {"ttt.verdict": "valid", "ttt.parent_journal_id": parent.journal_id}
    h200.record(tmp_path, {"decode_tokens_per_s": 1.0}, told=told, inner_net=h200.MLP, batch=128, genlen=128)
    h200.record(tmp_path, {"decode_tokens_per_s": 2.0}, told={"ttt.verdict": "valid"}, batch=128)
    lines = lines_of(Asked((str(parent.path),), formats="csv"))
    assert cells_of(lines) == [(h200.MLP, "128", "valid", "1.0"), (h200.MLP, "4096", "predicted_oom", "")]


def test_a_damaged_record_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in h200.records(tmp_path / "runs")[:2]:
        last = record
    (last.path / "metrics.json").write_text("{")
    lines = lines_of(Asked((str(tmp_path / "runs"),), formats="csv"), code=4)
    assert len(lines) == 7
    assert f"{last.path}/metrics.json" in capsys.readouterr().err


def test_a_sweep_with_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = sweep_record(tmp_path / "runs")
    h200.record(tmp_path / "runs", {"decode_tokens_per_s": 2.0}, told={"ttt.verdict": "valid"})
    (parent.artifacts / "sweep.json").write_text("{}")
    assert len(lines_of(Asked((str(tmp_path / "runs"),), formats="csv"), code=4)) == 1
    assert "sweep.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"best": "fast"}, "best=fast: 'fast' is no limit"),
        ({"best": "decode_step_p99 < 1"}, "best=decode_step_p99 < 1: decode_step_p99 is no metric and no"),
        ({"best": "model < 3"}, "best=model < 3: model is no metric and no numeric parameter"),
        ({"condition": "batch ="}, "filter=batch =: MLflow does not understand it"),
        ({"condition": "params.batch = '7'"}, "no decode or prefill run that fits params.batch = '7' in "),
        ({"against": "mlp_3"}, "against=mlp_3: no such row; the rows are ttt-1b mlp_2"),
        ({"formats": "html,pdf"}, "formats=html,pdf: pdf is not allowed; formats takes html, markdown, csv, png, svg"),
        ({"formats": ""}, "formats=: nothing is not allowed"),
        ({"out": "/proc/report"}, "out=/proc/report: cannot be written"),
        ({"sets": ("./nowhere",)}, "runs=./nowhere: it is no run that is known"),
        ({"where": Destination(".", "sqlite:///x.db", None)}, "give either folders, or --tracking-uri"),
    ],
)
def test_bad_input(values: dict[str, Any], why: str, place: Path) -> None:
    with pytest.raises(BadInput) as refused:
        make_report(Asked(**{"sets": (str(place / "runs"),), "formats": TEXTS, **values}))
    assert why in str(refused.value)
    assert not Path("report").exists()


def test_no_runs_at_all(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(BadInput, match=r"no decode or prefill run in .*runs; `ttt-mlflow table` lists what there is"):
        make_report(Asked((str(tmp_path / "runs"),)))


def test_the_report_of_a_sweep(place: Path, tmp_path: Path) -> None:
    """The links of its Markdown lead to runs within MLflow, wherever its pages are."""
    runs = [LocalRun(Journal.open(path)) for path in sorted((place / "runs").iterdir())]
    (sweep,) = (run for run in runs if run.kind == "sweep")
    data = SweepFile.parse((sweep.journal.artifacts / "sweep.json").read_bytes(), "sweep.json")
    children = [run for run in runs if run.kind != "sweep"]
    paths = report_on(children, tmp_path / "results", sweep=data, title="A sweep")
    assert {path.name for path in paths} == FILES == {Path(one.path).name for some in FORMATS.values() for one in some}
    text = (tmp_path / "results/results.md").read_text()
    published = [run.journal.published for run in children]
    assert all(f"](#/experiments/{one['experiment_id']}/runs/{one['run_id']})" in text for one in published)
    assert "http" not in text
    assert "out of memory, predicted" in text


def test_a_run_that_only_a_store_has(place: Path, tmp_path: Path) -> None:
    """Its link leads to that store, without the password that opens it."""
    with open_store(store_of(place)) as store:
        runs = [run for run in store.search("metrics.batch = 128", "mine") if run.kind == "decode"]
        report_on(runs, tmp_path, title="A sweep", store="http://me:geheim@mlflow.example:5000")
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(lines) == 2
    assert all(one["link"].startswith("http://mlflow.example:5000/#/experiments/") for one in lines)
    assert b"geheim" not in (tmp_path / "results.html").read_bytes()


def test_a_password_in_a_name_is_in_no_file(tmp_path: Path) -> None:
    secret = "postgresql://me:geheim@db/x"
    values = {"decode_tokens_per_s": 1.0}
    h200.record(tmp_path / "runs", values, told={"ttt.verdict": "valid"}, model_name=secret, inner_net=None)
    make_report(Asked((str(tmp_path / "runs"),)))
    files = {path.name: path.read_bytes() for path in Path("report").iterdir()}
    assert set(files) == FILES
    assert not [name for name, data in files.items() if b"geheim" in data]


def test_the_command(place: Path, tmp_path: Path) -> None:
    """As a process; the environment's store is not asked when a folder is."""
    command = [sys.executable, "-m", "ttt_mlflow", "report", "--logdir", str(place / "runs"), "--formats", "csv"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment("http://127.0.0.1:9") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "Written: report/results.csv\n")
    assert "Decode throughput, tokens/s, by batch" in done.stdout
    done = subprocess.run([*command, "--best", "x"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: best=x: ")
    assert len(done.stderr.splitlines()) == 1


def test_files_of_an_earlier_report_are_named(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They would be taken for parts of this one."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "crossings.csv").write_text("of another report")
    (out / "notes.txt").write_text("mine")
    make_report(Asked(sets=(str(place / "runs"),), out=str(out), formats="csv,markdown"))
    told = capsys.readouterr().err
    assert f"Note: {out} still has crossings.csv of an earlier report; this one has no such file" in told
    assert (out / "crossings.csv").read_text() == "of another report"
