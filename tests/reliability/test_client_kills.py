"""Processes that measure and publish are killed at any instant: nothing that they had recorded is lost or doubled."""

import json
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from tests.project import QUICK, environment, ttt_mlflow_run
from tests.reliability.audit import Store, differences
from tests.reliability.clients import start
from tests.reliability.server import TrackingServer

ASKED = {**QUICK, "genlen": "6", "repeats": "4"}
NOT_YET = 4  # the exit code of `ttt-mlflow sync` while something remains
MOST_ROUNDS = 20
PUBLISHER = "ttt_mlflow.tracking.background"  # the process that talks to MLflow for a run
Stage = Literal[
    "before the record", "beginning", "building", "measuring", "recording", "publishing", "after publishing"
]
STAGES: tuple[Stage, ...] = (
    "before the record",
    "beginning",
    "building",
    "measuring",
    "recording",
    "publishing",
    "after publishing",
)


@dataclass
class Killed:
    """What the trial did. stages: where the killed runs were; folders: their records as the kill left them.

    syncs: killed ``ttt-mlflow sync``. publishers: killed processes that a run had started to talk to MLflow.
    """

    stages: Counter[Stage] = field(default_factory=Counter)
    syncs: int = 0
    publishers: int = 0
    folders: dict[Path, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Life:
    """Seconds that a run takes. rest_s: from the first line of its log to its end."""

    whole_s: float
    rest_s: float


class Trial:
    """Runs and syncs in ``folder`` against ``uri``."""

    def __init__(self, folder: Path, uri: str, experiment: str, rng: random.Random) -> None:
        self.records, self.copies, self.before = folder / "records", folder / "copies", folder / "before"
        for made in (self.records, self.copies, self.before):
            made.mkdir()
        self.said, self._rng, self._folder = folder / "said.txt", rng, folder
        self._env = {**environment(uri), "MLFLOW_EXPERIMENT_NAME": experiment}
        self._uri, self.killed = uri, Killed()

    def run(self) -> ForkServerProcess:
        arguments = ["run", *(f"--{name}={value}" for name, value in ASKED.items()), f"--logdir={self.records}"]
        return start(arguments, self._folder, self._env, self.said)

    def sync(self, records: Path) -> ForkServerProcess:
        return start(["sync", str(records), "--tracking-uri", self._uri], self._folder, self._env, self.said)

    def janitor(self) -> ForkServerProcess:
        return start(["janitor", "--tracking-uri", self._uri], self._folder, self._env, self.said)

    def life(self, count: int) -> Life:
        """How long runs take if nobody kills them."""
        lives = []
        for _ in range(count):
            began, known = time.monotonic(), set(self.records.iterdir())
            process = self.run()
            self._wait_for_a_log(process, known)
            logged = time.monotonic()
            process.join()
            assert process.exitcode == 0, self.said.read_text()[-3000:]
            lives.append((time.monotonic() - began, time.monotonic() - logged))
        return Life(*(statistics.median(times) for times in zip(*lives, strict=True)))

    def kill_a_run(self, after_s: float, since_log: bool) -> bool:
        """Kill it ``after_s`` after its start, or after the first line of its log. Whether it still lived then."""
        known = set(self.records.iterdir())
        process = self.run()
        if since_log:
            self._wait_for_a_log(process, known)
        process.join(after_s)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it has ended by itself
            assert process.exitcode == 0, self.said.read_text()[-3000:]
            return False
        self._note(known)
        return True

    def _wait_for_a_log(self, process: ForkServerProcess, known: set[Path]) -> None:
        while process.exitcode is None:
            if any((path / "artifacts/log.txt").exists() for path in self.records.iterdir() if path not in known):
                return
            time.sleep(0.002)

    def kill_a_whole_process(self, after_s: float) -> bool:
        """As :meth:`kill_a_run`, for a process that begins with Python itself."""
        known = set(self.records.iterdir())
        command = ttt_mlflow_run({**ASKED, "logdir": str(self.records)})
        with self.said.open("a") as said:
            process = subprocess.Popen(command, env=self._env, cwd=self._folder, stdout=said, stderr=said)
        try:
            process.wait(after_s)
            return False
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._note(known)
        return True

    def kill_a_publisher(self, after_s: float) -> None:
        """Kill the process that talks to MLflow for a run, if there is one then; the run goes on to its end."""
        process = self.run()
        process.join(after_s)
        with suppress(psutil.NoSuchProcess):  # the run has ended before
            for child in psutil.Process(process.pid).children():
                if PUBLISHER in child.cmdline():
                    child.kill()
                    self.killed.publishers += 1
        process.join()
        assert process.exitcode in (0, NOT_YET), self.said.read_text()[-3000:]

    def kill_a_sync(self, after_s: float) -> bool:
        process = self.sync(self.records)
        process.join(after_s)
        if process.exitcode is not None:
            return False
        process.kill()
        process.join()
        self.killed.syncs += process.exitcode == -signal.SIGKILL
        return True

    def sync_the_rest(self) -> None:
        """Records and copies, in turns, as a nightly job would, until nothing remains."""
        folders = [self.records, self.copies]
        self._rng.shuffle(folders)
        for _ in range(MOST_ROUNDS):
            for folder in folders:
                process = self.sync(folder)
                process.join()
                assert process.exitcode in (0, NOT_YET), self.said.read_text()[-3000:]
            if all((record / "published.json").exists() for folder in folders for record in records_in(folder)):
                return
            time.sleep(1)
        raise AssertionError(f"something remains:\n{self.said.read_text()[-3000:]}")

    def _note(self, known: set[Path]) -> None:
        """Where the killed run was, and a copy of its record as it is now."""
        new = [path for path in self.records.iterdir() if path not in known]
        assert len(new) <= 1
        self.killed.stages[stage_of(new[0] if new else None)] += 1
        for record in new:
            if (record / "status.json").exists():
                self.killed.folders[record] = Path(shutil.copytree(record, self.before / record.name))

    def copy_some(self, count: int) -> None:
        """As a person moves the records of a host that died: as new files, with new times."""
        there = sorted(path for path in self.killed.folders if not (path / "published.json").exists())
        for record in self._rng.sample(there, min(count, len(there))):
            shutil.copytree(record, self.copies / record.name, copy_function=shutil.copyfile)


def records_in(folder: Path) -> list[Path]:
    """One without a status is none: its process ended before it wrote one."""
    return [path for path in folder.iterdir() if (path / "status.json").exists()]


def stage_of(record: Path | None) -> Stage:
    if record is None or not (record / "status.json").exists():
        return "before the record"
    if (record / "published.json").exists():
        return "after publishing"
    if read(record / "status.json")["status"] != "running":
        return "publishing"
    log = record / "artifacts/log.txt"
    if not log.exists():
        return "beginning"
    said = log.read_text()
    if "timed passes ended" in said:
        return "recording"
    return "measuring" if "warm-up pass 1" in said else "building"


def in_words(stages: Counter[Stage]) -> str:
    return ", ".join(f"{stages[stage]} {stage}" for stage in STAGES)


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def lost(before: Path, after: Path) -> list[str]:
    """What the record had when its process was killed and does not have now."""
    found = []
    for name in ("params.json", "metrics.json", "tags.json", "series.json"):
        has: Mapping[str, Any] = read(after / name)
        found += [f"{name}: {key}" for key, value in read(before / name).items() if has.get(key) != value]
    for path in (before / "artifacts").rglob("*"):
        now = after / path.relative_to(before)
        if path.is_file() and not (now.is_file() and now.read_bytes() == path.read_bytes()):
            found.append(str(path.relative_to(before)))
    status = read(before / "status.json")
    if status["status"] != "running" and read(after / "status.json") != status:
        found.append(f"status.json: {status}")
    return [f"{before.name}: {line}" for line in found]


@pytest.mark.parametrize(
    ("runs", "syncs", "publishers", "whole", "copies"),
    [
        pytest.param(3, 1, 1, 0, 1, id="short", marks=pytest.mark.long),
        pytest.param(100, 20, 10, 5, 10, id="long", marks=pytest.mark.long),
    ],
)
def test_what_a_killed_client_recorded_arrives_once(
    runs: int,
    syncs: int,
    publishers: int,
    whole: int,
    copies: int,
    server: TrackingServer,
    store: Store,
    experiment: str,
    rng: random.Random,
    tmp_path: Path,
) -> None:
    trial = Trial(tmp_path, server.uri, experiment, rng)
    killed = trial.killed
    life = trial.life(1)  # it makes the experiment and its views
    life = trial.life(5) if runs > 10 else life

    # One instant in each of equal parts of a run's life. Half of them are after the first line of its log, because
    # most of the time before that passes with an import.
    for part in rng.sample(range(runs), runs):
        since_log, part = divmod(part, (runs + 1) // 2)
        span_s = life.rest_s if since_log else life.whole_s
        while not trial.kill_a_run(span_s * (part + rng.random()) / ((runs + 1) // 2), bool(since_log)):
            part = rng.randrange((runs + 1) // 2)  # this run ended before
    lasts = f"{life.whole_s:.1f} s, of these {life.rest_s:.1f} s with a log"
    print(f"{runs} runs of {lasts}, killed: {in_words(killed.stages)}")
    forked = Counter(killed.stages)
    for _ in range(whole):
        trial.kill_a_whole_process(rng.uniform(0, 15))
    print(f"{whole} whole processes: {in_words(killed.stages - forked)}")

    for _ in range(publishers):
        trial.kill_a_publisher(life.whole_s * rng.random())
    trial.copy_some(copies)
    while killed.syncs < syncs and trial.kill_a_sync(rng.uniform(0, 2)):
        pass
    print(f"{killed.publishers} publishers, {killed.syncs} sync killed; {len(killed.folders)} records of killed runs")

    trial.sync_the_rest()
    process = trial.janitor()
    process.join()
    assert process.exitcode == 0, trial.said.read_text()[-3000:]
    assert "Traceback" not in trial.said.read_text()

    assert [line for record, before in killed.folders.items() for line in lost(before, record)] == []
    assert differences(store, experiment, [*records_in(trial.records), *records_in(trial.copies)]) == []
    assert killed.stages.total() >= runs
