"""What `doctor --neighbors` found is kept by the set of GPUs, and found for a part of them."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from ttt_mlflow.measurement import neighbors_cache
from ttt_mlflow.measurement.neighbors_cache import NeighborChange, keep_neighbors, known_neighbors

SLOWER = NeighborChange("launch-bound", "slower", -3.14, -3.6, -2.6)
SAME = NeighborChange("power-bound", "no significant difference", 0.1, -0.1, 0.3)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ttt_mlflow/neighbors"


def test_it_is_found_for_all_and_for_some_of_the_gpus() -> None:
    assert known_neighbors(["a"]) is None
    assert keep_neighbors(["b", "a"], [SLOWER, SAME], ["GPU 1 is 1.8 % slower than the other (power-bound)"]) is None
    for asked in (["a", "b"], ["b"]):
        known = known_neighbors(asked)
        assert known is not None
        assert known.that_differ == [SLOWER]
        assert known.slower == ("GPU 1 is 1.8 % slower than the other (power-bound)",)
    assert known_neighbors(["a", "c"]) is None
    assert str(SLOWER) == "launch-bound runs are 3.1 % slower [2.6, 3.6]"
    assert str(NeighborChange("launch-bound", "slower", -3.14, None, None)) == "launch-bound runs are 3.1 % slower"


def test_the_newest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_neighbors(["a", "b", "c"], [SLOWER], [])
    text = next(neighbors_cache._folder().glob("*.json")).read_text()
    keep_neighbors(["a", "b"], [SAME], [])
    (newer,) = (path for path in neighbors_cache._folder().glob("*.json") if path.read_text() != text)
    newer.write_text(newer.read_text().replace('"measured_at": "2', '"measured_at": "3'))
    known = known_neighbors(["a"])
    assert known is not None
    assert known.changes == (SAME,)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"changes": [{"case": 1}]}', '{"changes": 3}'])
def test_a_file_that_cannot_be_read_is_ignored(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(content)
    assert known_neighbors([]) is None


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("")
    message = str(keep_neighbors(["a"], [], []))
    assert message.startswith(f"the answer is not kept for later sweeps: {folder}: File exists; set XDG_CACHE_HOME ")


def test_another_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter every folder, so that the answer of the file system is given here."""

    def refused(path: Path, *_: object, **__: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refused)
        assert known_neighbors(["a"]) is None


def test_no_home_and_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nobody/may/write"])
    assert known_neighbors(["a"]) is None
    assert "No usable temporary directory" in str(keep_neighbors(["a"], [], []))
