"""A record as one piece of data, to hand it from one host to another, and the record again, checked."""

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.journal_reader import JOURNAL_ID


def pack(journal: Journal) -> bytes:
    """All files of the record, its checksums among them, under its id."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=1) as archive:
        archive.add(journal.path, journal.journal_id)
    return data.getvalue()


def unpack(data: bytes, root: Path) -> Journal:
    """The record in ``data``, in a folder of its own in ``root``. It is there whole, or not at all.

    Raises DamagedRecord if ``data`` holds no record, or one that is not what was written.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".unpacked-", dir=root))
    try:
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
                _refuse_other_than_files(archive)
                # Python before 3.11.4 has no filters; what they refuse was looked for
                archive.extraction_filter = getattr(tarfile, "data_filter", None)
                archive.extractall(folder)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DamagedRecord(f"a record that was handed over cannot be read ({error})") from None
        (path,) = folder.iterdir() if len(os.listdir(folder)) == 1 else (folder,)
        if not JOURNAL_ID.fullmatch(path.name):
            raise DamagedRecord("what was handed over is no record")
        Journal.open(path).check()
        os.rename(path, root / path.name)
        return Journal.open(root / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_other_than_files(archive: tarfile.TarFile) -> None:
    """Raise TarError for a link, a device, or a path that leads out of the folder."""
    for member in archive:
        parts = Path(member.name).parts
        if not (member.isfile() or member.isdir()) or ".." in parts or Path(member.name).is_absolute():
            raise tarfile.TarError(f"{member.name} is no file of a record")
