"""Finds the files of a checkpoint: one safetensors file, or a folder of them, by its index if it has one."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from ttt_mlflow.errors import BadInput, on_one_line

SUFFIX, INDEX = ".safetensors", ".safetensors.index.json"
CONFIG = "config.json"
AGAIN = "download it again, or give another checkpoint"
MOST_JSON = 1 << 26  # bytes; the index of a model with 10,000 weights has 1 MB


def refusal(checkpoint: str, why: str) -> BadInput:
    """The exception for ``checkpoint``, in one line, whatever characters its path and its names have."""
    return BadInput(on_one_line(f"checkpoint={checkpoint}: {why}"))


def checkpoint_files(checkpoint: str) -> list[Path]:
    """The safetensors files of ``checkpoint``, a file, an index, or a folder.

    Where an index is, it alone says which files belong to the model. Raises BadInput for what is not there, is no plain
    file, or may not be read.
    """
    path = _found(checkpoint)
    if not path.is_dir():
        return _indexed(checkpoint, path) if path.name.endswith(INDEX) else [_plain(checkpoint, path)]
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise _unreadable(checkpoint, path, error) from None
    indexes = [name for name in names if name.endswith(INDEX)]
    if len(indexes) > 1:
        raise refusal(checkpoint, f"several indexes ({', '.join(indexes)}); give the path of one")
    if indexes:
        return _indexed(checkpoint, path / indexes[0])
    files = [_plain(checkpoint, path / name) for name in names if name.endswith(SUFFIX)]
    if not files:
        raise refusal(checkpoint, f"the folder has no *{SUFFIX} file; give another folder")
    return files


def checkpoint_config(checkpoint: str) -> dict[str, Any]:
    """The content of the ``config.json`` beside the weights; empty if there is none."""
    path = _found(checkpoint)
    file = (path if path.is_dir() else path.parent) / CONFIG
    try:
        return _json(checkpoint, file)
    except FileNotFoundError:
        return {}


def _found(checkpoint: str) -> Path:
    try:
        path = Path(checkpoint).expanduser()
        path.stat()
    except FileNotFoundError:
        raise refusal(checkpoint, "no such file or folder; give a safetensors file or a folder of them") from None
    except OSError as error:
        raise refusal(checkpoint, f"cannot be read ({error.strerror}); check its permissions") from None
    except (RuntimeError, ValueError) as error:  # no such user, a NUL
        raise refusal(checkpoint, f"no path ({error}); give a safetensors file or a folder") from None
    return path


def _plain(checkpoint: str, file: Path) -> Path:
    """``file`` if it can be opened. Anything but a plain file may block for ever."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise refusal(checkpoint, f"{file.name} is no plain file; give a safetensors file")
        with file.open("rb"):
            return file
    except OSError as error:
        raise _unreadable(checkpoint, file, error) from None


def _unreadable(checkpoint: str, file: Path, error: OSError) -> BadInput:
    return refusal(checkpoint, f"{file.name} cannot be read ({error.strerror}); check its permissions")


def _indexed(checkpoint: str, index: Path) -> list[Path]:
    """The files that the index names. Raises BadInput if it names one outside its folder, or one that is missing."""
    names = _json(checkpoint, index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise refusal(checkpoint, f"{index.name} has no weight_map from weights to files; {AGAIN}")
    files = sorted(set(names.values()))
    for name in files:
        if name != Path(name).name or name in ("", ".", ".."):
            raise refusal(checkpoint, f"{index.name} names {name!r}, which is no file beside it; {AGAIN}")
        if not (index.parent / name).exists():
            raise refusal(checkpoint, f"{index.name} names {name}, which is missing; {AGAIN}")
    return [_plain(checkpoint, index.parent / name) for name in files]


def _json(checkpoint: str, file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BadInput for anything else, and FileNotFoundError."""
    try:
        with _plain_or_missing(checkpoint, file).open("rb") as stream:
            content = stream.read(MOST_JSON + 1)
        found = json.loads(content) if len(content) <= MOST_JSON else None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(checkpoint, file, error) from None
    except (ValueError, RecursionError) as error:
        raise refusal(checkpoint, f"{file.name} is not JSON ({error}); {AGAIN}") from None
    if not isinstance(found, dict):
        raise refusal(checkpoint, f"{file.name} is no JSON object; {AGAIN}")
    return found


def _plain_or_missing(checkpoint: str, file: Path) -> Path:
    if not os.path.lexists(file):
        raise FileNotFoundError(file)
    return _plain(checkpoint, file)
