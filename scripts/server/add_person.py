"""Adds a person to the accounts of a team's server, and writes a run as that person to see that it works.

What is printed passes through the project's redaction. A password that was made here is shown on the terminal alone.
"""

import argparse
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from passwords import LEAST, Refused, asked, checked, given, on_a_terminal
from trial_run import NotAllowed, try_reading, try_writing

from ttt_mlflow.errors import BadInput
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.experiments import experiment_named
from ttt_mlflow.tracking.store import (
    DEFAULT_EXPERIMENT,
    PATIENCE,
    QUIET,
    UnusableExperiment,
    explain,
    known_errors,
    quiet_loggers,
    resolve_tracking_uri,
    settings,
)

PERSONS_PASSWORD = "TTT_MLFLOW_PERSON_PASSWORD"
ADMINS_PASSWORD = "MLFLOW_TRACKING_PASSWORD"
USERS, PERMISSIONS = "/api/2.0/mlflow/users", "/api/3.0/mlflow/users/permissions"
WRITES = ("EDIT", "MANAGE")


class Server:
    """The accounts of one server, asked as ``name``."""

    def __init__(self, uri: str, name: str, password: str) -> None:
        self.uri, self.name, self.password = uri, name, password

    @contextmanager
    def signed_in(self, name: str | None = None, password: str | None = None) -> Iterator[None]:
        """Everything that MLflow's client sends meanwhile is sent as this person, by default the admin."""
        signed = {
            "MLFLOW_TRACKING_USERNAME": name or self.name,
            "MLFLOW_TRACKING_PASSWORD": password or self.password,
            "MLFLOW_TRACKING_TOKEN": "",
            "MLFLOW_TRACKING_AUTH": "",
        }
        with settings(signed, override=True):
            yield

    def answer(self, endpoint: str, method: str = "GET", **content: Any) -> tuple[int, dict[str, Any]]:
        """The status and the content of the answer."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        kind = "params" if method == "GET" else "json"
        reply = http_request(get_default_host_creds(self.uri), endpoint, method, **({kind: content} if content else {}))
        try:
            said = reply.json()
        except ValueError:
            said = {}
        return reply.status_code, said if isinstance(said, dict) else {}

    def done(self, what: str, endpoint: str, method: str, **content: Any) -> None:
        status, said = self.answer(endpoint, method, **content)
        if status != 200:
            raise refusal(what, status, said)

    def who_am_i(self) -> tuple[int, dict[str, Any]]:
        status, said = self.answer(f"{USERS}/current")
        if status == 404:
            raise Refused(f"{self.uri}: this server has no accounts; start it with `./scripts/server.sh --accounts`")
        if status not in (200, 401, 403):
            raise Refused(f"{self.uri}: it answers {status}, not as MLflow's server with accounts does")
        return status, said.get("user", said)

    def check_admin(self) -> None:
        status, user = self.who_am_i()
        if status != 200:
            raise Refused(
                f"{self.uri}: it does not know the admin {self.name} with this password ({status}); set "
                f"MLFLOW_TRACKING_USERNAME and {ADMINS_PASSWORD}, or give --admin-password-file"
            )
        if not user.get("is_admin"):
            raise Refused(f"{self.uri}: {self.name} is no admin, and only an admin adds a person")

    def has(self, person: str) -> bool:
        return self.answer(f"{USERS}/get", username=person)[0] == 200

    def change_password(self, person: str, password: str) -> None:
        content = {"username": person, "password": password}
        if person == self.name:  # MLflow asks for the old one where somebody changes their own
            content["current_password"] = self.password
        self.done(f"the new password of {person}", f"{USERS}/update-password", "PATCH", **content)
        if person == self.name:
            self.password = os.environ["MLFLOW_TRACKING_PASSWORD"] = password  # signed_in() puts back what was there

    def grant(self, person: str, experiment: str, experiment_id: str, permission: str) -> None:
        content = {"username": person, "resource_type": "experiment", "resource_id": experiment_id}
        what = f"{permission} of {person} in {experiment}"
        status, said = self.answer(f"{PERMISSIONS}/grant", "POST", permission=permission, **content)
        if said.get("error_code") == "RESOURCE_ALREADY_EXISTS":  # another one was granted before, or this one
            self.done(what, f"{PERMISSIONS}/revoke", "POST", **content)
            self.done(what, f"{PERMISSIONS}/grant", "POST", permission=permission, **content)
        elif status != 200:
            raise refusal(what, status, said)


def refusal(what: str, status: int, said: dict[str, Any]) -> Refused:
    return Refused(f"{what}: the server refused with {status} ({said.get('message', 'it says nothing more')})")


def add(arguments: argparse.Namespace) -> list[str]:
    """What to tell at the end."""
    if not os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "set"):
        del os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"]  # MLflow takes an empty one as: check no certificate
    uri, name, password = place(arguments.tracking_uri)
    password = password or admins_password(arguments.admin_password_file, name)
    server = Server(uri, name, password)
    person, experiment = arguments.name, arguments.experiment
    with settings(QUIET), settings(PATIENCE), quiet_loggers(), server.signed_in():
        server.check_admin()
        there = server.has(person)
        theirs, made = persons_password(arguments, there)
        if not there:
            server.done(f"adding {person}", f"{USERS}/create", "POST", username=person, password=theirs)
        elif arguments.new_password:
            server.change_password(person, theirs)
        if made:  # at once: should something fail from here on, the account has this password
            show_once(person, theirs)
        from mlflow import MlflowClient

        experiment_id = experiment_named(MlflowClient(uri), experiment)
        check_person(server, person, theirs)
        server.grant(person, experiment, experiment_id, arguments.permission)
        try:
            if arguments.permission in WRITES:
                done = try_writing(uri, experiment_id, lambda: server.signed_in(person, theirs))
            else:
                done = try_reading(uri, experiment_id, lambda: server.signed_in(person, theirs))
        except NotAllowed as error:
            raise Refused(f"{person} has {arguments.permission} in {experiment}, but {error}") from None
    return [
        f"{person} has {arguments.permission} in the experiment {experiment}: {done}.",
        f"{person} needs:",
        f"export MLFLOW_TRACKING_URI={uri} MLFLOW_TRACKING_USERNAME={shlex.quote(person)}",
        # without it, `mlflow run` begins its run in "Default", where the person may not write
        f"export MLFLOW_EXPERIMENT_NAME={shlex.quote(experiment)}",
        "read -rsp 'Password: ' MLFLOW_TRACKING_PASSWORD && export MLFLOW_TRACKING_PASSWORD",
    ]


def check_person(server: Server, person: str, password: str) -> None:
    with server.signed_in(person, password):
        status, user = server.who_am_i()
    if status != 200:
        raise Refused(
            f"{person} was there before, with another password than the one that was given ({status}); give theirs, or "
            "set this one with --new-password"
        )
    if user.get("username") != person:
        raise Refused(f"{server.uri}: it takes {person} for {user.get('username')}; is there a ~/.netrc for this host?")


def place(given_uri: str | None) -> tuple[str, str, str | None]:
    """The server's URI without credentials, the admin's name, and the password if there is one."""
    from mlflow.utils.credentials import read_mlflow_creds

    uri = resolve_tracking_uri(given_uri)
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        raise Refused(
            f"{without_secrets(uri)}: no server; give --tracking-uri or set MLFLOW_TRACKING_URI to http(s)://…"
        )
    name, password = read_mlflow_creds()
    if parts.password:  # MLflow's client would send these with every request, the person's too
        name, password = unquote(parts.username or ""), unquote(parts.password)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare.rstrip("/"), name or os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME") or "admin", password


def admins_password(file: str | None, name: str) -> str:
    if found := given(file, "MLFLOW_AUTH_ADMIN_PASSWORD"):
        return found
    if not on_a_terminal():
        raise Refused(
            f"no password of the admin {name}; set MLFLOW_TRACKING_USERNAME and {ADMINS_PASSWORD}, or give "
            "--admin-password-file FILE"
        )
    return asked(f"the admin {name}", twice=False)


def persons_password(arguments: argparse.Namespace, there: bool) -> tuple[str, bool]:
    """The password, and whether it was made here."""
    person = arguments.name
    if found := given(arguments.password_file, PERSONS_PASSWORD):
        return found, False
    if not on_a_terminal():
        raise Refused(f"no password of {person}; give --password-file FILE or set {PERSONS_PASSWORD}")
    if there and not arguments.new_password:
        return asked(f"{person}, who is there already", twice=False), False
    typed = asked(f"{person} ({LEAST} characters or more; nothing: one is made and shown)")
    return (checked(typed, person), False) if typed else (secrets.token_urlsafe(15), True)


def show_once(person: str, password: str) -> None:
    """On the terminal itself: what is redirected or logged does not get it."""
    with open("/dev/tty", "w") as terminal:
        terminal.write(f"The password of {person}, shown only now: {password}\n")


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/server/add_person.sh",
        description="Add a person to the accounts of a team's server, let them write to an experiment, and write a "
        "run as that person to see that it works. The run is deleted again. With a person who is there already, the "
        "permission is granted and checked.",
        epilog="The admin's name and password are those of MLflow's client (MLFLOW_TRACKING_USERNAME, by default "
        f"admin, and {ADMINS_PASSWORD}), else --admin-password-file, else the terminal asks. A password is never given "
        "as an option's value: every user of this machine sees the options of a process.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="name with which the person signs in")
    parser.add_argument("--experiment", default=DEFAULT_EXPERIMENT, help="made if there is none [%(default)s]")
    parser.add_argument(
        "--permission",
        default="EDIT",
        choices=["READ", *WRITES],
        help="EDIT: make runs and change them; MANAGE: delete them too, and grant permissions [%(default)s]",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="the server [MLFLOW_TRACKING_URI]")
    parser.add_argument(
        "--password-file",
        metavar="FILE",
        help=f"file with the person's password [the variable {PERSONS_PASSWORD}, else the terminal asks]",
    )
    parser.add_argument("--new-password", action="store_true", help="the person is there: set this password")
    parser.add_argument("--admin-password-file", metavar="FILE", help="file with the admin's password")
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        lines = add(parse(sys.argv[1:]))
    except (Refused, BadInput, UnusableExperiment) as refused:
        sys.exit(without_secrets(f"Error: {refused}"))
    except KeyboardInterrupt:
        sys.exit(130)
    except known_errors() as failed:
        sys.exit(without_secrets(f"Error: the server does not answer as an MLflow server ({explain(failed)})"))
    for line in lines:
        print(without_secrets(line))
