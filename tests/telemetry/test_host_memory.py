"""How much memory there can be, with and without the limit of a container."""

from pathlib import Path

import psutil

from ttt_mlflow.telemetry import host_memory
from ttt_mlflow.telemetry.host_memory import container_limits, most_memory_bytes


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_version_2_has_a_limit_in_any_group_above(tmp_path: Path) -> None:
    write(tmp_path / "memory.max", "max\n")
    write(tmp_path / "job.slice/memory.max", "4000000000\n")
    write(tmp_path / "job.slice/run/memory.max", "max\n")
    assert container_limits("0::/job.slice/run\n", tmp_path) == [4_000_000_000]


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "memory/docker/x/memory.limit_in_bytes", "2000000000\n")
    found = container_limits("4:memory:/docker/x\n3:cpuset:/\n0::/\n", tmp_path)
    assert found == [2_000_000_000, 9_223_372_036_854_771_712]


def test_a_group_that_this_namespace_does_not_show(tmp_path: Path) -> None:
    write(tmp_path / "memory.max", "3000000000\n")
    assert container_limits("0::/elsewhere/x\n", tmp_path) == [3_000_000_000]
    assert container_limits("0::/\n", tmp_path / "absent") == []


def test_the_lower_of_machine_and_container_counts(tmp_path: Path, monkeypatch) -> None:
    swap = psutil.swap_memory().total
    assert 1e8 < most_memory_bytes() <= psutil.virtual_memory().total + swap
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)
    assert most_memory_bytes() == psutil.virtual_memory().total + swap
    monkeypatch.setattr(host_memory, "container_limits", lambda text, root: [1000])
    assert most_memory_bytes() == 1000 + swap
