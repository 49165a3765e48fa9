"""Pinning this process: tried in processes of their own, because it cannot be taken back."""

import ctypes
import json
import os
import subprocess
import sys

import pytest

from tests.project import environment
from ttt_mlflow.telemetry import pinning
from ttt_mlflow.telemetry.host_shares import HostShare

PROGRAM = """
import json, os, sys, threading
from ttt_mlflow.telemetry.host_shares import HostShare
from ttt_mlflow.telemetry.pinning import pin, pinned_facts
pin(HostShare.of_json(json.loads(sys.argv[1])))
found = []
thread = threading.Thread(target=lambda: found.append(sorted(os.sched_getaffinity(0))))
thread.start()
thread.join()
policy = open("/proc/self/numa_maps").read().split("\\n")[0] if os.path.exists("/proc/self/numa_maps") else ""
print(json.dumps({"thread": found[0], "facts": pinned_facts(), "policy": policy}))
"""
CORE = min(os.sched_getaffinity(0))


def pinned(share: HostShare) -> dict[str, object]:
    command = [sys.executable, "-c", PROGRAM, json.dumps(share.as_json())]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_a_process_and_its_threads_stay_on_their_cores() -> None:
    found = pinned(HostShare(3, (CORE,), 0))
    assert found["thread"] == [CORE]
    facts = found["facts"]
    assert isinstance(facts, dict)
    assert (facts["host_threads"], facts["pinned_cores"], facts["numa_node"]) == (3, str(CORE), 0)
    if facts["numa_memory"] == "preferred":
        assert "prefer" in str(found["policy"]) or not found["policy"]
    else:  # as in many containers
        assert str(facts["numa_memory"]).startswith("first touch (")


def test_what_is_not_pinned_is_said() -> None:
    whole = sorted(os.sched_getaffinity(0))
    found = pinned(HostShare(3))
    assert (found["thread"], found["facts"]) == (whole, {"host_threads": 3, "pinned_cores": "none"})
    assert pinned(HostShare(None))["facts"] == {"pinned_cores": "none"}
    found = pinned(HostShare(3, why_not="nobody knows"))
    assert found["facts"] == {"host_threads": 3, "pinned_cores": "none: nobody knows"}


def test_cores_that_do_not_exist() -> None:
    found = pinned(HostShare(3, (8000,), 0))
    assert found["thread"] == sorted(os.sched_getaffinity(0))
    assert found["facts"] == {"host_threads": 3, "pinned_cores": "none: the system refuses it (Invalid argument)"}


@pytest.mark.parametrize("node", [0, 1, 63, 64, 1000])
def test_the_node_is_a_bit_of_the_mask(node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning.platform, "machine", lambda: "x86_64")
    calls: list[tuple[int, int, int, int]] = []

    def call(
        number: ctypes.c_long, mode: ctypes.c_long, mask: ctypes.Array[ctypes.c_ulong], bits: ctypes.c_ulong
    ) -> int:
        whole = sum(word << 64 * place for place, word in enumerate(mask))
        calls.append((number.value, mode.value, whole, bits.value))
        return 0

    assert pinning.prefer_memory_of(node, call) is None
    assert calls == [(238, 1, 1 << node, 1024)]


def test_a_system_that_refuses_memory_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(ctypes, "get_errno", lambda: 1)
    assert pinning.prefer_memory_of(0, lambda *_: -1) == "Operation not permitted"
    monkeypatch.setattr(pinning.platform, "machine", lambda: "riscv64")
    assert pinning.prefer_memory_of(0) == "no system call known for riscv64"
