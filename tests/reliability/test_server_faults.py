"""Many runs are published while everything between them and their runs on the server goes wrong."""

import random
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.project import environment
from tests.reliability.audit import Store, differences
from tests.reliability.clients import start
from tests.reliability.records import multiplied
from tests.reliability.server import PostgreSQL, TrackingServer
from tests.reliability.trouble import Amount, Trouble
from ttt_mlflow.record.journal import Journal

NOT_YET = 4  # the exit code of `ttt-mlflow sync` while something remains
PATIENCE_S = 2400
PAUSE_S = 2.0  # before a worker begins again: the server may be on its way back


def sync_all(uri: str, experiment: str, workers: list[Path], waits: Mapping[str, str]) -> int:
    """``ttt-mlflow sync`` on each folder of ``workers``, all at once and again and again, until nothing remains.

    Returns how often it was started.
    """
    env = {**environment(), "MLFLOW_EXPERIMENT_NAME": experiment, **waits}
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
                    waiting[number] = time.monotonic() + PAUSE_S
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
    ("count", "folders", "kills", "stops", "delays", "delay_s"),
    [
        pytest.param(4, 2, 1, 1, 1, 1.0, id="short"),
        pytest.param(100, 4, 20, 4, 6, 30.0, id="long", marks=pytest.mark.long),
    ],
)
def test_each_run_arrives_once_and_whole(
    count: int,
    folders: int,
    kills: int,
    stops: int,
    delays: int,
    delay_s: float,
    originals: list[Journal],
    server: TrackingServer,
    database: PostgreSQL,
    store: Store,
    experiment: str,
    rng: random.Random,
    tmp_path: Path,
) -> None:
    roots = [tmp_path / f"records{number}" for number in range(folders)]
    records = [path for root in roots for path in multiplied(originals, root, count // folders, rng)]
    # each file is sent at least once: all of the trouble comes while something is still to be sent
    least = sum(1 for record in records for path in (record / "artifacts").rglob("*") if path.is_file())
    # MLflow pauses longer and longer before it asks again
    waits = {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"} if count < 10 else {}
    began = time.monotonic()
    with Trouble(Amount(kills, stops, delays, delay_s, least), rng, server, database) as trouble:
        # two folders have two processes each, which meet at the same records
        starts = sync_all(trouble.proxy.uri, experiment, [*roots, *roots[:2]], waits)
    took = time.monotonic() - began
    if trouble.failure:
        raise trouble.failure
    print(f"{count} runs, {least} artifacts and more, {took:.0f} s, sync started {starts} times; {trouble}")
    assert (trouble.kills, trouble.stops, trouble.proxy.faults["delayed"]) == (kills, stops, delays)
    assert differences(store, experiment, records) == []
