"""Do all runs arrive, in time, when several people measure at once? On a server with accounts and PostgreSQL.

``python -m benchmarks.team_clients OUTPUT [--runs 200] [--clients 8]`` starts both on this machine. Each client is a
user of its own with the permission EDIT, and makes one run after the other. A run is begun, measured in a moment on the
CPU, and published with its artifacts within the limits of `ttt-mlflow run`. Its process is forked from one that has
imported PyTorch: a machine for eight people has more than the two cores that eight imports would wait for.

It writes OUTPUT/team_clients.txt. Exit code 0 if each run ended with 0 and is on the server once and complete, else 1.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock

import mlflow
import psutil
from mlflow.entities import ViewType

from tests.project import QUICK
from tests.reliability.clients import start
from tests.reliability.server import PostgreSQL
from tests.team_server import Person, TeamServer, team_server
from ttt_mlflow.names import TAG_JOURNAL_ID
from ttt_mlflow.tracking.publisher import MOST_S, PATIENCE_S
from ttt_mlflow.tracking.store import DEFAULT_EXPERIMENT

ROOT = Path(__file__).resolve().parents[1]
PASSWORD_BYTES = 12
ONE_AT_A_TIME = Lock()
LOOK_S = 0.1


def exit_code(process: BaseProcess) -> int | None:
    """That of ``process``, None before its end. Whoever starts a process reads the exit codes of all others too."""
    with ONE_AT_A_TIME:
        return process.exitcode


def runs_of(team: TeamServer, person: Person, count: int, folder: Path) -> list[tuple[float, int, str]]:
    """Make ``count`` runs as ``person``, one after the other. Seconds, exit code and what was said, for each."""
    options = [f"--{name}={value}" for name, value in (QUICK | {"logdir": str(folder / "runs")}).items()]
    done = []
    folder.mkdir()
    for number in range(count):
        output = folder / f"{number}.txt"
        began = time.monotonic()
        with ONE_AT_A_TIME:
            process = start(["run", *options], folder, team.environment(person), output)
        while (code := exit_code(process)) is None:
            time.sleep(LOOK_S)
        done.append((time.monotonic() - began, code, output.read_text()))
    return done


def measured(folder: Path, runs: int, clients: int) -> tuple[list[str], bool]:
    """The lines to report, and whether all went well."""
    with tempfile.TemporaryDirectory(prefix="ttt-postgresql-") as data:
        database = PostgreSQL(Path(data))
        try:
            with team_server(folder, database.uri) as team:
                people = [team.person(f"client{number}", os.urandom(PASSWORD_BYTES).hex()) for number in range(clients)]
                for person in people:
                    team.permit(person, "EDIT")
                shares = [runs // clients + (number < runs % clients) for number in range(clients)]
                folders = [folder / person.name for person in people]
                began = time.monotonic()
                with ThreadPoolExecutor(clients) as pool:
                    done = [
                        one for each in pool.map(runs_of, [team] * clients, people, shares, folders) for one in each
                    ]
                took = time.monotonic() - began
                return report(team, runs, done, took)
        finally:
            database.stop()


def report(team: TeamServer, runs: int, done: list[tuple[float, int, str]], took: float) -> tuple[list[str], bool]:
    with team.signed_in(team.admin) as client:
        experiment = client.get_experiment_by_name(DEFAULT_EXPERIMENT)
        assert experiment is not None
        there = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=50_000)
    states = Counter(run.info.status for run in there)
    ids = {run.data.tags.get(TAG_JOURNAL_ID.name) for run in there}
    codes = Counter(code for _, code, _ in done)
    seconds = sorted(one for one, _, _ in done)
    said = Counter(line for _, _, text in done for line in text.splitlines() if line.startswith(("Warning", "Error")))
    whole = len(there) == len(ids) == runs and states == {"FINISHED": runs} and codes == {0: runs}
    lines = [
        f"{runs} runs in {took:.0f} s; exit codes: {dict(codes)}",
        f"on the server: {len(there)} runs, {len(ids)} different records, {dict(states)}",
        f"seconds a run: median {statistics.median(seconds):.1f}, longest {seconds[-1]:.1f}; the limits of its "
        f"publication are {PATIENCE_S:g} s without progress and {MOST_S:g} s in all",
        f"warnings and errors: {dict(said) or 'none'}",
        "all there, none over its limit" if whole else "NOT all there in time",
    ]
    return lines, whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ttt-team-") as folder:
        lines, whole = measured(Path(folder), given.runs, given.clients)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    head = [
        f"python -m benchmarks.team_clients {given.output} --runs {given.runs} --clients {given.clients}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip()}, Python {platform.python_version()}, "
        f"MLflow {mlflow.__version__}, {psutil.cpu_count()} CPUs, load before {load:.1f}",
        "",
    ]
    given.output.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*head, *lines]) + "\n"
    (given.output / "team_clients.txt").write_text(text)
    print(text, end="")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
