"""How long does `ttt-mlflow table` take for many records? `python -m benchmarks.table_speed OUTPUT [--records N]`.

The records are made here, as long as those of a GPU run; half of them have no tag for the kind of a run, as in version
0.1. Each command is timed as a process, from its start to its end. The load is the machine's before the command: with
more processes than cores, the CPU time says what a quiet machine would need.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.names import SYSTEM_METRICS, TAG_GPU_NAME, TAG_HOST, TAG_KIND, TAG_VERDICT, Metrics, Series, Tags
from ttt_mlflow.record.journal import Journal

SAMPLES = 600  # of each time series: a minute at ten samples a second
ROOT = Path(__file__).resolve().parents[1]
TIMES = 5
COMMANDS: dict[str, Sequence[str]] = {
    "ttt-mlflow --help": ("--help",),
    "ttt-mlflow table": ("table", "."),
    "ttt-mlflow table --limit 0": ("table", ".", "--limit", "0"),
    "ttt-mlflow table --limit 0 --sort -throughput --format json": (
        *("table", ".", "--limit", "0", "--sort", "-throughput", "--format", "json"),
    ),
    "ttt-mlflow table --limit 0 --filter \"params.batch = '8'\"": (
        *("table", ".", "--limit", "0", "--filter", "params.batch = '8'"),
    ),
}


def begin_record(folder: Path, number: int) -> tuple[Journal, RunConfig]:
    """A record with the parameters and all metrics of a run."""
    config = RunConfig(model_name="ttt-1b", batch=2 ** (number % 12), inner_net="mlp_1_dual_triton", seed=number)
    journal = Journal.create(folder, config.model_dump(mode="json"))
    journal.set_used(config.model_dump(mode="json"))
    journal.update_params(config.as_params())
    values: Metrics = dict.fromkeys(names.METRICS, 1 + number / 7)
    journal.update_metrics(values)
    return journal, config


def make_record(folder: Path, number: int) -> None:
    """One record with all metrics of a run, and the time series of one GPU."""
    journal, config = begin_record(folder, number)
    tags: Tags = {TAG_VERDICT: "valid", TAG_GPU_NAME: "NVIDIA H200", TAG_HOST: "gpu-3"}
    journal.update_tags(tags | ({TAG_KIND: config.kind} if number % 2 else {}))
    series: Series = {metric.of(0): [(i, i, 1 + i / 7) for i in range(SAMPLES)] for metric in SYSTEM_METRICS}
    journal.set_series(series)
    journal.set_status("ok", None, 0)


def seconds_of(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Wall time and CPU time of one process. Raises CalledProcessError if the command fails."""
    start, used = time.perf_counter(), _cpu_seconds_of_children()
    command = [sys.executable, "-m", "ttt_mlflow", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
    }  # a relative path would not reach this checkout from ``folder``
    subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - start, _cpu_seconds_of_children() - used


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the records; it must not exist")
    parser.add_argument("--records", type=int, default=1000, help="number of records (default: 1000)")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True)
    for number in range(asked.records):
        make_record(asked.output, number)
    print(f"$ python -m benchmarks.table_speed {asked.output} --records {asked.records}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, {cpu_name()}")
    print(f"{asked.records:,} records; the time of a process in seconds, {TIMES} times: median [least, most]")
    print(f"  {'wall time':<18}   {'CPU time':<18}   load   command")
    for label, arguments in COMMANDS.items():
        before = psutil.getloadavg()[0]
        wall, cpu = zip(*(seconds_of(arguments, asked.output) for _ in range(TIMES)), strict=True)
        print(f"  {timing_text(wall)}   {timing_text(cpu)}   {before:4.1f}   {label}", flush=True)


def timing_text(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):5.2f} [{min(seconds):4.2f}, {max(seconds):4.2f}]"


def cpu_name() -> str:
    """The name of the CPU, as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "a CPU without a name"


if __name__ == "__main__":
    main()
