"""The JSON of a record: what a run wrote reads back, everything else is one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.record.conftest import MakeJournal
from tests.record.damage import CONTENTS, VALUES
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.json_files import SHAPES, parse_json, read_json

TIME = "2026-11-28T12:00:00+00:00"


def test_what_a_run_wrote_has_its_shape(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.set_target("sqlite:////nowhere/mlflow.db")
    journal.set_uploaded("1" * 32, {"config.json": "0" * 64})
    journal.set_published("sqlite:////nowhere/mlflow.db", "1" * 32, "1")
    for name in SHAPES:
        assert read_json(journal.path, name) == json.loads((journal.path / name).read_text())


def test_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_json(tmp_path, "metrics.json") == {}


@given(
    name=st.sampled_from(sorted(SHAPES)), data=CONTENTS | VALUES.map(lambda value: json.dumps({"a": value}).encode())
)
def test_everything_else_is_one_line(name: str, data: bytes) -> None:
    said, value = None, {}
    try:
        value = parse_json(data, name, SHAPES[name])
    except DamagedRecord as error:
        said = str(error)
    assert said is None or (said.startswith(f"{name}: not what a run wrote (") and "\n" not in said)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no NaN, no half of a character


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics.json", {"a": "text"}),
        ("metrics.json", {"a": True}),
        ("metrics.json", {"a": None}),
        ("metrics.json", {"a": 10**400}),
        ("params.json", {"batch": 64}),
        ("series.json", {"a": [[1, 2]]}),
        ("series.json", {"a": [["1", 2, 3.0]]}),
        ("series.json", {"a": [[1, 2, 3.0, 4]]}),
        ("series.json", {"a": [[2**70, 2, 3.0]]}),
        ("config.json", {"asked": [], "used": {}}),
        ("target.json", {"run_id": "1"}),
        ("uploaded.json", {"run_id": "1", "files": {"a": 1}}),
        ("published.json", {"tracking_uri": "x", "run_id": 1, "experiment_id": "1"}),
        ("status.json", {"status": "ok", "message": None, "started_at": TIME, "ended_at": TIME, "exit_code": 0}),
    ],
)
def test_a_wrong_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(DamagedRecord, match="not what a run wrote"):
        parse_json(json.dumps(value).encode(), name, SHAPES[name])


@pytest.mark.parametrize(
    "change",
    [{"ended_at": None}, {"started_at": "soon"}, {"started_at": "0001-01-01T00:00:00+14:00"}, {"process": {}}],
)
def test_a_status_that_cannot_be(change: dict[str, Any], make_journal: MakeJournal) -> None:
    status = make_journal().status
    parse_json(json.dumps(status).encode(), "status.json", SHAPES["status.json"])
    with pytest.raises(DamagedRecord, match="not what a run wrote"):
        parse_json(json.dumps({**status, **change}).encode(), "status.json", SHAPES["status.json"])


def test_half_a_character_is_a_question_mark() -> None:
    assert parse_json(b'{"a": "\\ud800b"}', "tags.json", SHAPES["tags.json"]) == {"a": "?b"}
