"""What is reserved for a run: before it begins, and ahead of its passes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.catalog import by_name
from tests.small_disk import MB, fill, small_disk
from ttt_mlflow import names
from ttt_mlflow.app.measure import new_record
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.loop import Measurement
from ttt_mlflow.measurement.timing import StepTimes
from ttt_mlflow.micro.plan import make_plan as make_micro_plan
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import FOLDER, Room
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.run.reserve import (
    PASSES,
    PASSES_AT_START,
    SERIES,
    STEPS,
    RoomForPasses,
    own_files,
    reserve,
    sizes_at_start,
)

TINY = {"model_name": "ttt-tiny", "device": "cpu", "genlen": 5}


def reserved(record: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (record / FOLDER).iterdir()}


@pytest.mark.parametrize(
    "plan", [lambda: make_plan(RunConfig.parse(TINY)), lambda: make_micro_plan(MicroConfig.parse({"device": "cpu"}))]
)
def test_a_new_record_has_its_room(tmp_path: Path, plan: "type") -> None:
    made = plan()
    record = new_record(made, tmp_path)
    assert reserved(record.path) == made.room
    assert sum(made.room.values()) < 3 * MB


def test_a_disk_without_the_room_is_told_before_anything_is_built(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MB) as disk:
        with pytest.raises(BadInput) as refused:
            new_record(make_plan(RunConfig.parse(TINY)), disk)
        assert str(refused.value) == (
            f"logdir={disk}: no room for the numbers of a run (No space left on device); it reserves "
            f"{sum(sizes_at_start(RunConfig.parse(TINY)).values()) / 1e6:.1f} MB before it builds anything; "
            "free some space there, or choose another logdir"
        )
        assert list(disk.iterdir()) == []


def test_more_than_the_disk_has_is_told_without_filling_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example of genlen=2147483647, which would write for minutes."""
    monkeypatch.setattr(Room, "reserve", lambda room, name, size: pytest.fail("written"))
    with pytest.raises(BadInput, match=r"no room for the numbers .*\(No space left on device\); it reserves 1152"):
        reserve(Journal.create(tmp_path, {}), {STEPS: 1 << 60})
    assert not [*tmp_path.iterdir()]


def test_long_passes_have_room_for_two() -> None:
    asked = RunConfig.parse({**TINY, "genlen": 100_000})
    assert sizes_at_start(asked)[STEPS] > 200_000 * 40
    assert sizes_at_start(asked.model_copy(update={"repeats": 1}))[STEPS] < 150_000 * 48


def test_room_is_kept_ahead_of_the_passes(tmp_path: Path) -> None:
    used = RunConfig.parse(TINY)
    plan = make_plan(used)
    record, reporter = new_record(plan, tmp_path), Reporter(Console(file=io.StringIO(), width=200))
    room = RoomForPasses(record, reporter, used)
    before = reserved(record.path)
    room.keep_ahead(10, PASSES_AT_START - 11)
    assert reserved(record.path) == before
    for passes in range(PASSES_AT_START, 50_000, 1000):
        room.keep_ahead(10, passes)
        held = reserved(record.path)
        assert held[PASSES] >= needed(10, passes + 1)["passes"]
        assert held[STEPS] >= needed(10, passes + 1)["steps"]
        assert held[SERIES] >= needed(10, passes + 1)["series"]
    assert {name: size for name, size in held.items() if name in own_files()} == own_files()


def needed(warmup: int, passes: int) -> dict[str, int]:
    """The bytes of the real files, from the longest numbers."""
    one = StepTimes(np.full(5, 1 / 3 + 1e5), 1 / 3 + 1e5, 1 / 3 + 1e5, False)
    prompts = [1 / 3 + 1e5] * 20
    measurement = Measurement([one] * min(warmup, 20), repeats=[one] * 20, prefill_ms=prompts, first_token_ms=prompts)
    each = {
        "passes": json.dumps(measurement.record(1), indent=1),
        "steps": measurement.steps_frame().to_csv(index=False),
        "series": json.dumps({"pass_tokens_per_s": [[1_764_381_025_123, 12345, 1 / 3 + 1e5]] * 20}, indent=1),
    }
    return {name: len(text) * passes // 20 for name, text in each.items()}


def test_a_disk_that_is_full_by_then_is_told_once(tmp_path: Path) -> None:
    used = RunConfig.parse(TINY)
    with small_disk(tmp_path / "disk", 4 * MB) as disk:
        record, said = new_record(make_plan(used), disk), Console(file=io.StringIO(), width=1000)
        fill(disk)
        room = RoomForPasses(record, Reporter(said), used)
        for passes in (1, 100_000, 200_000):
            room.keep_ahead(0, passes)
        assert isinstance(said.file, io.StringIO)
        (line,) = said.file.getvalue().splitlines()
        assert line == (
            f"Note: no more room can be reserved in {disk} (No space left on device); the metrics are safe, but the "
            "list of the 100000 passes may be left out; free some space there"
        )
        record.update_metrics({names.DECODE_TOKENS_PER_S: 1.0})
        assert record.metrics == by_name({names.DECODE_TOKENS_PER_S: 1.0})
