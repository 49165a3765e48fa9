"""Grids in YAML files. What a whole grid comes out as is tested with the cells."""

from pathlib import Path

import pytest

from ttt_mlflow.app.sweep.grid_file import read_grid
from ttt_mlflow.errors import BadInput


def grid(tmp_path: Path, text: str) -> Path:
    (tmp_path / "grid.yaml").write_text(text)
    return tmp_path / "grid.yaml"


def test_numbers_are_as_they_are_written(tmp_path: Path) -> None:
    """YAML would take them for 8, 90 and a date."""
    (block,) = read_grid(grid(tmp_path, "cells: [{batch: [010, 1:30, 2026-11-30, 16], max_seconds: 1e1}]")).blocks
    assert block == {"batch": ("010", "1:30", "2026-11-30", "16"), "max_seconds": ("1e1",)}


def test_what_yaml_has_besides_numbers(tmp_path: Path) -> None:
    text = "cells: [&one {use_compile: true, dtype: null, batch: 1}, {<<: *one, batch: 2}]"
    first, second = read_grid(grid(tmp_path, text)).blocks
    assert first == {"use_compile": (True,), "dtype": ("auto",), "batch": ("1",)}
    assert second == {**first, "batch": ("2",)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cells: [{batch: 1}]\ncells: [{batch: 2}]", "cells"),
        ("cells: [{batch: 1, batch: 2}]", "batch"),
        ("defaults: {genlen: 8, genlen: 8}\ncells: [{batch: 1}]", "genlen"),
    ],
)
def test_what_is_given_twice_is_refused(text: str, name: str, tmp_path: Path) -> None:
    """Of two, YAML would take the last one, and runs would be missing."""
    with pytest.raises(BadInput, match=f"{name} is given twice in one mapping") as refused:
        read_grid(grid(tmp_path, text))
    assert len(str(refused.value).splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\x01")
    for path, why in (("missing", "cannot be read (No such file"), (".", "cannot be read ("), ("bytes", "not YAML (")):
        with pytest.raises(BadInput) as refused:
            read_grid(tmp_path / path)
        assert why in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
