"""Commands against a team's server with accounts: who is refused, with which words, and what is left of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests.project import QUICK, run, ttt_mlflow_run
from tests.record.conftest import MakeJournal, _own_folder_and_environment, make_journal
from tests.team_server import Person, TeamServer, team_server
from ttt_mlflow.cli import cli
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.probe import RUN_NAME, TRIAL_FILE, TRIAL_FOLDER
from ttt_mlflow.tracking.publish import publish

__all__ = ["_own_folder_and_environment", "make_journal"]
pytestmark = pytest.mark.long

EXPERIMENT = "ttt-mlflow"
PASSWORD = "Xq7rutabaga9012"
TOKEN = "dapi0123456789abcdef"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with team_server(tmp_path_factory.mktemp("team")) as started:
        yield started


@pytest.fixture(scope="module")
def editor(team: TeamServer) -> Person:
    return team.person("erin", PASSWORD, "EDIT")


@pytest.fixture(scope="module")
def reader(team: TeamServer) -> Person:
    return team.person("rita", PASSWORD, "READ")


@pytest.fixture(scope="module")
def manager(team: TeamServer) -> Person:
    return team.person("mary", PASSWORD, "MANAGE")


def sign_in(monkeypatch: pytest.MonkeyPatch, team: TeamServer, **variables: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.uri)
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)


def sign_in_as(monkeypatch: pytest.MonkeyPatch, team: TeamServer, person: Person) -> None:
    sign_in(monkeypatch, team, USERNAME=person.name, PASSWORD=person.password)


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, [*words])


def runs_of(team: TeamServer) -> set[str]:
    """All runs on the server, deleted ones too."""
    with team.signed_in(team.admin) as client:
        experiments = [one.experiment_id for one in client.search_experiments(ViewType.ALL)]
        return {one.info.run_id for one in client.search_runs(experiments, run_view_type=ViewType.ALL)}


STRANGERS = [
    pytest.param(
        {"USERNAME": "nobody", "PASSWORD": PASSWORD},
        "the server does not accept the user nobody with this password",
        id="unknown user",
    ),
    pytest.param(
        {"USERNAME": "erin", "PASSWORD": "Zw4kohlrabi5555"},
        "the server does not accept the user erin with this password",
        id="wrong password",
    ),
    pytest.param({}, "no user and no token were sent", id="nothing"),
    pytest.param({"USERNAME": "erin"}, "a user without a password", id="half"),
    pytest.param(
        {"TOKEN": TOKEN},
        "a token was sent (MLFLOW_TRACKING_TOKEN), and this server takes a user and a password",
        id="token",
    ),
    pytest.param({"PASSWORD": TOKEN}, "a password without a user", id="token as password"),
]
COMMANDS = [
    ("sync", "runs"),
    ("table", "--experiment-name", EXPERIMENT),
    ("compare", "a" * 32, "b" * 32),
    ("views",),
    ("janitor",),
]


@pytest.mark.parametrize(("variables", "reason"), STRANGERS)
def test_a_stranger_is_refused_before_anything_is_measured(
    team: TeamServer,
    editor: Person,
    variables: dict[str, str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_journal: MakeJournal,
) -> None:
    before = runs_of(team)
    sign_in(monkeypatch, team, **variables)
    make_journal()
    make_journal()
    for words in COMMANDS:
        if words[0] == "sync":
            words = ("sync", str(make_journal().path.parent))
        done = command(*words)
        assert done.exit_code == 2, f"{words}: {done.output}"
        (line,) = done.stderr.splitlines()
        assert reason in line, words
        assert "refused with" in line
        assert TOKEN not in line
        assert PASSWORD not in line
    for entry, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{entry}", value)
    env = {**team.environment(Person("", "")), **{f"MLFLOW_TRACKING_{name}": text for name, text in variables.items()}}
    for name in {"USERNAME", "PASSWORD"} - set(variables):
        env.pop(f"MLFLOW_TRACKING_{name}")
    logdir = tmp_path / "measured"
    done_run = run(ttt_mlflow_run({**QUICK, "logdir": str(logdir)}), env)
    assert done_run.returncode == 2, done_run.stderr
    (line,) = done_run.stderr.splitlines()
    assert reason in line
    assert not logdir.exists(), "nothing was measured, and nothing is left here"
    assert runs_of(team) == before


def test_a_token_in_the_address(team: TeamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("table", "--tracking-uri", team.uri.replace("http://", f"http://{TOKEN}@"))
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "the address has a user without a password, as if a token stood there" in line
    assert TOKEN not in line


def test_who_may_only_read(
    team: TeamServer, reader: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_journal: MakeJournal
) -> None:
    before = runs_of(team)
    done = run(ttt_mlflow_run({**QUICK, "logdir": str(tmp_path / "measured")}), team.environment(reader))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "refused with 403: the user rita may not make runs in this experiment" in line
    assert not (tmp_path / "measured").exists()
    sign_in_as(monkeypatch, team, reader)
    journal: Journal = make_journal()
    synced = command("sync", str(journal.path))
    assert synced.exit_code == 4
    assert "the user rita may not make runs in this experiment" in synced.stderr
    assert command("table", "--experiment-name", EXPERIMENT).exit_code == 0
    written = command("views", "--experiment-name", EXPERIMENT)
    assert written.exit_code == 2
    (line,) = written.stderr.splitlines()
    assert "the user rita may not write the saved views of this experiment" in line
    assert runs_of(team) == before


def test_who_may_edit_publishes(team: TeamServer, editor: Person, tmp_path: Path) -> None:
    done = run(ttt_mlflow_run({**QUICK, "logdir": str(tmp_path)}), team.environment(editor))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_an_experiment_that_cannot_be_used(team: TeamServer, reader: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    with team.signed_in(team.admin) as client:
        deleted = client.create_experiment("deleted")
        client.delete_experiment(deleted)
    for experiment, said in ((deleted, "this experiment was deleted"), ("999999", "there is no such experiment")):
        env = team.environment(reader) | {"MLFLOW_EXPERIMENT_ID": experiment}
        done = run(ttt_mlflow_run(QUICK), env)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert said in line


# The doctor


def checks(
    monkeypatch: pytest.MonkeyPatch, team: TeamServer, *words: str, **variables: str
) -> dict[str, dict[str, str]]:
    monkeypatch.setattr("ttt_mlflow.app.doctor.diagnosis.LEAST_SECONDS", 60)
    sign_in(monkeypatch, team, **variables)
    done = command("doctor", "--json", *words)
    return {one["name"]: one for one in json.loads(done.stdout)["checks"]}


def test_the_doctor_of_who_may_delete(team: TeamServer, manager: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks(monkeypatch, team, USERNAME=manager.name, PASSWORD=manager.password)
    assert "answers; MLflow 3." in found["server"]["found"]
    assert "none needed: the server is on this machine" in found["tls"]["found"]
    assert found["account"]["found"].endswith("signed in as mary")
    assert found["tracking"]["state"] == "ok", found["tracking"]
    with team.signed_in(team.admin) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        condition = f"attributes.run_name = '{RUN_NAME}'"
        assert client.search_runs([experiment.experiment_id], condition) == []
        (deleted,) = client.search_runs([experiment.experiment_id], condition, ViewType.DELETED_ONLY)
        assert client.list_artifacts(deleted.info.run_id) == []


def test_the_doctor_of_who_may_not_delete(team: TeamServer, editor: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would stay, so none is made."""
    before = runs_of(team)
    for _ in range(2):
        found = checks(monkeypatch, team, USERNAME=editor.name, PASSWORD=editor.password)
        assert found["tracking"]["state"] == "ok", found["tracking"]
    assert runs_of(team) == before
    left = [path for path in team.server.artifacts.rglob(TRIAL_FILE) if path.parent.name == TRIAL_FOLDER]
    assert len(left) == 1


def test_the_doctor_of_who_may_not_write(team: TeamServer, reader: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    before = runs_of(team)
    found = checks(monkeypatch, team, USERNAME=reader.name, PASSWORD=reader.password)
    assert found["account"]["state"] == "ok"
    assert found["tracking"]["state"] == "failed"
    assert "the user rita may not make runs in this experiment" in found["tracking"]["found"]
    assert runs_of(team) == before


def test_the_doctor_of_a_stranger(team: TeamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks(monkeypatch, team, USERNAME="nobody", PASSWORD=PASSWORD)
    assert found["server"]["state"] == "ok", "it is there"
    assert found["account"]["state"] == "failed"
    assert "refused with 401" in found["account"]["found"]
    assert found["tracking"]["found"] == "not asked, because the line above failed"


def test_a_user_who_may_not_delete_publishes_though_a_request_was_repeated(
    team: TeamServer, editor: Person, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in_as(monkeypatch, team, editor)
    original = MlflowClient.create_run
    made: list[str] = []

    def twice(*args: Any, **kwargs: Any) -> Run:
        runs = [original(*args, **kwargs) for _ in range(2)]
        made.extend(run.info.run_id for run in runs)
        return runs[-1]

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    journal = make_journal()
    published = publish(journal, team.uri, experiment_name=EXPERIMENT)
    monkeypatch.setattr(MlflowClient, "create_run", original)
    (ghost_id,) = set(made) - {published.run_id}
    ghost = MlflowClient(team.uri).get_run(ghost_id)
    assert (ghost.info.run_name, ghost.info.status) == ("made twice", "KILLED")
    assert not ghost.data.metrics
    assert not ghost.data.params
    assert published.run_id in ghost.data.tags["ttt.message"]
    assert "ttt.journal_id" not in ghost.data.tags
    again = publish(journal, team.uri, experiment_name=EXPERIMENT)
    assert again.run_id == published.run_id
