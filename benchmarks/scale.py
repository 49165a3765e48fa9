"""How long do questions to a server with many runs take? `python -m benchmarks.scale OUTPUT [--runs 10000] ...`

A PostgreSQL and an MLflow server with one worker are started on this machine, and filled by a program. Each command of
ttt-mlflow is timed as a process, from its start to its end, and so is the MLflow program beside which it stands, in
turns. `sync` gets records of a small run, with --artifacts files each; the MLflow program makes the same calls for as
many records by hand: with the reading back of each file, which is how sync knows that it arrived, and without. This is
done with --beside records; the others of --records have one file each, and no program beside them.

It writes OUTPUT/scale.txt. Exit code 0 if each command ended with 0, else 1.
"""

import argparse
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import psutil
import psycopg

from benchmarks.many_runs import FIRST_MS, HOUR_MS, Store, fill
from benchmarks.table_speed import begin_record
from tests.project import environment
from tests.reliability.server import PostgreSQL, TrackingServer
from ttt_mlflow import names
from ttt_mlflow.names import TAG_HOST, TAG_KIND, TAG_VERDICT, Tags
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.tracking.artifacts import files_of
from ttt_mlflow.tracking.run_values import values_of
from ttt_mlflow.tracking.view_states import VIEWS

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "many"
TEXTS = [artifact for artifact in names.ARTIFACTS if artifact.path.endswith((".txt", ".json", ".md", ".csv"))]
TEXT = "0123456789abcde\n" * 64
SIDE = 100  # runs of each side of a comparison
# what MLflow alone takes for `table --limit 0`, and for `sync`
READ_ALL = """
import sys
from mlflow import MlflowClient
client, token, count = MlflowClient(sys.argv[1]), None, 0
ids = [client.get_experiment_by_name(sys.argv[2]).experiment_id]
while True:
    page = client.search_runs(ids, max_results=1000, page_token=token)
    count, token = count + len(page), page.token
    if not token:
        break
print(count)
"""
BY_HAND = """
import pickle, sys, tempfile
from pathlib import Path
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
uri, experiment, content, reads = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "reads"
client = MlflowClient(uri)
experiment_id = client.create_experiment(experiment)
for name, started, ended, params, points, tags, files in pickle.loads(content.read_bytes()):
    run_id = client.create_run(experiment_id, started, run_name=name).info.run_id
    metrics = [Metric(key, value, when, step) for key, when, step, value in points]
    client.log_batch(run_id, metrics[:1000 - len(params) - len(tags)], [Param(*one) for one in params.items()],
                     [RunTag(*one) for one in tags.items()])
    for path, source in files:
        client.log_artifact(run_id, source, str(Path(path).parent) if "/" in path else None)
    if reads:
        with tempfile.TemporaryDirectory() as folder:
            for path, source in files:
                assert Path(client.download_artifacts(run_id, path, folder)).read_bytes() == Path(source).read_bytes()
    client.set_terminated(run_id, "FINISHED", ended)
"""


@dataclass
class Report:
    """What is written, and whether each command ended with 0."""

    lines: list[str] = field(default_factory=list)
    whole: bool = True

    def say(self, text: str) -> None:
        self.lines.append(text)
        print(text, flush=True)

    def timed(self, what: str, command: Sequence[str], folder: Path) -> float:
        """Seconds of one process. What it says is kept only if it fails."""
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
        took = time.perf_counter() - began
        if done.returncode:
            self.whole = False
            self.say(f"  exit code {done.returncode}: {what}: {done.stderr.strip()[-500:]}")
        return took

    def say_times(self, what: str, seconds: Sequence[float]) -> None:
        spread = f"{statistics.median(seconds):7.2f} [{min(seconds):.2f}, {max(seconds):.2f}]"
        self.say(f"{spread}  {os.getloadavg()[0]:4.1f}  {what}")


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ttt_mlflow", *arguments]


def ask(report: Report, uri: str, folder: Path, runs: int, times: int) -> None:
    """The questions that 200 runs answer, those of the views, and reading all."""
    middle = FIRST_MS + (runs // 2) * HOUR_MS
    before, after = (
        f"attributes.start_time >= {middle + first * HOUR_MS} AND attributes.start_time < {middle + last * HOUR_MS}"
        for first, last in ((-SIDE, 0), (0, SIDE))
    )
    tables = {
        "table (the newest 200)": ["table"],
        "table --filter: batch 1024 and valid": [
            *("table", "--filter", "params.batch = '1024' AND tags.`ttt.verdict` = 'valid'"),
        ],
        "table --sort -tokens_per_s": ["table", "--sort", "-tokens_per_s"],
        f"compare of {SIDE} with {SIDE} runs, by filters": ["compare", before, after],
    }
    where = ["--tracking-uri", uri, "--experiment-name", EXPERIMENT]
    for what, arguments in tables.items():
        report.say_times(what, [report.timed(what, program(*arguments, *where), folder) for _ in range(times)])
    _ask_views(report, uri, times)
    everything = program("table", "--limit", "0", *where)
    by_hand = [sys.executable, "-c", READ_ALL, uri, EXPERIMENT]
    pairs = [(report.timed("all", everything, folder), report.timed("all", by_hand, folder))]
    report.say_times("table --limit 0", [ours for ours, _ in pairs])
    report.say_times("the same runs by MLflow's search_runs alone", [theirs for _, theirs in pairs])
    report.say(f"  ratio: {_median_ratio(pairs):.2f}")


def _ask_views(report: Report, uri: str, times: int) -> None:
    """What MLflow's page asks for when a saved view is opened: its newest, or highest, 100 runs."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    for view in VIEWS:
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            client.search_runs([experiment.experiment_id], view.condition, 1, 100, [f"{view.order_by} DESC"])
            seconds.append(time.perf_counter() - began)
        report.say_times(f"the runs of the view {view.name!r}", seconds)


def bring(report: Report, server: TrackingServer, folder: Path, given: argparse.Namespace) -> None:
    """``sync`` of records, beside MLflow's calls by hand; then of those that are there already."""
    pairs, reading = [], []
    rounds, artifacts = given.times, given.artifacts
    share = given.beside // rounds
    for number in range(rounds):
        root, content = folder / f"records{number}", folder / f"content{number}"
        for one in range(share):
            _make_record(root, number * share + one, artifacts)
        content.write_bytes(pickle.dumps(list(_contents(root))))
        by_hand = [sys.executable, "-c", BY_HAND, server.uri]
        commands = {
            "sync": program("sync", str(root), "--tracking-uri", server.uri),
            "read back": [*by_hand, f"read back {number}", str(content), "reads"],
            "not read back": [*by_hand, f"not read back {number}", str(content), "-"],
        }
        order = list(commands) if number % 2 else [*commands][::-1]
        took = {what: report.timed(what, commands[what], folder) for what in order}
        pairs.append((took["sync"], took["read back"]))
        reading.append((took["sync"], took["not read back"]))
    report.say_times(f"sync of {share} records with {artifacts} artifacts each", [ours for ours, _ in pairs])
    report.say_times("the same calls by hand, each file read back", [theirs for _, theirs in pairs])
    report.say_times("the same calls by hand, no file read back", [theirs for _, theirs in reading])
    report.say(f"  ratios: {_median_ratio(pairs):.2f}; without reading back {_median_ratio(reading):.2f}")
    others = folder / "records of one file"
    for one in range(share * rounds, given.records):
        _make_record(others, one, 1)
    command = program("sync", str(others), "--tracking-uri", server.uri)
    report.say_times(
        f"sync of {given.records - share * rounds} records with 1 artifact each",
        [report.timed("sync", command, folder)],
    )
    everything = folder / "all"
    everything.mkdir()
    for root in sorted(folder.glob("records*")):
        for record in root.iterdir():
            record.rename(everything / record.name)
    for what, uri in {
        "the same name": server.uri,
        "another name of the server": server.uri.replace("127.0.0.1", "localhost"),
    }.items():
        command = program("sync", str(everything), "--tracking-uri", uri)
        report.say_times(f"sync of {given.records:,} that are there, {what}", [report.timed("sync", command, folder)])


def _make_record(root: Path, number: int, artifacts: int) -> None:
    """A record as long as that of a small run on a CPU: all metrics, no series."""
    journal, config = begin_record(root, number)
    tags: Tags = {TAG_VERDICT: "valid", TAG_HOST: "here", TAG_KIND: config.kind}
    journal.update_tags(tags | {names.TAG_CONFIG_ID: config.config_id()})
    for artifact in TEXTS[: artifacts - 1]:  # the configuration is one too
        journal.write_artifact(artifact, TEXT)
    journal.set_status("ok", None, 0)


def _contents(root: Path) -> Iterator[tuple[object, ...]]:
    """Name, begin, end, parameters, points, tags and files of each record."""
    for journal in find_journals(root).journals:
        values = values_of(journal)
        points = [(point.name, point.timestamp, point.step, point.value) for point in values.points]
        started, ended = (
            int(datetime.fromisoformat(journal.status[key]).timestamp() * 1000) for key in ("started_at", "ended_at")
        )
        files = [(file.path, str(file.source)) for file in files_of(journal)]
        yield values.name, started, ended, values.params, points, values.tags, files


def _median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(ours / theirs for ours, theirs in pairs)


@contextmanager
def filled_server(folder: Path, runs: int) -> Iterator[TrackingServer]:
    with tempfile.TemporaryDirectory(prefix="ttt-postgresql-") as data:
        database = PostgreSQL(Path(data))
        server = TrackingServer(folder, database.uri)
        try:
            server.start()
            fill(Store(database.uri, EXPERIMENT, server.artifacts), runs)
            with psycopg.connect(database.uri, autocommit=True) as connection:
                connection.execute("analyze")
            yield server
        finally:
            server.kill()
            database.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--runs", type=int, default=10_000, help="in the experiment (default: 10000)")
    parser.add_argument("--records", type=int, default=1000, help="for sync (default: 1000)")
    parser.add_argument("--beside", type=int, default=150, help="of them beside MLflow's calls (default: 150)")
    parser.add_argument("--artifacts", type=int, default=8, help="of each record (default: 8)")
    parser.add_argument("--times", type=int, default=3, help="how often each is asked (default: 3)")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    report = Report()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    report.say(f"$ python -m benchmarks.scale {' '.join(sys.argv[1:])}")
    report.say(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.stdout.strip()}, Python {platform.python_version()}, "
        f"MLflow {mlflow.__version__}, {psutil.cpu_count()} CPUs"
    )
    report.say(f"{given.runs:,} runs in PostgreSQL; seconds: median [least, most], load, what")
    with tempfile.TemporaryDirectory(prefix="ttt-scale-") as name:
        folder = Path(name)
        with filled_server(folder, given.runs) as server:
            ask(report, server.uri, folder, given.runs, given.times)
            bring(report, server, folder, given)
    (given.output / "scale.txt").write_text("\n".join(report.lines) + "\n")
    return 0 if report.whole else 1


if __name__ == "__main__":
    sys.exit(main())
