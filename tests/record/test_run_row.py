"""A record as a row: each file is read once, a damaged one is named, an older one reads the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.record.conftest import SERIES, MakeJournal, without_checksums
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.record.run_row import find_records, local_row


def test_each_file_is_read_once(make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make_journal()
    (run,) = find_records(journal.path.parent)[0]
    read: list[str] = []
    once = Journal._read_json

    def noted(self: Journal, name: str) -> dict[str, Any]:
        read.append(name)
        return once(self, name)

    monkeypatch.setattr(Journal, "_read_json", noted)
    row = local_row(run)
    assert sorted(read) == ["config.json", "metrics.json", "params.json", "status.json", "tags.json"]
    assert (row.id, row.kind, row.status) == (journal.journal_id, "decode", "ok")
    assert row.started_at == LocalRun(journal).started_at


def test_series_are_read_when_asked_for(make_journal: MakeJournal) -> None:
    run = LocalRun(make_journal())
    (name, points), *_ = SERIES.items()
    assert name not in local_row(run).metrics
    assert local_row(run, with_series=True).metrics[name] == points[-1][2]


def test_a_record_of_version_0_1_has_what_its_parameters_determine(make_journal: MakeJournal) -> None:
    row = local_row(LocalRun(make_journal()))  # its tags have no ttt.kind
    assert (row.tags["ttt.kind"], row.tags["ttt.method"]) == ("decode", "1")
    assert (row.metrics["batch"], row.metrics["genlen"], row.metrics["promptlen"]) == (2, 8, 1)


def test_a_run_that_ended_early_has_the_parameters_as_given(make_journal: MakeJournal) -> None:
    journal = make_journal("error")
    (journal.path / "params.json").unlink()
    row = local_row(LocalRun(journal))
    assert row.params["batch"] == "2"
    assert row.params["use_compile"] == "auto"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("status.json", "{"),
        ("status.json", "[]"),
        ("status.json", "{}"),
        ("status.json", '{"started_at": 3, "status": "ok"}'),
        ("status.json", '{"started_at": "2026-11-28T12:00:00+00:00", "ended_at": "soon", "status": "ok"}'),
        ("status.json", '{"started_at": "2026-11-28T12:00:00+00:00", "ended_at": null, "status": "fine"}'),
        ("params.json", '{"batch": 64}'),
        ("tags.json", '{"ttt.kind": 3}'),
        ("series.json", '{"system/gpu_0_power_usage_watts": [1]}'),
        ("metrics.json", "not json"),
        ("metrics.json", '{"batch": "many"}'),
        ("params.json", "\xff"),
        ("tags.json", ""),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_a_damaged_file_is_named(older: bool, file: str, content: str, make_journal: MakeJournal) -> None:
    journal = without_checksums(make_journal()) if older else make_journal()
    (journal.path / file).write_text(content, encoding="latin-1")
    (run,) = find_records(journal.path.parent)[0]
    with pytest.raises(DamagedRecord) as refused:
        local_row(run, with_series=True)
    assert str(journal.path) in str(refused.value)
    assert file in str(refused.value)


def test_what_is_a_record(make_journal: MakeJournal, tmp_path: Path) -> None:
    older, newer = make_journal(), make_journal()
    folder = older.path.parent
    (folder / "20261128-120000-0123abcd").mkdir()  # its process ended before it wrote a status
    (folder / "notes").mkdir()
    assert {run.id for run in find_records(folder)[0]} == {older.journal_id, newer.journal_id}
    assert [run.id for run in find_records(newer.path)[0]] == [newer.journal_id]
    with pytest.raises(BadInput, match="no such folder"):
        find_records(tmp_path / "nowhere")


def test_what_the_record_has_counts_before_what_its_parameters_determine(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for file, added in (("tags.json", {"ttt.method": "7"}), ("metrics.json", {"batch": 3.0})):
        path = journal.path / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **added}))
    row = local_row(LocalRun(journal))
    assert (row.tags["ttt.method"], row.metrics["batch"]) == ("7", 3.0)
