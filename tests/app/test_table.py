"""The command table: from a folder and from a store, filtered, sorted, limited, with damaged records."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.catalog import metrics, tags
from tests.project import ROOT, environment, new_store
from ttt_mlflow.app.table import Asked, print_table
from ttt_mlflow.config import Configuration, MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import publish

RATES = {8: 300.0, 64: 100.0, 1024: 200.0}  # by batch


def make_record(root: Path, config: Configuration, rate: float | None, status: str = "ok", kind: str = "") -> Journal:
    journal = Journal.create(root, config.model_dump(mode="json"), config.entry_point)
    journal.set_used(config.model_dump(mode="json"))
    journal.update_params(config.as_params())
    journal.update_metrics(metrics({} if rate is None else {"decode_tokens_per_s": rate}))
    journal.update_tags(tags({"ttt.kind": kind} if kind else {"release": "1.2"}))
    journal.set_status(status)
    return journal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records and the store that has their runs, among runs of other programs."""
    root = tmp_path_factory.mktemp("table")
    store = new_store(root)
    for batch, rate in RATES.items():
        publish(make_record(root / "runs", RunConfig(batch=batch), rate), store, None, "mine")
    publish(make_record(root / "runs", MicroConfig(kernels=("a",), batches=(1,)), None), store, None, "mine")
    publish(make_record(root / "runs", RunConfig(batch=16384), None, "oom", "sweep"), store, None, "mine")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    for _ in range(3):
        client.create_run(experiment.experiment_id)
    publish(make_record(root / "runs-elsewhere", RunConfig(batch=2), 50.0), store, None, "ttt-mlflow")
    publish(make_record(root / "runs-default", RunConfig(batch=4), 60.0), store)
    return root


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def asked_of(place: Path, source: str, **values: str) -> Asked:
    if source == "folder":
        return Asked(str(place / "runs"), **values)
    return Asked(tracking_uri=f"sqlite:///{place}/mlflow.db", experiment_name="mine", **values)


def table(asked: Asked, capsys: pytest.CaptureFixture[str], code: int = 0) -> list[dict[str, object]]:
    """The rows of the table as JSON."""
    assert print_table(asked) == code
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def batches(rows: Sequence[dict[str, object]]) -> list[object]:
    return [row.get("batch") for row in rows]


both = pytest.mark.parametrize("source", ["folder", "store"])


@both
def test_what_is_listed(source: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest first; neither sweeps nor the runs of other programs."""
    rows = table(asked_of(place, source, form="json"), capsys)
    assert [row["kind"] for row in rows] == ["micro", "decode", "decode", "decode"]
    assert batches(rows) == [None, 1024, 64, 8]


@both
def test_the_same_numbers_from_a_folder_and_from_a_store(
    source: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(asked_of(place, source, form="json", columns="batch,throughput,status,release"), capsys)
    measured = [{"batch": b, "throughput": RATES[b], "status": "ok", "release": "1.2"} for b in (1024, 64, 8)]
    assert rows == [{"status": "ok", "release": "1.2"}, *measured]


@both
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("params.batch = '64'", [64]),
        ("metrics.batch > 8", [1024, 64]),
        ("tags.ttt.kind = 'sweep'", [16384]),
        ("tags.ttt.kind != 'micro'", [16384, 1024, 64, 8]),
        ("tags.ttt.kind = 'decode' and metrics.decode_tokens_per_s >= 200", [1024, 8]),
    ],
)
def test_filter(
    condition: str, expected: list[int], source: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batches(table(asked_of(place, source, form="json", condition=condition), capsys)) == expected


@both
@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("batch", [8, 64, 1024, None]),  # as numbers, and what has none comes last in both directions
        ("-batch", [1024, 64, 8, None]),
        ("-throughput", [8, 1024, 64, None]),
        ("decode_tokens_per_s", [64, 1024, 8, None]),
        ("kind,batch", [8, 64, 1024, None]),
        ("date", [8, 64, 1024, None]),
    ],
)
def test_sort(sort: str, expected: list[int], source: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert batches(table(asked_of(place, source, form="json", sort=sort), capsys)) == expected


@both
@pytest.mark.parametrize(
    ("sort", "shown"),
    [("-date", "the newest 2"), ("-batch", "the first 2 by -batch"), ("decode_tokens_per_s", "the first 2 by dec")],
)
def test_limit_says_what_was_left_out(
    sort: str, shown: str, source: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = asked_of(place, source, form="json", sort=sort, limit="2")
    assert print_table(asked) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 2
    assert said.err.startswith(f"Shown: {shown}")
    assert ("2 of 4 runs are left out" in said.err) or ("there are more" in said.err)
    for enough in ("4", "0"):
        assert print_table(asked_of(place, source, form="json", sort=sort, limit=enough)) == 0
        assert capsys.readouterr().err == ""


def test_a_store_without_an_experiment_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs are in this program's experiment, and `mlflow run .` puts them in MLflow's own."""
    rows = table(Asked(tracking_uri=f"sqlite:///{place}/mlflow.db", form="json"), capsys)
    assert batches(rows) == [4, 2]


def test_a_folder_is_read_whatever_the_environment_says(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.chdir(place)
    (place / "ttt_runs").symlink_to(place / "runs")
    assert len(table(Asked(form="json"), capsys)) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"condition": "params.batch = '3'"}, "filter=params.batch = '3': "),
        ({"condition": "batch"}, "filter=batch: MLflow does not understand it ("),
        ({"columns": "id,wrong"}, "columns=wrong: no such column; "),
        ({"columns": "id,,batch"}, "columns=id,,batch: not allowed; "),
        ({"sort": "-wrong"}, "sort=wrong: no such column; "),
        ({"sort": "-"}, "sort=-: not allowed; "),
        ({"limit": "many"}, "limit=many: not allowed; "),
        ({"limit": "-1"}, "limit=-1: not allowed; "),
        ({"form": "xml"}, "format=xml: not allowed; format takes text, csv, json or markdown"),
    ],
)
@both
def test_bad_input_is_one_line(
    values: dict[str, str], message: str, source: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput) as refused:
        print_table(asked_of(place, source, **values))
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked("nowhere"), "nowhere: no such folder"),
        (Asked(".", experiment_name="mine"), ".: the records of a folder and the runs of a store are different"),
        (Asked(tracking_uri="sqlite:///none.db"), "tracking_uri=sqlite:///"),
        (Asked(tracking_uri="http://127.0.0.1:1"), "tracking_uri=http://127.0.0.1:1: cannot be read ("),
    ],
)
def test_nothing_to_read(asked: Asked, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        print_table(asked)
    assert message in str(refused.value)


def test_an_unknown_experiment(place: Path) -> None:
    with pytest.raises(BadInput, match=r"^experiment_name=yours: .* has no such experiment; it has .*mine"):
        print_table(Asked(tracking_uri=f"sqlite:///{place}/mlflow.db", experiment_name="yours"))


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_table(Asked(".")) == 0
    assert capsys.readouterr().out == "No records in ..\n"
    assert table(Asked(".", form="json"), capsys) == []


@pytest.mark.parametrize("condition", [None, "metrics.batch > 0"])
def test_a_damaged_record_does_not_stop_the_table(
    condition: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = (make_record(tmp_path / "runs", RunConfig(batch=batch), 1.0) for batch in (3, 5))
    (bad.path / "metrics.json").write_text('{"decode_tokens_per_s": ')
    assert print_table(Asked(str(tmp_path / "runs"), form="csv", columns="id,batch", condition=condition)) == 4
    said = capsys.readouterr()
    assert list(csv.reader(io.StringIO(said.out))) == [["id", "batch"], [good.journal_id, "3"]]
    (line,) = said.err.splitlines()
    assert line.startswith(f"Error: {bad.path}/metrics.json: not what was written; ")


def test_a_time_series_can_be_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ttt_mlflow.names import SYSTEM_POWER

    journal = make_record(tmp_path / "runs", RunConfig(), 1.0)
    journal.set_series({SYSTEM_POWER.of(0): [(1000, 0, 500.0), (2000, 1, 650.0)]})
    name = SYSTEM_POWER.of(0).name
    assert table(Asked(str(tmp_path / "runs"), form="json", columns=name), capsys) == [{name: 650.0}]
    condition = f"metrics.`{name}` > 600"
    assert len(table(Asked(str(tmp_path / "runs"), form="json", condition=condition), capsys)) == 1


def test_a_table_of_records_is_quick_because_large_libraries_are_not_imported(place: Path) -> None:
    code = (
        "import sys; from ttt_mlflow.app.table import Asked, print_table; import ttt_mlflow.cli;"
        f"print_table(Asked({str(place / 'runs')!r}, form='csv'));"
        "print([name for name in ('torch', 'mlflow', 'scipy', 'pandas', 'numpy', 'rich') if name in sys.modules])"
    )
    env = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
