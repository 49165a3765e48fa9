import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow.utils.git_utils import get_git_commit, get_git_repo_url

from tests.telemetry.fake_nvml import DRIVER_NOT_LOADED, GPU_UUID, FakeNvml
from ttt_mlflow.telemetry import host
from ttt_mlflow.telemetry.host import device_uuid, host_facts, package_list

TORCH_UUID = GPU_UUID.removeprefix("GPU-")


def test_facts_of_this_host(nvml: FakeNvml) -> None:
    facts = json.loads(json.dumps(host_facts(torch.device("cpu"))))
    assert facts["torch"] == torch.__version__
    assert (facts["driver"], facts["cuda_driver"]) == ("580.159.04", "13.1")
    assert facts["cpu_cores"] >= 1
    assert facts["cpu_load_1min"] >= 0
    assert facts["host_memory_gb"] > facts["host_memory_free_gb"] > 0
    assert facts["host_swap_used_gb"] >= 0
    for name in ("hostname", "cpu_model", "kernel", "python"):
        assert facts[name]
    assert None not in facts.values()
    assert not [name for name in facts if name.startswith("gpu_")]


def test_facts_of_a_gpu(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(
        name="NVIDIA H200", uuid=TORCH_UUID, total_memory=150_000_000_000, multi_processor_count=132
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # also on a machine with a GPU
    device = torch.device("cuda", 0)
    facts = host_facts(device)
    assert facts["gpu_name"] == "NVIDIA H200"
    assert facts["gpu_uuid"] == device_uuid(device) == TORCH_UUID
    assert facts["gpu_memory_gb"] == 150
    assert facts["gpu_multiprocessors"] == 132
    assert facts["gpu_power_limit_w"] == 700
    nvml.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    assert "gpu_power_limit_w" not in host_facts(device)


def test_environment_variables_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "s3cr3t-value")
    recorded = json.dumps(host_facts()) + package_list()
    assert "s3cr3t-value" not in recorded
    assert "SOME_SERVICE_TOKEN" not in recorded


def test_packages_are_pinned_lines_in_order() -> None:
    lines = package_list().splitlines()
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert {"torch", "pandas", "scipy"} <= set(names)
    assert all(line.count("==") == 1 for line in lines)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with a package in it, as which this package passes itself off."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # as a git hook sets them
        monkeypatch.delenv(variable, raising=False)
    package = tmp_path / "package"
    (package / "telemetry").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(host, "__file__", str(package / "telemetry" / "host.py"))
    return tmp_path


def test_commit_and_dirt(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    (checkout / "results.csv").write_text("not part of the code")
    facts = host_facts()
    assert facts["git_commit"] == git(checkout, "rev-parse", "HEAD")
    assert facts["git_dirty"] is False
    (checkout / "package" / "__init__.py").write_text("changed = True\n")
    assert host_facts()["git_dirty"] is True


@pytest.mark.parametrize(
    ("address", "recorded"),
    [
        ("https://user:token@team.example:8443/decode.git", "https://team.example:8443/decode.git"),
        ("https://team.example/decode.git", "https://team.example/decode.git"),
        ("git@team.example:group/decode.git", "git@team.example:group/decode.git"),
        ("/srv/git/decode.git", "/srv/git/decode.git"),
    ],
)
def test_branch_and_remote_are_those_that_mlflow_records(checkout: Path, address: str, recorded: str) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    git(checkout, "checkout", "-q", "-b", "faster")
    git(checkout, "remote", "add", "first", address)
    git(checkout, "remote", "add", "a-second", "/elsewhere")
    facts = host_facts()
    assert (facts["git_branch"], facts["git_repo_url"]) == ("faster", recorded)
    assert get_git_repo_url(str(checkout)) == recorded
    assert get_git_commit(str(checkout)) == facts["git_commit"]
    git(checkout, "checkout", "-q", "--detach")
    assert "git_branch" not in host_facts()


def test_a_checkout_without_a_remote(checkout: Path) -> None:
    git(checkout, "add", ".")
    assert "git_repo_url" not in host_facts()


def test_a_package_that_git_does_not_track_has_no_commit(checkout: Path) -> None:
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "first")
    facts = host_facts()
    assert "git_commit" not in facts
    assert "git_dirty" not in facts


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(checkout, "add", ".")
    monkeypatch.setenv("PATH", str(checkout / "empty"))
    assert "git_commit" not in host_facts()
