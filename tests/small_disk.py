"""A real file system of a few MB, and a way to fill it."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MB = 1 << 20


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes in ``folder``. The test is skipped where this user may not make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    # in namespaces of its own, whose files are seen from here through /proc
    script = '"$@" && echo ready && exec sleep infinity'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *mount]
    try:
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("a small file system needs root, or unshare of util-linux")
    try:
        assert holder.stdout
        assert holder.stderr
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"a small file system cannot be mounted here: {holder.stderr.read().strip()}")
        yield Path(f"/proc/{holder.pid}/root{folder}")
    finally:
        holder.kill()
        holder.communicate()


def fill(disk: Path) -> None:
    """Write until the disk is full, to the last byte."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for chunk in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(chunk))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def empty(disk: Path) -> None:
    """Give the space back."""
    (disk / "filler").unlink()
