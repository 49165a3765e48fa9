"""Processes that measure and publish are killed at any instant: nothing that they had recorded is lost or doubled."""

import json
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
Stage = Literal["before the record", "building", "measuring", "recording", "publishing", "after publishing"]
STAGES: tuple[Stage, ...] = (
    "before the record",
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


class Trial:
    """Runs and syncs in ``folder`` against ``uri``."""

    def __init__(self, folder: Path, uri: str, experiment: str, rng: random.Random) -> None:
        self.records, self.copies, self.before = folder / "records", folder / "copies", folder / "before"
        for made in (self.records, self.copies, self.before):
            made.mkdir()
        self.said, self._rng, self._folder = folder / "said.txt", rng, folder
        self._env = {**environment(uri), "MLFLOW_EXPERIMENT_NAME": experiment}
        self._uri, self.killed = uri, Killed()

    def run(self) -> Any:
        arguments = ["run", *(f"--{name}={value}" for name, value in ASKED.items()), f"--logdir={self.records}"]
        return start(arguments, self._folder, self._env, self.said)

    def sync(self, records: Path) -> Any:
        return start(["sync", str(records), "--tracking-uri", self._uri], self._folder, self._env, self.said)

    def janitor(self) -> Any:
        return start(["janitor", "--tracking-uri", self._uri], self._folder, self._env, self.said)

    def lifetime_s(self, make: Callable[[], Any], count: int) -> float:
        """How long such a process takes if nobody kills it."""
        took = []
        for _ in range(count):
            began = time.monotonic()
            process = make()
            process.join()
            assert process.exitcode == 0, self.said.read_text()[-3000:]
            took.append(time.monotonic() - began)
        return statistics.median(took)

    def kill_a_run(self, after_s: float) -> bool:
        """Whether the run still lived then."""
        known = set(self.records.iterdir())
        process = self.run()
        process.join(after_s)
        if process.exitcode is not None:
            return False
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it ended by itself just before
            return False
        self._note(known)
        return True

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
    said = log.read_text() if log.exists() else ""
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
        pytest.param(4, 1, 1, 0, 1, id="short"),
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
    trial.lifetime_s(trial.run, 1)  # it makes the experiment and its views
    life_s = trial.lifetime_s(trial.run, 1 if runs < 10 else 5)

    # the instants are spread over the whole life: one in each of equal parts of it
    parts = rng.sample(range(runs), runs)
    for number, part in enumerate(parts):
        while not trial.kill_a_run(life_s * (part + rng.random()) / runs):
            part = rng.randrange(runs)  # this one ended before
        if number % 10 == 9:
            life_s = statistics.median([life_s, trial.lifetime_s(trial.run, 1)])
    print(f"{runs} runs of {life_s:.2f} s killed: {in_words(killed.stages)}")
    forked = Counter(killed.stages)
    for _ in range(whole):
        trial.kill_a_whole_process(rng.uniform(0, 15))
    print(f"{whole} whole processes: {in_words(killed.stages - forked)}")

    for _ in range(publishers):
        trial.kill_a_publisher(life_s * rng.random())
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
