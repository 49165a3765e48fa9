"""Preparing an experiment in a real store: once, by whoever comes first, and never over what a person wrote."""

import base64
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from tests.record.conftest import MakeJournal
from ttt_mlflow.errors import BadInput
from ttt_mlflow.tracking import view_states, views
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.view_states import LATEST, VIEWS
from ttt_mlflow.tracking.views import Prepared, chosen_experiments, prepare_experiment, prepare_if_new

NAMES = [view.name for view in VIEWS]
NOTE = "mlflow.note.content"
LATEST_TAG = "mlflow.sharedViewState.ttt-latest"


class Place:
    """An experiment of a test's own."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.client = MlflowClient(uri)
        self.id = self.client.create_experiment(name)

    @property
    def experiment(self) -> Experiment:
        return self.client.get_experiment(self.id)

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.experiment.tags)

    def prepare(self) -> Prepared:
        return prepare_experiment(self.client, self.experiment)

    def run(self, ended: bool = True, **tags: str) -> None:
        run_id = self.client.create_run(self.id, tags={key.replace("_", ".", 1): tags[key] for key in tags}).info.run_id
        if ended:
            self.client.set_terminated(run_id)


@pytest.fixture
def place(sqlite_uri: str, request: pytest.FixtureRequest) -> Place:
    return Place(sqlite_uri, request.node.name)


def state_of(value: str) -> Any:
    """As MLflow's page reads it."""
    state = json.loads(value)["state"]
    assert state.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))))


def test_the_views_and_the_description_are_written(place: Place) -> None:
    done = place.prepare()
    assert (done.written, done.kept, done.shared, done.has_older_runs) == ([*NAMES, "description"], [], False, False)
    for view in VIEWS:
        value = place.tags["mlflow.sharedViewState." + view.id]
        assert len(value) < 20_000  # MLflow's limit
        assert json.loads(value)["name"] == view.name
        assert state_of(value) == view.state()
    assert place.tags[NOTE] == view_states.description(place.id)
    # the menu lists the newest first
    created = [json.loads(place.tags["mlflow.sharedViewState." + view.id])["createdAt"] for view in VIEWS]
    assert created == sorted(created, reverse=True)


def test_again_writes_nothing(place: Place) -> None:
    place.prepare()
    before = place.tags
    assert (place.prepare().written, place.prepare().kept) == ([], [])
    assert place.tags == before


def test_what_is_missing_or_of_an_older_version_is_written_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    older = {**LATEST.state(), "orderByAsc": True}
    monkeypatch.setattr(view_states.View, "state", lambda view: older)
    place.prepare()
    monkeypatch.undo()
    place.client.delete_experiment_tag(place.id, NOTE)
    assert (place.prepare().written, place.prepare().kept) == ([*NAMES, "description"], [])
    assert state_of(place.tags[LATEST_TAG]) == LATEST.state()


def test_what_a_person_changed_is_kept(place: Place) -> None:
    place.prepare()
    mine = json.dumps({"name": "Latest 100", "createdAt": 1, "updatedAt": 1, "state": "{}"})
    place.client.set_experiment_tag(place.id, LATEST_TAG, mine)
    place.client.set_experiment_tag(place.id, NOTE, "Our notes")
    assert (place.prepare().written, place.prepare().kept) == ([], ["Latest 100", "description"])
    assert (place.tags[LATEST_TAG], place.tags[NOTE]) == (mine, "Our notes")


@pytest.mark.parametrize("text", ["Our notes", "no JSON {", '{"state": 1}', '{"name": "x", "state": "deflate;!"}'])
def test_what_a_person_wrote_before_is_kept(place: Place, text: str) -> None:
    place.client.set_experiment_tag(place.id, NOTE, text)
    place.client.set_experiment_tag(place.id, LATEST_TAG, text)
    done = place.prepare()
    assert (done.written, done.kept) == (NAMES[1:], ["Latest 100", "description"])
    assert place.tags[NOTE] == place.tags[LATEST_TAG] == text


def test_a_damaged_mark_costs_no_text_of_a_person(place: Place) -> None:
    place.prepare()
    place.client.set_experiment_tag(place.id, "ttt.views", "[]")
    place.client.set_experiment_tag(place.id, NOTE, "Our notes")
    assert place.prepare().kept == ["description"]
    assert place.tags[NOTE] == "Our notes"


def test_beside_other_peoples_runs_there_is_no_description(place: Place) -> None:
    place.run()
    done = place.prepare()
    assert (done.written, done.shared) == (NAMES, True)
    assert NOTE not in place.tags


def test_own_runs_share_nothing(place: Place) -> None:
    place.run(ttt_entry_point="main")
    place.run(ttt_kind="decode")
    place.run(ttt_status="error")  # `mlflow run` with bad input
    place.run(ended=False, ttt_journal_id="20261123-101500-1a2b3c4d")
    # another `mlflow run` that has just begun: it is ours only at its end
    place.run(ended=False, **{"mlflow.project.entryPoint": "main"})
    done = place.prepare()
    assert (done.shared, done.has_older_runs) == (False, True)


def test_a_running_run_of_others_counts(place: Place) -> None:
    place.run(ended=False)
    assert place.prepare().shared


def test_two_at_once_write_one_set(place: Place) -> None:
    """Both have read the experiment before either writes."""
    both = threading.Barrier(2)
    experiment = place.experiment

    def prepare(_: int) -> Prepared:
        client = MlflowClient(place.uri)
        both.wait()
        return prepare_experiment(client, experiment)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(prepare, range(2)))  # raises what one of them raised
    assert [one.kept for one in done] == [[], []]
    shared = [name for name in place.tags if name.startswith("mlflow.sharedViewState.")]
    assert len(shared) == len(VIEWS)
    assert (place.prepare().written, place.prepare().kept) == ([], [])


def test_a_tag_that_another_run_sets_at_this_moment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow refuses the second of two that insert the same tag."""
    set_tag = MlflowClient.set_experiment_tag

    def refuse_after_another_wrote(client: MlflowClient, experiment_id: str, key: str, value: str) -> None:
        set_tag(client, experiment_id, key, value)
        raise MlflowException("UNIQUE constraint failed: experiment_tags.key")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse_after_another_wrote)
    assert place.prepare().written == [*NAMES, "description"]


def test_preparing_needs_one_request_once_it_is_done(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare_if_new(place.client, place.id) == (True, ())
    asked: list[str] = []

    def refuse(*_: object, **__: object) -> None:
        asked.append("more")

    for name in ("search_runs", "set_experiment_tag", "get_experiment_by_name", "get_run"):
        monkeypatch.setattr(MlflowClient, name, refuse)
    assert prepare_if_new(place.client, place.id) == (True, ())
    assert asked == []


# With publishing


def test_the_first_run_prepares_its_experiment(
    sqlite_uri: str, request: pytest.FixtureRequest, make_journal: MakeJournal
) -> None:
    published = publish(make_journal(), sqlite_uri, experiment_name=request.node.name)
    assert (published.has_views, published.notes) == (True, ())
    experiment = MlflowClient(sqlite_uri).get_experiment(published.experiment_id)
    assert LATEST_TAG in experiment.tags
    run = MlflowClient(sqlite_uri).get_run(published.run_id).data
    assert run.metrics["batch"] == 2.0
    assert run.tags["ttt.series"] == "not valid"
    assert run.tags["mlflow.runColor"] == "#b0b0b0"


def test_a_server_that_refuses_views_has_the_run(
    place: Place, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("403: you may not edit this experiment")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    published = publish(make_journal(), place.uri, experiment_name=place.name)
    assert not published.has_views
    (note,) = published.notes
    assert "\n" not in note
    assert "403: you may not edit this experiment" in note
    assert "`ttt-mlflow views`" in note
    assert place.client.get_run(published.run_id).info.status == "FINISHED"


def test_older_runs_are_named(place: Place, make_journal: MakeJournal) -> None:
    place.run(ttt_entry_point="main")
    (note,) = publish(make_journal(), place.uri, experiment_name=place.name).notes
    assert f"`ttt-mlflow views --update-runs --experiment-name {place.name}`" in note
    assert publish(make_journal(), place.uri, experiment_name=place.name).notes == ()


def test_a_valid_run_is_marked_as_the_best(place: Place, make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.update_tags({views.names.TAG_VERDICT: "valid", views.names.TAG_KIND: "decode"})
    published = publish(journal, place.uri, experiment_name=place.name)
    tags = place.client.get_run(published.run_id).data.tags
    assert (tags["ttt.best"], tags["ttt.series"]) == ("true", "ttt-125m mlp_1_dual")


def test_a_color_that_a_person_chose_stays(place: Place, make_journal: MakeJournal) -> None:
    journal = make_journal()
    run_id = publish(journal, place.uri, experiment_name=place.name).run_id
    place.client.set_tag(run_id, "mlflow.runColor", "#ff0000")
    assert publish(journal, place.uri, experiment_name=place.name).run_id == run_id
    assert place.client.get_run(run_id).data.tags["mlflow.runColor"] == "#ff0000"


# The experiment


def test_an_unknown_experiment(place: Place) -> None:
    with pytest.raises(BadInput, match=r"experiment_name=nowhere: .* has no such experiment; it has "):
        chosen_experiments(place.client, place.uri, "nowhere")


def test_an_experiment_that_is_named_needs_no_runs(place: Place) -> None:
    assert [one.name for one in chosen_experiments(place.client, place.uri, place.name)] == [place.name]
