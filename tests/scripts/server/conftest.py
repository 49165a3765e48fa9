"""A team's stores: databases with runs, a PostgreSQL server, and a bucket."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from moto.server import ThreadedMotoServer

from tests.reliability.server import PostgreSQL
from tests.test_postgresql import postgresql_programs

KEY = "a-key-of-a-bucket-0123456789"


class Cluster:
    """PostgreSQL with as many databases as a test wants. The user mlflow needs no password, all others do."""

    def __init__(self, server: PostgreSQL) -> None:
        self._server, self._made = server, 0

    @property
    def port(self) -> int:
        return self._server.port

    def execute(self, statement: str, database: str = "runs") -> None:
        with psycopg.connect(self.uri(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def uri(self, database: str, user: str = "mlflow", password: str = "") -> str:
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def new(self, owner: str = "mlflow") -> str:
        """The name of a new empty database."""
        self._made += 1
        self.execute(f"create database new_{self._made} owner {owner}")
        return f"new_{self._made}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    # not one of pytest's folders: another session of pytest takes those from all other users, the server's included
    with TemporaryDirectory(prefix="ttt-postgresql-") as name:
        server = PostgreSQL(Path(name))
        try:
            found = Cluster(server)
            access = "host all mlflow 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            (Path(name) / "data/pg_hba.conf").write_text(access)
            found.execute("select pg_reload_conf()")
            yield found
        finally:
            server.stop()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a bucket of moto's server, which this process and its children reach."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket="team")
        yield "team"
        for found in client.list_objects_v2(Bucket="team").get("Contents", []):
            client.delete_object(Bucket="team", Key=found["Key"])
        client.delete_bucket(Bucket="team")
    finally:
        server.stop()
