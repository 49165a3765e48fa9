"""Many runs are published while everything between them and their runs on the server goes wrong."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.project import environment
from tests.reliability.audit import Store, differences
from tests.reliability.clients import start
from tests.reliability.records import multiplied
from tests.reliability.server import PostgreSQL
from tests.reliability.trouble import Amount, Trouble
from tests.team_server import TeamServer
from ttt_mlflow.record.journal import Journal

NOT_YET = 4  # the exit code of `ttt-mlflow sync` while something remains
PATIENCE_S = 3600


@dataclass(frozen=True)
class Size:
    """How much is published, and what goes wrong meanwhile. settings: of MLflow's client."""

    records: int
    folders: int
    server_kills: int
    database_stops: int
    delays: int
    delay_s: float
    pause_s: float
    settings: Mapping[str, str] = field(default_factory=dict)


# MLflow's client pauses longer and longer before it asks again
SHORT = Size(4, 2, 1, 1, 1, delay_s=1, pause_s=1, settings={"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"})
LONG = Size(100, 4, 20, 4, 6, delay_s=30, pause_s=5)


def sync_all(uri: str, experiment: str, workers: list[Path], size: Size) -> int:
    """``ttt-mlflow sync`` on each folder of ``workers``, all at once and again and again, until nothing remains.

    A worker pauses before it begins again, because the server may be on its way back. Returns how often one began.
    """
    env = {**environment(), "MLFLOW_EXPERIMENT_NAME": experiment, **size.settings}
    deadline, starts = time.monotonic() + PATIENCE_S, 0
    waiting = dict.fromkeys(range(len(workers)), 0.0)  # number of a worker -> when it begins again
    running: dict[int, ForkServerProcess] = {}
    try:
        while running or waiting:
            for number in [number for number, due in waiting.items() if due <= time.monotonic()]:
                del waiting[number]
                folder = workers[number]
                running[number] = start(["sync", str(folder), "--tracking-uri", uri], folder, env, said(folder, number))
                starts += 1
            for number in [number for number, process in running.items() if process.exitcode is not None]:
                process, output = running.pop(number), said(workers[number], number).read_text()
                assert process.exitcode in (0, NOT_YET), f"exit code {process.exitcode}:\n{output[-3000:]}"
                assert "Traceback" not in output, output[-3000:]
                if process.exitcode == NOT_YET:
                    waiting[number] = time.monotonic() + size.pause_s
            assert time.monotonic() < deadline, "not published in time"
            time.sleep(0.05)
    finally:
        for process in running.values():
            process.kill()
            process.join()
    return starts


def said(folder: Path, number: int) -> Path:
    return folder.parent / f"{folder.name}.sync{number}.txt"


@pytest.mark.parametrize(
    ("size", "accounts"),
    [
        pytest.param(SHORT, False, id="short", marks=pytest.mark.long),
        pytest.param(SHORT, True, id="short-accounts", marks=pytest.mark.long),
        pytest.param(LONG, False, id="long", marks=pytest.mark.long),
        pytest.param(LONG, True, id="long-accounts", marks=pytest.mark.long),
    ],
)
def test_each_run_arrives_once_and_whole(
    size: Size,
    accounts: bool,
    originals: list[Journal],
    database: PostgreSQL,
    experiment: str,
    request: pytest.FixtureRequest,
    rng: random.Random,
    tmp_path: Path,
) -> None:
    if accounts:
        team: TeamServer = request.getfixturevalue("team")
        person = team.person("erin", "Xq7rutabaga9012", "EDIT", experiment)
        server, size = team.server, replace(size, settings={**size.settings, **person.credentials})
    else:
        server = request.getfixturevalue("server")
    store = Store(database.uri, server.artifacts)
    roots = [tmp_path / f"records{number}" for number in range(size.folders)]
    records = [path for root in roots for path in multiplied(originals, root, size.records // size.folders, rng)]
    # each file is sent at least once: all of the trouble comes while something is still to be sent
    least = sum(1 for record in records for path in (record / "artifacts").rglob("*") if path.is_file())
    amount = Amount(size.server_kills, size.database_stops, size.delays, size.delay_s, least)
    began = time.monotonic()
    with Trouble(amount, rng, server, database) as trouble:
        # two folders have two processes each, which meet at the same records
        starts = sync_all(trouble.proxy.uri, experiment, [*roots, *roots[:2]], size)
    took = time.monotonic() - began
    if trouble.failure:
        raise trouble.failure
    print(f"{size.records} runs, {least} artifacts and more, {took:.0f} s, sync started {starts} times; {trouble}")
    happened = (trouble.kills, trouble.stops, trouble.proxy.faults["delayed"])
    assert happened == (size.server_kills, size.database_stops, size.delays)
    assert differences(store, experiment, records) == []
