"""Nothing outside a record's folder is read or written: links, ``..`` and pipes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import catalog
from tests.record.conftest import MakeJournal
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.files import open_inside, read_inside
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.journal import Journal


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_text() == "secret"


def test_the_lock_as_a_link_truncates_nothing(make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    (journal.path / ".lock").symlink_to(outside / "secret")
    with pytest.raises(DamagedRecord, match="a link"), journal.publishing():
        pass
    assert journal.faults() == [".lock: a link; links in a record are not followed"]


def test_the_lock_may_hold_something(make_journal: MakeJournal) -> None:
    journal = make_journal()
    (journal.path / ".lock").write_text("kept")
    with journal.publishing():
        pass
    assert (journal.path / ".lock").read_text() == "kept"


@pytest.mark.parametrize("name", ["artifacts/linked.txt", "artifacts/timing/linked", "linked", "metrics.json"])
def test_a_link_is_a_fault(name: str, make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    (journal.path / name).unlink(missing_ok=True)
    (journal.path / name).symlink_to(outside / "secret")
    assert any(one.startswith(f"{name}: a link") for one in journal.faults())


def test_links_are_not_read(make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    (journal.artifacts / "linked").symlink_to(outside)
    (journal.artifacts / "file").symlink_to(outside / "secret")
    for name in ("file", "linked/secret", "linked"):
        with pytest.raises(DamagedRecord, match="a link"):
            journal.artifact_file(name)
        with pytest.raises(DamagedRecord, match="a link"):
            read_inside(journal.path, f"artifacts/{name}")
    with pytest.raises(DamagedRecord, match="a link"):
        journal.artifact_files()
    journal.seal()
    assert not any("linked" in name or "file" in name for name in journal.entered())


@pytest.mark.parametrize("place", ["artifacts", "artifacts/timing", "artifacts/timing/steps.csv"])
def test_links_are_not_written_through(place: str, make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    path = journal.path / place
    path.rename(journal.path / "moved")
    path.symlink_to(outside / "secret" if place.endswith(".csv") else outside)
    with pytest.raises(DamagedRecord, match="a link"):
        journal.write_artifact(catalog.artifact("timing/steps.csv"), "new")
    with pytest.raises(DamagedRecord, match="a link"):
        journal.artifact_path(catalog.artifact("timing/steps.csv"))


def test_its_own_files_are_not_written_through_links(make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    for name in ("target.json", "checksums.jsonl"):
        (journal.path / name).unlink(missing_ok=True)
        (journal.path / name).symlink_to(outside / "secret")
        with pytest.raises(DamagedRecord, match="a link"):
            journal.set_target("sqlite:////nowhere/mlflow.db")
        (journal.path / name).unlink()


@pytest.mark.parametrize(
    "name", ["../outside/secret", "/etc/passwd", "a/../../outside/secret", "", ".", "a//b", "a\0b"]
)
def test_names_that_lead_out_are_refused(name: str, make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    with pytest.raises(DamagedRecord, match="not inside the record"):
        journal.artifact_file(name)
    with pytest.raises(DamagedRecord, match="not inside the record"):
        open_inside(journal.path, name)


def test_names_in_the_checksums_that_lead_out_are_faults(make_journal: MakeJournal, outside: Path) -> None:
    journal = make_journal()
    path = journal.path / "checksums.jsonl"
    path.write_text(path.read_text().replace('"description.md"', '"../../outside/secret"'))
    assert any("not inside the record" in fault for fault in journal.faults())


def test_a_pipe_does_not_hold_the_reader_up(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for name in ("metrics.json", "artifacts/pipe"):
        (journal.path / name).unlink(missing_ok=True)
        os.mkfifo(journal.path / name)
        with pytest.raises(DamagedRecord, match="no regular file"):
            read_inside(journal.path, name)
    assert "metrics.json: no regular file" in journal.faults()


def test_a_record_that_is_a_link_is_the_choice_of_who_names_it(make_journal: MakeJournal, tmp_path: Path) -> None:
    journal = make_journal()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / journal.journal_id
    link.symlink_to(journal.path)
    assert Journal.open(link).faults() == []
    assert [one.path for one in find_journals(link).journals] == [link]
    found = find_journals(elsewhere)
    assert found.journals == []
    assert [str(one) for one in found.damaged] == [f"{link}: a link; name it itself to use the record that it leads to"]


def test_folders_within_folders_without_end(make_journal: MakeJournal) -> None:
    journal = make_journal()
    path = journal.artifacts
    for _ in range(60):
        path /= "deeper"
    path.mkdir(parents=True)
    assert any("more than 32 folders" in fault for fault in journal.faults())
