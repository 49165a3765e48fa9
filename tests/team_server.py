"""A team's tracking server with accounts, straight from MLflow, and the people who have one."""

import json
import secrets
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from tests.project import environment
from tests.reliability.server import TrackingServer
from ttt_mlflow.tracking.experiments import experiment_named
from ttt_mlflow.tracking.store import (
    DEFAULT_EXPERIMENT,
    settings,
)

BASIC_AUTH = ("--app-name", "basic-auth")
CACHED_S = 60  # a password is hashed once in so long, not at every request: that takes half a second


@dataclass(frozen=True)
class Person:
    name: str
    password: str

    @property
    def credentials(self) -> dict[str, str]:
        """The variables by which MLflow's client signs in."""
        return {"MLFLOW_TRACKING_USERNAME": self.name, "MLFLOW_TRACKING_PASSWORD": self.password}


class TeamServer:
    """The server and its users. ``server`` can be killed and started again; the accounts stay."""

    def __init__(self, folder: Path, database: str, default_permission: str = "READ") -> None:
        self.admin = Person("admin", secrets.token_urlsafe(16))
        config = folder / "accounts.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = {default_permission}\ndatabase_uri = sqlite:///{folder}/accounts.db\n"
            f"auth_cache_ttl_seconds = {CACHED_S}\n"
        )
        env = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.admin.name,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.admin.password,
        }
        self.server = TrackingServer(folder, database, BASIC_AUTH, env)

    @property
    def uri(self) -> str:
        return self.server.uri

    def person(
        self, name: str, password: str, permission: str | None = None, experiment: str = DEFAULT_EXPERIMENT
    ) -> Person:
        """A new user. permission: in ``experiment``, which is made if it is missing; None: the server's default."""
        self._post("2.0/mlflow/users/create", {"username": name, "password": password})
        person = Person(name, password)
        if permission is not None:
            self.permit(person, permission, experiment)
        return person

    def permit(self, person: Person, permission: str, experiment: str = DEFAULT_EXPERIMENT) -> None:
        with self.signed_in(self.admin) as client:
            experiment_id = experiment_named(client, experiment)
        where = {"resource_type": "experiment", "resource_id": experiment_id}
        self._post("3.0/mlflow/users/permissions/grant", {"username": person.name, "permission": permission, **where})

    @contextmanager
    def signed_in(self, person: Person) -> Iterator[MlflowClient]:
        """MLflow's client, which asks as ``person`` until the block ends."""
        with settings(person.credentials, override=True):
            yield MlflowClient(self.uri)

    def environment(self, person: Person) -> dict[str, str]:
        """For a child process that works on the server as ``person``."""
        return environment(self.uri) | person.credentials

    def _post(self, path: str, content: Mapping[str, str]) -> None:
        signed = b64encode(f"{self.admin.name}:{self.admin.password}".encode()).decode()
        headers = {"Authorization": f"Basic {signed}", "Content-Type": "application/json"}
        url = f"{self.uri}/api/{path}"
        request = urllib.request.Request(url, json.dumps(content).encode(), headers)
        urllib.request.urlopen(request, timeout=60).close()


@contextmanager
def team_server(folder: Path, database: str | None = None, default_permission: str = "READ") -> Iterator[TeamServer]:
    """A server that answers, until the block ends. database: None is a new SQLite file in ``folder``."""
    team = TeamServer(folder, database or f"sqlite:///{folder}/mlflow.db", default_permission)
    team.server.start()
    try:
        yield team
    finally:
        team.server.kill()
