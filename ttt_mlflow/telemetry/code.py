"""Which code this process runs: a hash that is the same wherever the package's files are the same."""

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
COMPILED = "__pycache__"
ID_LENGTH = 16


@cache
def code_id() -> str:
    """Hash of the files of this package, committed or not, as they are when a process asks first."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and COMPILED not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:ID_LENGTH]
