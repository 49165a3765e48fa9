"""How long does `ttt-mlflow report` take for many runs, and how large is its page?

`python -m benchmarks.report_speed OUTPUT [--records N] [--store]`. The records are made here, as long as those of a GPU
run: 42 models and inner nets at 12 batches, each twice, so that the tables have 42 rows. Each command is timed as a
process, from its start to its end. With --store the runs are also published to an SQLite file, and read from there.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.table_speed import SAMPLES, cpu_name, seconds_of, timing_text
from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.names import SYSTEM_METRICS, TAG_GPU_NAME, TAG_HOST, TAG_KIND, TAG_REASONS, TAG_VERDICT, Metrics, Series
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking.publish import publish

TIMES = 5
BATCHES = [2**power for power in range(2, 14)]
MODELS = ("ttt-125m", "ttt-350m", "ttt-760m", "ttt-1b", "ttt-1.3b", "ttt-2.7b", "state-spaces/mamba-1.4b")
NETS = ("mlp_1_dual_triton", "mlp_2_dual_triton")
DTYPES = ("float16", "bfloat16", "float32")
DATA = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def make_record(folder: Path, number: int) -> Journal:
    """One record with all metrics of a run, and the time series of one GPU. One in 14 is invalid."""
    place, batch = divmod(number, len(BATCHES))
    place, net = divmod(place, len(NETS))
    place, dtype = divmod(place, len(DTYPES))
    model = MODELS[place % len(MODELS)]
    config = RunConfig(model_name=model, batch=BATCHES[batch], inner_net=NETS[net], dtype=DTYPES[dtype], seed=number)
    journal = Journal.create(folder, config.model_dump(mode="json"))
    journal.set_used(config.model_dump(mode="json"))
    journal.update_params(config.as_params())
    rate = 1e3 * BATCHES[batch] / (1 + BATCHES[batch] / 100) * (1 + number % 5 / 100)
    values: Metrics = dict.fromkeys(names.METRICS, 1 + number / 7)
    throughput = names.DECODE_TOKENS_PER_S
    values |= {throughput: rate, throughput.ci_low: 0.99 * rate, throughput.ci_high: 1.01 * rate}
    values[names.DECODE_STEP_MS_P50] = 1e3 * BATCHES[batch] / rate
    journal.update_metrics(values)
    verdict = {TAG_VERDICT: "valid"} if number % 14 else {TAG_VERDICT: "invalid", TAG_REASONS: "wide_interval"}
    journal.update_tags({TAG_KIND: config.kind, TAG_GPU_NAME: "NVIDIA H200", TAG_HOST: "gpu-3", **verdict})
    series: Series = {metric.of(0): [(i, i, 1 + i / 7) for i in range(SAMPLES)] for metric in SYSTEM_METRICS}
    journal.set_series(series)
    journal.set_status("ok", None, 0)
    return journal


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the records and the report; it must not exist")
    parser.add_argument("--records", type=int, default=1000, help="number of records (default: 1000)")
    parser.add_argument("--times", type=int, default=TIMES, help=f"how often each command is timed (default: {TIMES})")
    parser.add_argument("--store", action="store_true", help="also publish the records, and time the report of a store")
    asked = parser.parse_args(arguments)
    runs = asked.output / "runs"
    runs.mkdir(parents=True)
    records = [make_record(runs, number) for number in range(asked.records)]
    commands: list[tuple[str, ...]] = [("table", "runs", "--limit", "0")]
    commands += [("report", "runs"), ("report", "runs", "--formats", "html")]
    if asked.store:
        store = f"sqlite:///{(asked.output / 'mlflow.db').resolve()}"
        for record in records:
            publish(record, store)
        commands.append(("report", "--tracking-uri", store))
    print(f"$ python -m benchmarks.report_speed {' '.join(sys.argv[1:])}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, {cpu_name()}")
    print(f"{asked.records:,} records; the time of a process in seconds, {asked.times} times: median [least, most]")
    print(f"  {'wall time':<18}   {'CPU time':<18}   load   command")
    for command in commands:
        before = psutil.getloadavg()[0]
        wall, cpu = zip(*(seconds_of(command, asked.output) for _ in range(asked.times)), strict=True)
        told = " ".join(command).replace(str(asked.output.resolve()), "OUTPUT")
        print(f"  {timing_text(wall)}   {timing_text(cpu)}   {before:4.1f}   ttt-mlflow {told}", flush=True)
    page = (asked.output / "report/results.html").read_bytes()
    found = DATA.search(page)
    assert found is not None
    shown = len(json.loads(found[1])["runs"])
    print(f"page: {len(page) / 1e6:.2f} MB, of which {len(found[1]) / 1e6:.2f} MB are the data of {shown:,} runs")


if __name__ == "__main__":
    main()
