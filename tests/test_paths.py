"""Paths as people and machines write them: used as they are, or refused in one line."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from tests.models.ttt.cases import make_model
from tests.models.ttt.checkpoints import save_checkpoint
from tests.profilers.fake_nsys import FakeNsys, python
from tests.project import QUICK, new_store
from tests.small_disk import MB, small_disk
from ttt_mlflow import measure
from ttt_mlflow.cli import cli
from ttt_mlflow.cli.options import USER_PATH
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement import ceilings_cache
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import GpuIdentity
from ttt_mlflow.models.checkpoint_files import checkpoint_config, checkpoint_files
from ttt_mlflow.profilers.nsys import profile
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.new_store import sqlite_uri

ODD = ['it\'s "quoted" föl-дер-文 $HOME & {braces} [x]*', "-two\nlines per%20cent; #1?"]
# what a path may be made of; whole texts are tried below a folder of their own
PATHS = st.text(alphabet=st.characters(exclude_characters="\0"), max_size=20) | st.text(max_size=300)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 32 * MB) as folder:
        yield folder


def invoke(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, words)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("name", [ODD[0], *(pytest.param(name, marks=pytest.mark.long) for name in ODD[1:])])
def test_everything_in_a_folder_of_an_odd_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, store, checkpoint: each by an absolute path, and records by a relative one."""
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    save_checkpoint(make_model("mlp_1_dual"), folder / "model.safetensors")
    new_store(folder)
    store = sqlite_uri(folder / "mlflow.db")
    options = [f"--{key}={value}" for key, value in QUICK.items()]
    code, out, err = invoke(
        "run", *options, f"--checkpoint={folder}", f"--logdir={folder}/runs", f"--tracking-uri={store}"
    )
    assert code == 0, out + err
    (record,) = (folder / "runs").iterdir()
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["ttt.journal_id"] == record.name
    assert run.data.params["checkpoint"] == str(folder)
    assert client.list_artifacts(run.info.run_id)
    relative = f"./{name}/runs"
    for words in (("table", relative), ("sync", relative), ("record", "verify", relative)):
        code, out, err = invoke(*words)
        assert code == 0, out + err
    assert record.name in invoke("table", relative)[1]


@pytest.mark.parametrize("name", ODD)
def test_the_cache_and_nsys_in_a_folder_of_an_odd_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    gpu, ceilings = GpuIdentity("6d3b1f3a", "580.159.04", 132, "NVIDIA H200"), GpuCeilings(1.0, 2.0, 3.0)
    assert ceilings_cache.store(gpu, ceilings).is_relative_to(folder)
    assert ceilings_cache.load(gpu) == ceilings
    profile(FakeNsys(folder).find(), python("print(1)"), folder / "out", 60)
    assert (folder / "out/report.nsys-rep").exists()


@pytest.mark.parametrize("words", [("run", "--device=cpu", "--logdir={}"), ("table", "{}"), ("record", "list", "{}")])
@pytest.mark.parametrize("name", ["file", "file/below", "link to nothing", "x" * 300])
def test_no_folder_where_one_belongs(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link to nothing").symlink_to("nowhere/at all")
    quick = [f"--{key}={value}" for key, value in QUICK.items()] if words[0] == "run" else []
    code, _, err = invoke(*(word.format(tmp_path / name) for word in words), *quick)
    assert code in (2, 4), err
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert str(tmp_path / name)[:40] in line
    assert "Traceback" not in err
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("place", ["checkpoint", "logdir"])
def test_an_odd_name_in_a_refusal_is_one_line(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = invoke(
        "run", "--model-name=ttt-tiny", "--device=cpu", f"--{place}={tmp_path}/file/two\nlines\x1b[31m"
    )
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"Error: {place}={tmp_path}/file/two\\nlines\\x1b[31m: ")


@pytest.mark.long
def test_records_and_store_on_another_device(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is renamed from one to the other. TMPDIR is on the first."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert os.stat(disk).st_dev != os.stat(tmp_path).st_dev
    store = new_store(tmp_path)
    options = [f"--{key}={value}" for key, value in QUICK.items()]
    code, out, err = invoke("run", *options, f"--logdir={disk}/runs", f"--tracking-uri={store}")
    assert code == 0, out + err
    (record,) = (disk / "runs").iterdir()
    moved = tmp_path / "moved"
    shutil.move(record, moved)
    assert invoke("sync", str(moved), f"--tracking-uri={store}", "--verify")[0] == 0
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_a_path_in_python_may_be_a_path(tmp_path: Path) -> None:
    asked = {**QUICK, "checkpoint": str(tmp_path / "none")}
    with pytest.raises(BadInput, match="no such file or folder"):
        measure(asked, logdir=tmp_path / "runs")
    with pytest.raises(BadInput, match=r"^logdir=a\\x00b: no path "):
        measure(QUICK, logdir="a\0b")


# Any path


@pytest.mark.properties
@given(path=PATHS)
def test_any_path_of_a_checkpoint(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    for read in (checkpoint_files, checkpoint_config):
        try:
            read(path)
        except BadInput as refused:
            (line,) = str(refused).splitlines()
            assert line.startswith("checkpoint=")


@pytest.mark.properties
@given(path=PATHS)
def test_any_path_of_the_user(path: str) -> None:
    said = ""
    try:
        found = USER_PATH.convert(path, None, None)
    except BadInput as refused:
        said = str(refused)
    if said:
        assert len(said.splitlines()) == 1
    else:
        assert not found.startswith("~") if path.startswith("~") else found == path


@settings(max_examples=25)
@given(name=PATHS)
def test_any_folder_of_records(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Below a folder of its own, so that a test leaves nothing elsewhere. A record takes a while on a disk."""
    top = tmp_path_factory.getbasetemp() / "folders"
    path = f"{top}/{name.replace('..', '').replace('/', '')}"
    try:
        record = Journal.create(Path(path), {})
    except BadInput as refused:
        (line,) = str(refused).splitlines()
        assert line.startswith("logdir=")
    else:
        assert Journal.open(str(record.path)).status["status"] == "running"
        shutil.rmtree(record.path)
