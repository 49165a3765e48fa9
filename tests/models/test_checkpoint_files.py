"""Which files belong to a checkpoint, and what cannot be one: right, or one line."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.project import ROOT, environment
from ttt_mlflow.errors import BadInput, on_one_line
from ttt_mlflow.models.checkpoint_files import AGAIN, checkpoint_config, checkpoint_files

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, and a file of something else."""
    for name in ("model-1.safetensors", "model-2.safetensors", "optimizer.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def index_of(folder: Path, *names: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{number}": name for number, name in enumerate(names)}}))


def names_of(checkpoint: Path) -> list[str]:
    return [file.name for file in checkpoint_files(str(checkpoint))]


def refusal(checkpoint: Path | str) -> str:
    with pytest.raises(BadInput) as refused:
        checkpoint_files(str(checkpoint))
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    start = f"checkpoint={on_one_line(checkpoint)}: "
    assert message.startswith(start)
    return message.removeprefix(start)


def test_without_an_index_all_files_count(folder: Path) -> None:
    assert names_of(folder) == ["model-1.safetensors", "model-2.safetensors", "optimizer.safetensors"]
    assert names_of(folder / "model-2.safetensors") == ["model-2.safetensors"]


def test_an_index_alone_says_which_files_belong(folder: Path) -> None:
    index_of(folder, "model-2.safetensors", "model-1.safetensors", "model-2.safetensors")
    assert names_of(folder) == ["model-1.safetensors", "model-2.safetensors"]
    assert names_of(folder / INDEX) == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model-3.safetensors"], "names model-3.safetensors, which is missing"),
        (["../model-1.safetensors"], "names '../model-1.safetensors', which is no file beside it"),
        (["/etc/passwd"], "names '/etc/passwd', which is no file beside it"),
        ([".."], "names '..', which is no file beside it"),
        ([7], "has no weight_map from weights to files"),
        ([], "has no weight_map from weights to files"),
    ],
)
def test_an_index_that_cannot_be_followed(names: list[object], said: str, folder: Path) -> None:
    index_of(folder, *names)
    assert refusal(folder) == f"{INDEX} {said}; {AGAIN}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"[1]", "is no JSON object"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_an_index_that_is_none(content: bytes, said: str, folder: Path) -> None:
    (folder / INDEX).write_bytes(content)
    assert refusal(folder).startswith(f"{INDEX} {said}")


def test_two_indexes(folder: Path) -> None:
    index_of(folder, "model-1.safetensors")
    (folder / f"old.{INDEX}").write_text("{}")
    assert refusal(folder) == f"several indexes ({INDEX}, old.{INDEX}); give the path of one"


def test_what_is_no_plain_file_does_not_block(tmp_path: Path) -> None:
    pipe, door = tmp_path / "pipe.safetensors", tmp_path / "door.safetensors"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(door))
        for path in (pipe, door, Path("/dev/null")):
            assert refusal(path) == f"{path.name} is no plain file; give a safetensors file"
    door.unlink()
    assert refusal(tmp_path) == "pipe.safetensors is no plain file; give a safetensors file"
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadInput, match=r"config\.json is no plain file"):
        checkpoint_config(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x" * 300, "cannot be read (File name too long)"),
        ("a\0b", "no path (embedded null byte)"),
        ("~no-such-user-here/model.safetensors", "no path (Could not determine home directory.)"),
    ],
)
def test_what_is_no_path(path: str, said: str) -> None:
    assert refusal(path).startswith(said)


def test_what_may_not_be_read(folder: Path) -> None:
    """In a process without root's right to read everything."""
    program = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "[libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)]\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1], *sys.argv[2:]])"
    )
    inner = (
        "import sys\nfrom ttt_mlflow.models.checkpoint_files import checkpoint_files\n"
        "from ttt_mlflow.errors import BadInput\n"
        "for path in sys.argv[1:]:\n"
        "    try: checkpoint_files(path)\n"
        "    except BadInput as refused: print(refused)"
    )
    locked, file = folder / "locked", folder / "model-1.safetensors"
    locked.mkdir()
    (locked / "model.safetensors").write_bytes(b"x")
    locked.chmod(0)
    file.chmod(0)
    try:
        paths = [str(locked), str(locked / "model.safetensors"), str(file)]
        done = subprocess.run(
            [sys.executable, "-c", program, inner, *paths], env=environment(), cwd=ROOT, capture_output=True, text=True
        )
    finally:
        locked.chmod(0o700)
    said = ["locked cannot be read", "cannot be read", "model-1.safetensors cannot be read"]
    denied = "(Permission denied); check its permissions"
    expected = [f"checkpoint={path}: {text} {denied}" for path, text in zip(paths, said, strict=True)]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.properties
@given(
    content=st.one_of(
        st.binary(max_size=64),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_index_is_followed_or_refused_in_one_line(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / INDEX).write_bytes(content)
    try:
        files = checkpoint_files(str(folder))
    except BadInput as refused:
        lines = str(refused).splitlines()
        assert len(lines) == 1
    else:
        assert all(file.parent == folder for file in files)
