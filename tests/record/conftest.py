"""Records as runs leave them behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.catalog import artifact, metrics, series, tags
from ttt_mlflow.config import RunConfig
from ttt_mlflow.record.journal import Journal

ROOT = Path(__file__).parents[2]
CONFIG = RunConfig.parse(
    {"model_name": "ttt-125m", "inner_net": "mlp_1_dual", "batch": 2, "genlen": 8, "device": "cpu"}
)
SERIES = {"system/gpu_0_power_usage_watts": [(1_700_000_000_000 + 1000 * i, i, 600.0 + i / 7) for i in range(60)]}

MakeJournal = Callable[..., Journal]


def start_python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that can import the package, also from another folder; its output is piped."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def _own_folder_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes to the current folder and reads the environment: each test has its own."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY":
            monkeypatch.delenv(name)


def without_checksums(journal: Journal) -> Journal:
    """The record as version 0.1 would have left it."""
    (journal.path / "checksums.jsonl").unlink()
    status = json.loads((journal.path / "status.json").read_text())
    del status["checksums"]
    (journal.path / "status.json").write_text(json.dumps(status))
    return journal


@pytest.fixture
def make_journal(tmp_path: Path) -> MakeJournal:
    """A journal as a run leaves it behind."""

    def make(status: str = "ok", message: str | None = None, root: Path = tmp_path / "runs") -> Journal:
        journal = Journal.create(root, CONFIG.model_dump(mode="json"))
        journal.set_used({**CONFIG.model_dump(mode="json"), "dtype": "float32"})
        journal.update_params(CONFIG.as_params())
        journal.update_metrics(metrics({"decode_tokens_per_s": 1234.5, "decode_step_ms_p50": 1 / 3}))
        journal.update_tags(tags({"ttt.host": "somewhere", "ttt.config_id": CONFIG.config_id()}))
        journal.set_series(series(SERIES))
        journal.set_description("# a run")
        journal.write_artifact(artifact("timing/steps.csv"), "repeat,step,ms\n0,0,1.5\n")
        journal.write_artifact(artifact("environment/packages.txt"), "torch==2\n")
        if status != "running":
            journal.set_status(status, message, exit_code=0)
        return journal

    return make
