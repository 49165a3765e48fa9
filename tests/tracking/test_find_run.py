"""A run by its record's folder or id, or by the id of its MLflow run."""

from pathlib import Path

import pytest

from tests.catalog import artifact
from tests.project import free_port, new_store
from tests.record.conftest import CONFIG, MakeJournal
from ttt_mlflow.errors import BadInput
from ttt_mlflow.names import ARTIFACT_NSYS_LOG, ARTIFACT_STEPS, ARTIFACT_TORCH_KERNELS_CSV, ARTIFACT_TORCH_STEP
from ttt_mlflow.record.derived import sizes
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import local_row, store_row
from ttt_mlflow.report.columns import MODEL_COLUMNS
from ttt_mlflow.report.text import run_label
from ttt_mlflow.tracking.find_run import found_run
from ttt_mlflow.tracking.publish import publish


def refusal(run: str, logdir: Path, uri: str) -> str:
    with pytest.raises(BadInput) as refused, found_run(run, logdir, uri):
        pass
    return str(refused.value)


def test_a_record_by_folder_and_by_id(make_journal: MakeJournal, tmp_path: Path) -> None:
    journal = make_journal()
    for run in (str(journal.path), journal.journal_id):
        with found_run(run, journal.path.parent, "sqlite:///nowhere.db") as found:
            assert found.artifact(ARTIFACT_STEPS) == journal.artifacts / "timing/steps.csv"
            assert found.artifact(ARTIFACT_TORCH_STEP) is None
            assert run_label(found) == f"ttt-125m mlp_1_dual b2 g8 cpu, {journal.journal_id}, somewhere"


@pytest.mark.parametrize("server", [False, True], ids=["database", "server"])
def test_an_mlflow_run(server: bool, make_journal: MakeJournal, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A database's artifacts lie in a folder, a server's come through it: each leaves them in its own way."""
    store = request.getfixturevalue("server_uri") if server else new_store(tmp_path)
    journal = make_journal()
    journal.write_artifact(artifact("profiles/torch/step.json"), "{}")
    run_id = publish(journal, store).run_id
    with found_run(run_id, tmp_path, store) as found:
        downloaded = []
        for asked in (ARTIFACT_STEPS, ARTIFACT_TORCH_STEP):
            path = found.artifact(asked)
            assert path is not None
            downloaded.append(path)
            assert path.read_bytes() == (journal.artifacts / asked.path).read_bytes()
        assert found.artifact(ARTIFACT_NSYS_LOG) is None
        assert found.artifact(ARTIFACT_TORCH_KERNELS_CSV) is None
    assert not any(path.exists() for path in downloaded), "what was downloaded is gone"


def test_a_folder_and_a_server_tell_the_same_of_a_run(make_journal: MakeJournal, tmp_path: Path) -> None:
    store, journal = new_store(tmp_path), make_journal()
    run_id = publish(journal, store).run_id
    with found_run(str(journal.path), tmp_path, store) as local, found_run(run_id, tmp_path, store) as stored:
        assert stored.id == run_id
        assert stored.settings == {**CONFIG.model_dump(), **stored.settings}
        for name in ("name", "entry_point", "status", "params"):
            assert getattr(stored, name) == getattr(local, name), name
        # publishing adds what the parameters determine
        assert stored.metrics == {**sizes("decode", stored.params), **local.metrics}
        here, there = local_row(LocalRun(journal)), store_row(stored)
        assert there is not None
        for one in MODEL_COLUMNS[1:]:  # the id is the store's
            assert one.value(there) == one.value(here) or one.name == "date"
        assert local.tags.items() <= stored.tags.items()


def test_what_can_be_given(make_journal: MakeJournal, tmp_path: Path) -> None:
    store = new_store(tmp_path)
    known = f"give the folder of a record, the id of one in {tmp_path}, or the id of an MLflow run"
    assert refusal("yesterday's", tmp_path, store) == f"yesterday's: no such run; {known}"
    assert "not the record of a run" in refusal(str(tmp_path), tmp_path, store)
    assert refusal("0" * 32, tmp_path, store).startswith(f"{'0' * 32}: not available from {store} (")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert f"there is no {path}" in refusal("0" * 32, tmp_path, f"sqlite:///{path}")
    assert not path.exists()


def test_a_server_that_is_away(tmp_path: Path) -> None:
    message = refusal("0" * 32, tmp_path, f"http://127.0.0.1:{free_port()}")
    assert "not available from http://127.0.0.1:" in message
    assert "refused" in message
