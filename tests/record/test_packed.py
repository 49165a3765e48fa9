"""A record that is handed from one host to another: it arrives whole, or not at all."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.record.conftest import MakeJournal
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.packed import pack, unpack


def test_it_arrives_whole(make_journal: MakeJournal, tmp_path: Path) -> None:
    journal = make_journal()
    copy = unpack(pack(journal), tmp_path / "elsewhere")
    assert copy.path == tmp_path / "elsewhere" / journal.journal_id
    assert copy.faults() == []
    assert copy.metrics == journal.metrics
    assert list((tmp_path / "elsewhere").iterdir()) == [copy.path]


def test_what_was_changed_on_the_way_is_refused(make_journal: MakeJournal, tmp_path: Path) -> None:
    journal = make_journal()
    data = pack(journal)
    (journal.path / "metrics.json").write_text("{}")
    for wrong in (data[: len(data) // 2], b"", b"text", pack(journal), outside(), empty()):
        with pytest.raises(DamagedRecord):
            unpack(wrong, tmp_path / "elsewhere")
        assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def outside() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    return data.getvalue()


def empty() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz"):
        pass
    return data.getvalue()
