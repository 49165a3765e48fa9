"""Many records of a few real measurements: each with its own id, long series and artifacts that are hard to send."""

import random
from collections.abc import Sequence
from pathlib import Path

from tests.catalog import artifact, metrics, series, tags
from tests.project import QUICK
from tests.runs import measured_in
from ttt_mlflow.record.journal import Journal

POINTS = 300
LARGE_BYTES = (1_050_000, 1_600_000)
# what a record may contain: empty, one byte, other alphabets, signs that mean something in an address
SMALL = {
    "extra/empty.bin": 0,
    "extra/one.bin": 1,
    "extra/größe β 数.bin": 4_097,
    "extra/a+b & c=d;e,f.bin": 65_537,
    "extra/deep/er/and/deeper/trace.json.gz": 20_000,
}
CONFIGURATIONS = (
    QUICK,
    {**QUICK, "genlen": "4", "batch": "1"},
    {**QUICK, "mode": "prefill", "promptlen": "8"},
)


def measured(folder: Path) -> list[Journal]:
    """Measured here, on the CPU."""
    return [measured_in(folder, dict(asked)).journal for asked in CONFIGURATIONS]


def multiplied(originals: Sequence[Journal], folder: Path, count: int, rng: random.Random) -> list[Path]:
    """``count`` records in ``folder``, written by the record's own means, with what ``originals`` measured."""
    return [_again(originals[number % len(originals)], folder, number, rng) for number in range(count)]


def _again(original: Journal, folder: Path, number: int, rng: random.Random) -> Path:
    config = original.config
    journal = Journal.create(folder, config["asked"], config["entry_point"])
    journal.set_used(config["used"])
    journal.update_params(original.params)
    journal.update_metrics(metrics(original.metrics))
    own = {"ttt.journal_id": journal.journal_id, "ttt.test_number": str(number)}
    journal.update_tags(tags(original.tags | own))
    start = 1_790_000_000_000 + 1_000_000 * number
    journal.set_series(
        series(
            original.series
            | {
                name: [(start + 100 * step, step, rng.uniform(-1e6, 1e6)) for step in range(POINTS)]
                for name in ("system/gpu_0_power_usage_watts", "system/gpu_0_temperature")
            }
        )
    )
    journal.set_description(f"{original.description}\n\nnumber {number}, größe β 数\n")
    for path in sorted(original.artifacts.rglob("*")):
        if path.is_file():
            journal.write_artifact(artifact(str(path.relative_to(original.artifacts))), path.read_bytes())
    sizes = SMALL | {"extra/large.bin": rng.randint(*LARGE_BYTES)}
    for name, size in sizes.items():
        journal.write_artifact(artifact(name), rng.randbytes(size))
    status, message = [("ok", None), ("ok", None), ("error", "of a test"), ("oom", "of a test, größe β")][number % 4]
    journal.update_tags(tags({"ttt.status": status} | ({"ttt.message": message} if message else {})))
    journal.set_status(status, message, exit_code=0)
    return journal.path
