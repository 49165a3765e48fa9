"""What stands in the environment as a secret never stands in a record, nor in what is published of it."""

from pathlib import Path

import pytest

from tests.project import QUICK, environment, free_port, new_store, run, ttt_mlflow_run

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws0s3cr3t0k3y",
    "AWS_SESSION_TOKEN": "aws0s3ss10n",
    "GITHUB_TOKEN": "ghp0s3cr3t",
    "HF_TOKEN": "hf0s3cr3t",
    "MLFLOW_TRACKING_TOKEN": "mlfl0w0t0k3n",
    "MLFLOW_TRACKING_USERNAME": "us3r0nam3",
    "MLFLOW_TRACKING_PASSWORD": "mlfl0w0passw0rd",
    "WANDB_API_KEY": "wandb0k3y",
    "DATABASE_URL": "postgresql://me:database0passw0rd@db/x",
}
URI_PASSWORD = "ur10passw0rd"


def files_with(text: str, folder: Path) -> list[str]:
    """The files under ``folder`` that hold ``text``, whatever their format."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def assert_nothing_told(folder: Path, output: str) -> None:
    values = [*SECRETS.values(), "database0passw0rd", URI_PASSWORD]
    told = {text: found for text in [*SECRETS, *values] if (found := files_with(text, folder))}
    assert not told
    assert not [text for text in values if text in output]


def test_in_the_record_and_in_mlflow(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    command = ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")})
    done = run(command, {**environment(store), **SECRETS})
    assert done.returncode == 0, done.stderr
    assert "mlflow.db" in files_with("ttt-tiny", tmp_path), "the database is read as it lies"
    assert len(files_with("cpu_model", tmp_path)) == 2, "the host's facts, in the record and among the artifacts"
    assert_nothing_told(tmp_path, done.stdout + done.stderr)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_where_the_tracking_uri_has_a_password(scheme: str, tmp_path: Path) -> None:
    uri = f"{scheme}://me:{URI_PASSWORD}@127.0.0.1:{free_port()}/mlflow"
    command = ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "runs")})
    done = run(command, {**environment(uri), **SECRETS})
    assert "127.0.0.1" in done.stdout + done.stderr, "the place is named, and was away"
    assert files_with("127.0.0.1", tmp_path), "the place to publish to later is in the record"
    assert_nothing_told(tmp_path, done.stdout + done.stderr)
