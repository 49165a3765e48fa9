"""Real runs that are recorded on disk and not published, in this process or in a separate one.

``python -m benchmarks.runs JSON``, with an :class:`Order`, makes one run and prints its journal's folder last.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ttt_mlflow import measure
from ttt_mlflow.errors import RunFailed, TTTError
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.process import age_s

ROOT = Path(__file__).parents[1]
SHOWN_LINES = 15  # of the output of a process that failed
FACTS = (
    "gpu_name",
    "cpu_model",
    "driver",
    "python",
    "torch",
    "triton",
    "mamba_ssm",
    "flash_linear_attention",
    "git_commit",
    "git_dirty",
)


@dataclass(frozen=True)
class Order:
    """A run to make. slowed_us: additional wait in each step of its model; None: the model without a wait."""

    logdir: str
    asked: dict[str, Any] = field(default_factory=dict)
    slowed_us: float | None = None


def record(logdir: Path, asked: Mapping[str, Any], imports_s: float = 0.0) -> Journal:
    """Measure ``asked`` in this process as `ttt-mlflow run` does, without MLflow. The record is in ``logdir``.

    Raises TTTError for a configuration that cannot be measured, and for a run that failed.
    """
    result = measure(asked, logdir=logdir, imports_s=imports_s)
    result.raise_for_failure()
    return result.record


def facts_of(journal: Journal) -> dict[str, Any]:
    """Those recorded facts about the host on which a result depends."""
    facts = json.loads((journal.artifacts / "environment/host.json").read_text())
    return {name: facts[name] for name in FACTS if name in facts}


def record_order(order: Order) -> Journal:
    """Make the run in a separate process. Raises RunFailed with the end of its output if it fails."""
    return Journal.open(last_line("benchmarks.runs", json.dumps(asdict(order))))


def last_line(module: str, *arguments: str) -> str:
    """The last line of output of ``python -m module arguments``. RunFailed has the end of the output if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        printed = "\n".join((done.stdout + done.stderr).strip().splitlines()[-SHOWN_LINES:])
        raise RunFailed(f"python -m {module} ended with code {done.returncode}:\n{printed}")
    return lines[-1]


def register_slowed(base: str, us: float) -> str:
    """Register ``base`` with a wait of ``us`` µs in each step. Returns the new name."""
    from benchmarks.spin import register_spinning

    return register_spinning(base, "slowed", lambda number: us)


def main(text: str) -> int:
    imports_s = age_s()
    order = Order(**json.loads(text))
    asked = dict(order.asked)
    try:
        if order.slowed_us is not None:
            asked["model_name"] = register_slowed(asked["model_name"], order.slowed_us)
        print(record(Path(order.logdir), asked, imports_s).path)
    except TTTError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
