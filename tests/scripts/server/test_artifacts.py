"""scripts/server/artifacts.py: folders and buckets, and a server whose artifacts lie in a bucket."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from scripts.server.artifacts import Folder, artifacts_at
from scripts.server.failing import Refused
from tests.project import QUICK, ROOT, environment, free_port, run, started, ttt_mlflow_run
from tests.scripts.server.conftest import KEY


def test_a_folder_has_its_files_and_no_links(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found/piece").write_text("of another file")
    (tmp_path / "1/x").mkdir(parents=True)
    (tmp_path / "1/x/a").write_text("a")
    assert list(Folder(tmp_path).names()) == ["1/x/a"]
    assert Folder(tmp_path).fetch("1/x/gone", tmp_path / "copy") is None
    assert not (tmp_path / "copy").exists()
    (tmp_path / "1/link").symlink_to(tmp_path / "1/x", target_is_directory=True)
    with pytest.raises(Refused, match="follows no links"):
        list(Folder(tmp_path).names())
    assert list(Folder(tmp_path / "nothing").names()) == []


def test_what_is_removed_leaves_no_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    folder = Folder(tmp_path / "root")
    folder.put("1/x/a", tmp_path / "a")
    folder.put("1/b", tmp_path / "a")
    folder.remove("1/x/a")
    assert [path.name for path in folder.root.rglob("*")] == ["1", "b"]


@pytest.mark.parametrize("uri", ["gs://bucket/x", "file://host/x", "s3:///x"])
def test_other_places_are_refused(uri: str) -> None:
    with pytest.raises(Refused):
        artifacts_at(uri)


@pytest.mark.long
def test_a_run_whose_artifacts_go_through_the_server_into_a_bucket(bucket: str, tmp_path: Path) -> None:
    reached = {name: os.environ[name] for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3_"))}
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    script = [str(ROOT / "scripts/server.sh"), "--port", str(port), "--workers", "1"]
    script += ["--database", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts", f"s3://{bucket}/runs"]
    with started(script, environment() | reached, tmp_path) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        without = {name: value for name, value in environment(uri).items() if name not in reached}
        done = run(ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")}), without)
        assert done.returncode == 0, done.stderr
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("ttt-mlflow")
        assert experiment is not None
        (only,) = client.search_runs([experiment.experiment_id])
        listed = {entry.path for entry in client.list_artifacts(only.info.run_id)}
        server.press_ctrl_c()
        assert server.wait() == 0
    assert KEY not in server.output
    assert {"config.json", "timing"} <= listed
    path = f"{experiment.experiment_id}/{only.info.run_id}/artifacts"
    stored = set(artifacts_at(f"s3://{bucket}/runs").names())
    assert {f"{path}/config.json", f"{path}/timing/passes.json"} <= stored
