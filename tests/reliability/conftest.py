"""A server with PostgreSQL that belongs to these tests alone."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.reliability.audit import Store
from tests.reliability.records import measured
from tests.reliability.server import PostgreSQL, TrackingServer
from tests.team_server import TeamServer, team_server
from tests.test_postgresql import postgresql_programs
from ttt_mlflow.record.journal import Journal

SEED = "TTT_MLFLOW_TEST_SEED"  # of an earlier trial, to repeat its choices


@pytest.fixture(scope="session")
def database() -> Iterator[PostgreSQL]:
    if postgresql_programs() is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    # not one of pytest's folders: another session of pytest takes those from all other users, the server's included
    with TemporaryDirectory(prefix="ttt-postgresql-") as name:
        server = PostgreSQL(Path(name))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def server(database: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("server"), database.uri)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def team(database: PostgreSQL, tmp_path: Path) -> Iterator[TeamServer]:
    """The same with accounts."""
    with team_server(tmp_path, database.uri) as team:
        yield team


@pytest.fixture
def store(database: PostgreSQL, server: TrackingServer) -> Store:
    return Store(database.uri, server.artifacts)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Journal]:
    """A few runs, really measured."""
    return measured(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(1 << 32))
    print(f"repeat these choices with: {SEED}={seed}")
    return random.Random(seed)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """An experiment for this test alone."""
    return str(request.node.name)
