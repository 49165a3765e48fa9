"""The team's server as docs/server.md sets it up: PostgreSQL, accounts, nginx with TLS, a second person, a run."""

import datetime
import ipaddress
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import accounts
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from werkzeug.security import generate_password_hash

from tests.project import QUICK, ROOT, Started, environment, free_port, run, started, ttt_mlflow_run, wait_until
from tests.scripts.server_script import ADMINS, LEGACY, SCRIPT
from tests.test_postgresql import PROGRAMS, database, folder
from ttt_mlflow import names
from ttt_mlflow.tracking.store import settings

__all__ = ["database", "folder"]  # fixtures
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt install nginx)")
ANNAS, BENS = "annas-long-secret", "bens-long-secret"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "fullchain.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return pem, private


def nginx_settings(folder: Path, port: int, behind: int) -> Path:
    """The project's configuration with the test's ports and certificate, in a main file that needs no root."""
    pem, private = certificate(folder)
    ours = (ROOT / "scripts/server/nginx.conf").read_text()
    for shipped, here in {
        "server 127.0.0.1:5000;": f"server 127.0.0.1:{behind};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server_name mlflow.example.org;": "server_name localhost;",
        "/etc/ssl/ttt-mlflow/fullchain.pem": str(pem),
        "/etc/ssl/ttt-mlflow/key.pem": str(private),
    }.items():
        assert ours.count(shipped) == 1, shipped
        ours = ours.replace(shipped, here)
    (folder / "ttt-mlflow.conf").write_text(ours)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"{'user root;' if os.getuid() == 0 else ''}\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}include {folder}/ttt-mlflow.conf;\n}}\n"
    )
    return main


@contextmanager
def nginx(folder: Path, port: int, behind: int) -> Iterator[None]:
    main = nginx_settings(folder, port, behind)
    command = [str(NGINX), "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(main), "-g", "daemon off;"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (folder / "pid").exists())
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(60)


@contextmanager
def server(options: list[str], env: dict[str, str], folder: Path) -> Iterator[Started]:
    """scripts/server.sh, up, until the block ends."""
    with started([str(SCRIPT), *options], env, folder) as process:
        process.wait_for(lambda: "adds a person." in process.output)
        try:
            yield process
        finally:
            process.press_ctrl_c()
            process.wait()


def add_person(uri: str, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return run([str(ROOT / "scripts/server/add_person.sh"), *words, "--tracking-uri", uri], env)


def tags_of(client: MlflowClient) -> dict[str, str]:
    experiment = client.get_experiment_by_name("ttt-mlflow")
    assert experiment is not None
    return dict(experiment.tags)


@needs_nginx
@pytest.mark.parametrize("fault", [False, True])
def test_nginx_takes_its_settings(fault: bool, tmp_path: Path) -> None:
    main = nginx_settings(tmp_path, free_port(), free_port())
    if fault:
        (tmp_path / "key.pem").unlink()
    done = subprocess.run([str(NGINX), "-t", "-e", f"{tmp_path}/error.log", "-c", str(main)], capture_output=True)
    assert (done.returncode == 0) != fault, done.stderr


@pytest.mark.long
@needs_nginx
@pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed (apt install postgresql)")
def test_a_team_from_its_server_to_a_run_over_tls(database: str, tmp_path: Path) -> None:
    behind, port = free_port(), free_port()
    uri, own = f"https://localhost:{port}", tmp_path / "server"
    (tmp_path / "password").write_text(f"{ADMINS}\n")
    options = ["--port", str(behind), "--workers", "2", "--database", database, "--folder", str(own)]
    options += ["--accounts", "--public-url", uri, "--admin-password-file", str(tmp_path / "password")]
    pki = tmp_path / "nginx"
    pki.mkdir()
    trusted = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(pki / "fullchain.pem")}
    admin = trusted | {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": ADMINS}
    anna = trusted | {"MLFLOW_TRACKING_USERNAME": "anna", "MLFLOW_TRACKING_PASSWORD": ANNAS}
    ben = trusted | {"MLFLOW_TRACKING_USERNAME": "ben", "MLFLOW_TRACKING_PASSWORD": BENS}
    quick = {**QUICK, "logdir": str(tmp_path / "runs")}
    with server(options, environment(), tmp_path) as process, nginx(pki, port, behind):
        assert f"export MLFLOW_TRACKING_URI={uri}\n" in process.lines
        # the second person
        added = add_person(uri, environment() | admin | {"TTT_MLFLOW_PERSON_PASSWORD": ANNAS}, "anna")
        assert added.returncode == 0, added.stderr
        assert "anna has EDIT in the experiment ttt-mlflow: a run was written, read back and deleted." in added.stdout
        assert f"export MLFLOW_TRACKING_URI={uri} MLFLOW_TRACKING_USERNAME=anna" in added.stdout
        assert ANNAS not in added.stdout + added.stderr
        with settings(admin, override=True):
            client = MlflowClient(uri)
            assert names.TAG_VIEWS.name in tags_of(client), "the views are there before the first run"
            experiment = client.get_experiment_by_name("ttt-mlflow")
            assert experiment is not None
            assert client.search_runs([experiment.experiment_id]) == []
            (trial,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY)
            assert not [file for file in (own / "artifacts").rglob("*") if file.is_file()], "nothing of it remains"
        # the run of the second person
        done = run(ttt_mlflow_run(quick), environment(uri) | anna)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"MLflow UI: {uri}/#/experiments/" in done.stdout
        with settings(anna, override=True):
            (only,) = MlflowClient(uri).search_runs([experiment.experiment_id])
            assert only.info.run_id != trial.info.run_id
            assert only.data.tags[names.TAG_STATUS.name] == "ok"
            assert {one.path for one in MlflowClient(uri).list_artifacts(only.info.run_id)} >= {"config.json", "timing"}
        # who may only read, and who is not known
        added = add_person(
            uri, environment() | admin | {"TTT_MLFLOW_PERSON_PASSWORD": BENS}, "ben", "--permission", "READ"
        )
        assert "ben has READ in the experiment ttt-mlflow: runs can be read." in added.stdout, added.stderr
        for person in (ben, anna | {"MLFLOW_TRACKING_PASSWORD": "of-somebody-else"}):
            refused = run(ttt_mlflow_run(quick), environment(uri) | person)
            assert refused.returncode == 2, refused.stdout + refused.stderr
        # the permission is raised, and the password changed
        again = environment() | admin | {"TTT_MLFLOW_PERSON_PASSWORD": BENS}
        assert "ben has EDIT" in add_person(uri, again, "ben").stdout
        another = again | {"TTT_MLFLOW_PERSON_PASSWORD": "bens-second-secret"}
        told = add_person(uri, another, "ben")
        assert "ben was there before, with another password than the one that was given (401)" in told.stderr
        assert "ben has EDIT" in add_person(uri, another, "ben", "--new-password").stdout
        changed = environment() | admin | {"TTT_MLFLOW_PERSON_PASSWORD": ADMINS[::-1]}
        told = add_person(uri, changed, "admin", "--new-password")
        assert "admin has EDIT" in told.stdout, told.stderr
        # without the certificate's authority nothing is sent
        stranger = {"MLFLOW_TRACKING_PASSWORD": ADMINS, "MLFLOW_TRACKING_SERVER_CERT_PATH": ""}
        untrusted = add_person(uri, environment() | stranger, "eve")
        assert untrusted.returncode == 1
        assert "certificate" in untrusted.stderr
        assert len(untrusted.stderr.splitlines()) == 1
        # a worker takes the old password for as long as it remembers it
        wait_until(lambda: is_refused(uri, ben))
    for file in ("accounts.db", "accounts.ini", "secret-key"):
        assert (own / file).stat().st_mode & 0o777 == 0o600
    assert ADMINS not in process.output


def is_refused(uri: str, person: dict[str, str]) -> bool:
    with settings(person, override=True):
        try:
            MlflowClient(uri).search_experiments()
        except MlflowException as error:
            if "401" not in str(error):
                raise
            return True
    return False


@pytest.mark.long
def test_the_password_of_an_older_mlflow_is_replaced(tmp_path: Path) -> None:
    def prepared(**variables: str) -> subprocess.CompletedProcess[str]:
        command = ["python", str(ROOT / "scripts/server/accounts.py"), str(tmp_path)]
        env = environment() | {"PYTHONPATH": str(ROOT), **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    made = prepared(MLFLOW_AUTH_ADMIN_PASSWORD=ADMINS)
    assert made.stderr == "The admin admin was made.\n"
    with closing(sqlite3.connect(tmp_path / "accounts.db")) as connection, connection:
        connection.execute("UPDATE users SET password_hash = ?", (generate_password_hash(LEGACY),))
    assert prepared().returncode == 1
    assert prepared(MLFLOW_AUTH_ADMIN_PASSWORD=LEGACY).returncode == 1
    assert prepared(MLFLOW_AUTH_ADMIN_PASSWORD=ADMINS).stderr == "The admin admin has the new password.\n"
    assert accounts.is_password(accounts.stored_hash(tmp_path / "accounts.db", "admin") or "", ADMINS)
