"""The tag ``ttt.best`` in a real store: one run of each configuration, whatever came first."""

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from ttt_mlflow.tracking.best import mark_best, mark_best_of

COUNTS = {"ttt.kind": "decode", "ttt.verdict": "valid", "ttt.status": "ok"}


class Experiment:
    def __init__(self, uri: str, name: str) -> None:
        self.client = MlflowClient(uri)
        self.id = self.client.create_experiment(name)

    def run(self, config_id: str, rate: float, metric: str = "decode_tokens_per_s", **tags: str) -> str:
        run_id = str(self.client.create_run(self.id).info.run_id)
        all_tags = COUNTS | {"ttt.config_id": config_id} | {name.replace("_", ".", 1): tags[name] for name in tags}
        self.client.log_batch(
            run_id, [Metric(metric, rate, 0, 0)], tags=[RunTag(name, value) for name, value in all_tags.items()]
        )
        return run_id

    @property
    def best(self) -> set[str]:
        return {run.info.run_id for run in self.client.search_runs([self.id], "tags.`ttt.best` = 'true'")}


@pytest.fixture
def experiment(sqlite_uri: str, request: pytest.FixtureRequest) -> Experiment:
    return Experiment(sqlite_uri, request.node.name)


@pytest.mark.long
def test_a_faster_run_takes_the_mark(experiment: Experiment) -> None:
    first = experiment.run("a", 100.0)
    mark_best(experiment.client, experiment.id, "a", "decode")
    assert experiment.best == {first}
    experiment.run("a", 90.0)
    mark_best(experiment.client, experiment.id, "a", "decode")
    assert experiment.best == {first}
    faster = experiment.run("a", 101.0)
    mark_best(experiment.client, experiment.id, "a", "decode")
    assert experiment.best == {faster}


def test_what_is_not_valid_is_never_the_best(experiment: Experiment) -> None:
    slow = experiment.run("a", 10.0)
    experiment.run("a", 100.0, ttt_verdict="invalid")
    experiment.run("a", 100.0, ttt_status="killed")
    experiment.run("a", 100.0, ttt_kind="micro")
    mark_best(experiment.client, experiment.id, "a", "decode")
    assert experiment.best == {slow}


def test_all_configurations_at_once_and_again(experiment: Experiment) -> None:
    wanted = {experiment.run("a", 2.0), experiment.run("b", 5.0, "prefill_tokens_per_s", ttt_kind="prefill")}
    experiment.run("a", 1.0, ttt_best="true")  # two runs at once, each the best when it looked
    assert mark_best_of(experiment.client, experiment.client.search_runs([experiment.id])) == 3
    assert experiment.best == wanted
    assert mark_best_of(experiment.client, experiment.client.search_runs([experiment.id])) == 0
