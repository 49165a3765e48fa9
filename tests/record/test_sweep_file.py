"""The file with a sweep's cells: what is written is read again, and anything else is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.catalog import artifact
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.sweep_file import SweepCell, SweepFile, sweep_of

CONFIG = RunConfig(batch=8192).model_dump(mode="json")
SWEEP = SweepFile(
    sweep_id="5f2a",
    cells=(
        SweepCell(key="a", config=CONFIG, state="done", run_id="3f0c", record="/runs/a", gpu="NVIDIA H200"),
        SweepCell(key="b", config=CONFIG, state="predicted_oom", reason="180 GB predicted; the GPU has 141 GB"),
        SweepCell(key="c", config=CONFIG),
    ),
)


def test_what_is_written_is_read_again() -> None:
    assert SweepFile.parse(SWEEP.text().encode(), "sweep.json") == SWEEP


def test_the_file_has_the_names_that_others_read() -> None:
    written = json.loads(SWEEP.text())
    assert list(written) == ["schema", "sweep_id", "cells"]
    assert written["schema"] == 1
    assert list(written["cells"][0]) == ["key", "config", "state", "reason", "run_id", "record", "gpu"]
    assert written["cells"][2] == {
        **dict.fromkeys(("reason", "run_id", "record", "gpu")),
        **{"key": "c", "config": CONFIG, "state": "missing"},
    }


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(SWEEP.text()) | fields).encode()


def cell(**fields: Any) -> dict[str, Any]:
    return {"key": "x", "config": {}, "state": "done", **fields}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "not what a run wrote"),
        (b"[]", "it holds no object"),
        (changed(schema=2), "schema 2; this version of ttt-mlflow reads schema 1"),
        (b"{}", "schema None"),
        (changed(sweep_id=7), "sweep_id"),
        (changed(cells=None), "cells"),
        (changed(cells=[cell(state="fine")]), r"cells.0.state"),
        (changed(cells=[cell(config=[])]), r"cells.0.config"),
        (changed(cells=[cell(run_id=5)]), r"cells.0.run_id"),
        (changed(cells=[cell(), cell()]), "several cells have the key x"),
    ],
)
def test_anything_else_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DamagedRecord, match=why) as refused:
        SweepFile.parse(data, "5f2a: sweep.json")
    assert str(refused.value).startswith("5f2a: sweep.json: ")
    assert "\n" not in str(refused.value)


def test_a_newer_version_may_have_more_fields() -> None:
    sweep = SweepFile.parse(changed(cells=[cell(host="a")], order="interleaved"), "sweep.json")
    assert sweep.cells == (SweepCell(key="x", config={}, state="done"),)


def test_a_run_has_its_sweep_as_an_artifact(tmp_path: Path) -> None:
    record = Journal.create(tmp_path, RunConfig().model_dump(mode="json"))
    assert sweep_of(LocalRun(record)) is None
    record.write_artifact(artifact("sweep.json"), SWEEP.text())
    assert sweep_of(LocalRun(record)) == SWEEP
