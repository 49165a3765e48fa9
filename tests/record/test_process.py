"""A process is known by what no other process has, whatever happens to its pid, its name and its host."""

import os
import shutil
import subprocess
from pathlib import Path

from ttt_mlflow.record.process import Host, has_ended, start_ticks, this_process


def process_of(child: subprocess.Popen[bytes]) -> dict[str, object]:
    return {**this_process(), "pid": child.pid, "start_ticks": start_ticks(child.pid)}


def test_a_living_process_has_not_ended() -> None:
    assert has_ended(this_process()) is False


def test_a_killed_process_has_ended_before_and_after_its_parent_waits() -> None:
    child = subprocess.Popen(["sleep", "600"])
    process = process_of(child)
    assert has_ended(process) is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(process) is True, "a zombie"
    child.wait()
    assert has_ended(process) is True


def test_a_process_is_seen_whatever_bytes_its_name_has(tmp_path: Path) -> None:
    """The kernel takes any bytes for a name, which no text encoding needs to know."""
    program = os.fsencode(tmp_path) + b"/\xff) Z (\xfe"
    shutil.copy(os.fsencode(shutil.which("sleep") or ""), program)
    child = subprocess.Popen([program, "600"])
    try:
        assert has_ended(process_of(child)) is False
    finally:
        child.kill()
        child.wait()


def test_another_process_with_the_same_pid_is_another() -> None:
    assert has_ended({**this_process(), "start_ticks": 1}) is True


def test_what_is_not_seen_from_here() -> None:
    here = Host("node-1", "boot-1", "pid:[1]", lambda pid: None)
    process = {"host": "node-1", "boot_id": "boot-1", "pid_namespace": "pid:[1]", "pid": 7, "start_ticks": 9}
    assert here.has_ended(process) is True
    assert here.has_ended({**process, "pid_namespace": "pid:[2]"}) is None, "another container"
    assert here.has_ended({**process, "boot_id": "boot-0"}) is True, "an earlier boot"
    assert here.has_ended({**process, "boot_id": "boot-0", "host": "node-2"}) is None, "another host"
