"""The drill of docs/server-backup.md: a server with PostgreSQL, a backup while it runs, a lost disk, a restore."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from scripts.server.database import database_at
from tests.chromium import Chromium, chromium
from tests.project import QUICK, ROOT, Started, environment, free_port, mlflow_run, run, started, ttt_mlflow_run
from tests.report.browser import BROWSER
from tests.scripts.server.conftest import Cluster
from tests.scripts.server.stores import artifacts_of
from tests.scripts.server_script import ADMINS
from tests.scripts.test_server import ANNAS, add_person, needs_nginx, nginx, server
from tests.tracking.mlflow_ui import KNOWN_VISITOR
from ttt_mlflow.tracking.store import settings

SCRIPTS = ROOT / "scripts"


@contextmanager
def serving(folder: Path, database: str, port: int) -> Iterator[Started]:
    command = [str(SCRIPTS / "server.sh"), "--port", str(port), "--workers", "1", "--database", database]
    with started([*command, "--artifacts", f"{folder}/artifacts"], environment(), folder.parent) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        yield server
        server.press_ctrl_c()
        assert server.wait() == 0


def what_clients_see(uri: str, to: Path) -> dict[str, object]:
    """Each run with its values and its artifacts, through the server."""
    client = MlflowClient(uri)
    found: dict[str, object] = {}
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment is not None
    for one in client.search_runs([experiment.experiment_id]):
        folder = to / one.info.run_id
        download_artifacts(run_id=one.info.run_id, dst_path=str(folder), tracking_uri=uri)
        found[one.info.run_id] = (one.to_dictionary(), artifacts_of(folder))
    return found


@pytest.mark.long
def test_a_lost_disk(cluster: Cluster, tmp_path: Path) -> None:
    database, port = cluster.new(), free_port()
    uri = f"http://127.0.0.1:{port}"
    disk, backups, records = tmp_path / "disk", tmp_path / "backups", tmp_path / "records"
    for folder in (disk, backups):
        folder.mkdir()
    measure = ttt_mlflow_run({**QUICK, "logdir": str(records)})
    with serving(disk, cluster.uri(database), port):
        done = run(measure, environment(uri))
        assert done.returncode == 0, done.stderr
        before = what_clients_see(uri, tmp_path / "before")
        # while the server runs
        command = [str(SCRIPTS / "server/backup.sh"), "--to", str(backups), "--folder", str(disk)]
        done = run([*command, "--database", cluster.uri(database)], environment())
        assert done.returncode == 0, done.stderr
        backup = done.stdout.strip()
        assert database_at(cluster.uri(database)).users(), "an upgrade would not see the server"
        later = run(measure, environment(uri))
        assert later.returncode == 0, later.stderr
    assert len(before) == 1
    shutil.rmtree(disk)
    cluster.execute(f"drop database {database}")

    new = cluster.new()
    command = [str(SCRIPTS / "server/restore.sh"), "--from", backup, "--folder", f"{tmp_path}/new"]
    done = run([*command, "--database", cluster.uri(new)], environment())
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "new", cluster.uri(new), port):
        assert what_clients_see(uri, tmp_path / "after") == before
        # what was measured since the backup comes from the records of whoever measured
        done = run(["ttt-mlflow", "sync", "--verify", str(records)], environment(uri))
        assert done.returncode == 0, done.stdout + done.stderr
        synced = what_clients_see(uri, tmp_path / "synced")
        assert len(synced) == 2
        assert before.items() <= synced.items()


class Team:
    """A server with accounts behind nginx, and what a person of the team does there."""

    def __init__(self, tmp_path: Path) -> None:
        self.behind, self.port = free_port(), free_port()
        self.uri = f"https://127.0.0.1:{self.port}"
        self.pki, self.password = tmp_path / "nginx", tmp_path / "password"
        self.pki.mkdir()
        self.password.write_text(f"{ADMINS}\n")
        trusted = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.pki / "fullchain.pem")}
        self.admin = trusted | {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": ADMINS}
        self.anna = trusted | {"MLFLOW_TRACKING_USERNAME": "anna", "MLFLOW_TRACKING_PASSWORD": ANNAS}

    @contextmanager
    def serving(self, folder: Path, database: str) -> Iterator[None]:
        options = ["--port", str(self.behind), "--workers", "2", "--database", database, "--folder", str(folder)]
        options += ["--accounts", "--public-url", self.uri, "--admin-password-file", str(self.password)]
        with server(options, environment(), folder.parent), nginx(self.pki, self.port, self.behind):
            yield

    def as_anna(self, command: list[str]) -> str:
        """What a command says that anna starts with the lines that she was given."""
        done = self.try_as_anna(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_as_anna(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return run(command, environment(self.uri) | self.anna | {"MLFLOW_EXPERIMENT_NAME": "ttt-mlflow"})

    def open_signed_in(self, page: Chromium, path: str) -> None:
        """The browser's own form cannot be filled in from here; an address with a name and a password does the same."""
        page.open(self.uri.replace("//", f"//anna:{ANNAS}@"))
        page.wait_for("document.title.includes('MLflow')")
        page.open(self.uri + path)


@pytest.mark.long
@needs_nginx
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_a_team_loses_its_disk(cluster: Cluster, tmp_path: Path) -> None:
    database, team = cluster.new(), Team(tmp_path)
    disk, backups, records = tmp_path / "disk/server", tmp_path / "backups", tmp_path / "records"
    disk.parent.mkdir()
    backups.mkdir()
    quick = {**QUICK, "logdir": str(records)}
    with team.serving(disk, cluster.uri(database)):
        added = add_person(team.uri, environment() | team.admin | {"TTT_MLFLOW_PERSON_PASSWORD": ANNAS}, "anna")
        assert "export MLFLOW_EXPERIMENT_NAME=ttt-mlflow\n" in added.stdout, added.stderr
        team.as_anna(ttt_mlflow_run(quick))
        team.as_anna(mlflow_run(quick))
        with settings(team.anna, override=True):
            before = what_clients_see(team.uri, tmp_path / "before")
        assert len(before) == 2
        assert "baseline" in team.as_anna(["ttt-mlflow", "compare", "latest~1", "latest"]).lower()
        # the same comparison in the UI
        ids = ",".join(f'"{one}"' for one in sorted(before))
        with chromium(tmp_path, more=["--ignore-certificate-errors"]) as page:
            page.before_each_page(KNOWN_VISITOR)
            link = f'/#/compare-runs?runs=[{ids}]&experiments=["1"]'
            page.open(team.uri + link)
            assert "ttt-tiny" not in page.text(), "nobody has signed in yet"
            team.open_signed_in(page, link)
            page.wait_for("document.body?.innerText.includes('Comparing 2 Runs')")
            page.wait_for("document.body?.innerText.includes('decode_tokens_per_s')")
            page.picture(tmp_path / "compared.png")
        command = [str(SCRIPTS / "server/backup.sh"), "--to", str(backups), "--folder", str(disk)]
        done = run([*command, "--database", cluster.uri(database)], environment())
        assert done.returncode == 0, done.stderr
        backup = done.stdout.strip()
    shutil.rmtree(disk)
    cluster.execute(f"drop database {database}")

    new, restored = cluster.new(), tmp_path / "new/server"
    restored.parent.mkdir()
    command = [str(SCRIPTS / "server/restore.sh"), "--from", backup, "--folder", str(restored)]
    done = run([*command, "--database", cluster.uri(new)], environment())
    assert done.returncode == 0, done.stderr
    for file in ("accounts.db", "accounts.ini", "secret-key"):
        assert (restored / file).stat().st_mode & 0o777 == 0o600
    with team.serving(restored, cluster.uri(new)):
        with settings(team.anna, override=True):
            assert what_clients_see(team.uri, tmp_path / "after") == before
        # her account and her permission are there too
        team.as_anna(ttt_mlflow_run(quick))
        team.anna["MLFLOW_TRACKING_PASSWORD"] = "of-somebody-else"
        refused = team.try_as_anna(["ttt-mlflow", "table", "--experiment-name", "ttt-mlflow"])
        assert refused.returncode == 2
        assert "the server does not accept the user anna with this password" in refused.stderr
