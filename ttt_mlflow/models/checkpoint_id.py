"""Identifies a checkpoint by its weights, whatever the names and the number of its files."""

import hashlib
import json
from typing import BinaryIO

from ttt_mlflow.models.checkpoint_files import AGAIN, checkpoint_files, refusal

ID_LENGTH = 16
BLOCK = 1 << 24  # bytes read at a time


def checkpoint_id(checkpoint: str) -> str:
    """Hash of the weights in ``checkpoint``, a safetensors file or a folder of them: names, dtypes, shapes, values.

    The same weights in one file or in several have the same id. Raises BadInput for a file that cannot be read.
    """
    weights: dict[str, str] = {}
    for file in checkpoint_files(checkpoint):
        try:
            with file.open("rb") as stream:
                weights |= _weights(stream)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise refusal(checkpoint, f"{file.name} is not a readable safetensors file ({said}); {AGAIN}") from None
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]


def _weights(stream: BinaryIO) -> dict[str, str]:
    """Name -> dtype, shape and hash of the values. The format: 8 bytes of length, a JSON header, the values."""
    length = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(length))
    header.pop("__metadata__", None)  # says how the file was made, not what is in it
    found = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        stream.seek(8 + length + begin)
        digest, left = hashlib.sha256(), end - begin
        while left > 0:
            block = stream.read(min(left, BLOCK))
            if not block:
                raise ValueError(f"{name} is cut off")
            digest.update(block)
            left -= len(block)
        found[name] = f"{entry['dtype']} {entry['shape']} {digest.hexdigest()}"
    return found
