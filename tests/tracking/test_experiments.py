"""The experiment of a run. What begins a run with one that cannot be used is in test_begin.py."""

from pathlib import Path

from mlflow import MlflowClient

from ttt_mlflow.tracking.experiments import experiment_named


def test_a_name_that_is_longer_than_a_folders_may_be(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    client = MlflowClient(f"sqlite:///{tmp_path}/team/mlflow.db")
    experiment = client.get_experiment(experiment_named(client, "x" * 300))
    assert experiment.artifact_location == f"{tmp_path}/team/mlruns/{'x' * 100}"
