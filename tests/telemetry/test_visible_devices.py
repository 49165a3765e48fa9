"""CUDA_VISIBLE_DEVICES in each form, on a stand-in for a host with two kinds of GPUs: all numbers are of the GPU used.

NVML numbers all GPUs by their bus, CUDA the visible ones and the fastest first. What they agree on is the UUID.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from tests.telemetry.fake_nvml import GPU_UUID, MIG_UUID, OTHER_UUID, FakeNvml
from ttt_mlflow.app.doctor import gpu as doctor
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, identify, keep_ceilings, known_ceilings
from ttt_mlflow.run.lifecycle import open_sampler
from ttt_mlflow.run.machine import choose_device
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry import host
from ttt_mlflow.telemetry.host import host_facts

DEVICE = torch.device("cuda", 0)
SLOW, FAST = GPU_UUID, OTHER_UUID  # in the order of their buses
NAMES = {SLOW: "NVIDIA L4", FAST: "NVIDIA H200", MIG_UUID: "NVIDIA H200 MIG 1g.18gb"}
CLOCKS = {SLOW: 2040, FAST: 1980}


@dataclass
class Cuda:
    """CUDA's devices, in its order, as PyTorch has them. reported: what it says of their UUIDs, if not those."""

    uuids: Sequence[str]
    reported: Sequence[object] | None = None

    def properties(self, device: torch.device | int) -> SimpleNamespace:
        index = device if isinstance(device, int) else device.index or 0
        uuid = self.uuids[index]
        said = self.reported[index] if self.reported else uuid.removeprefix("GPU-").removeprefix("MIG-")
        facts = SimpleNamespace(name=NAMES[uuid], total_memory=10**9, multi_processor_count=58, major=9, minor=0)
        return facts if said is None else SimpleNamespace(uuid=said, **vars(facts))


def visible(text: str, order: str = "FASTEST_FIRST") -> list[str]:
    """What CUDA makes of CUDA_VISIBLE_DEVICES: its own numbers, or the beginnings of UUIDs, until one is wrong."""
    numbered = [FAST, SLOW] if order == "FASTEST_FIRST" else [SLOW, FAST]
    found: list[str] = []
    for word in map(str.strip, text.split(",")):
        if word.startswith("MIG-"):
            return [word]  # a process sees one instance
        fitting = [uuid for uuid in numbered if uuid.startswith(word)] if word.startswith("GPU-") else []
        if word.isdecimal() and int(word) < len(numbered):
            fitting = [numbered[int(word)]]
        if len(fitting) != 1 or fitting[0] in found:
            break
        found += fitting
    return found


@pytest.fixture
def nvml(nvml: FakeNvml) -> FakeNvml:
    nvml.uuids, nvml.sm_clocks = [SLOW, FAST, MIG_UUID], dict(CLOCKS)
    return nvml


def use(cuda: Cuda, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "get_device_properties", cuda.properties)
    patch.setattr(torch.cuda, "is_available", lambda: bool(cuda.uuids))
    patch.setattr(torch.cuda, "device_count", lambda: len(cuda.uuids))
    patch.setattr(torch.cuda, "is_initialized", lambda: False)


def sampled(said: Console) -> tuple[str, float] | None:
    """The UUID and the SM clock of the GPU that a run would sample."""
    sampler = open_sampler(DEVICE, Reporter(said))
    if sampler is None:
        return None
    sampler._sample()
    sampler.stop()
    return sampler.uuid, float(sampler.frame()["sm_clock_mhz"].iloc[0])


@pytest.mark.parametrize(
    ("text", "order", "used"),
    [
        ("0", "FASTEST_FIRST", FAST),
        ("0", "PCI_BUS_ID", SLOW),
        ("1", "FASTEST_FIRST", SLOW),
        ("1,0", "FASTEST_FIRST", SLOW),
        ("1,0", "PCI_BUS_ID", FAST),
        (" 1 , 0 ", "FASTEST_FIRST", SLOW),
        ("1,99,0", "FASTEST_FIRST", SLOW),
        ("0,-1", "PCI_BUS_ID", SLOW),
        (FAST, "PCI_BUS_ID", FAST),
        (f"{SLOW},{FAST}", "FASTEST_FIRST", SLOW),
        (FAST[:8], "PCI_BUS_ID", FAST),
    ],
)
def test_every_number_is_of_the_gpu_used(
    text: str, order: str, used: str, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    use(Cuda(visible(text, order)), monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sampled(Console(file=io.StringIO())) == (used, CLOCKS[used])
    facts = host_facts(DEVICE)
    assert (facts["gpu_uuid"], facts["gpu_name"]) == (used.removeprefix("GPU-"), NAMES[used])
    found = doctor.find_gpus()
    assert found[0].uuid == used.removeprefix("GPU-")
    assert f"0: SM {CLOCKS[used]} of" in doctor.check_clocks(found)

    kept = GpuCeilings(1.0, 2.0, 3.0)
    assert keep_ceilings(DEVICE, kept) is None
    assert known_ceilings(DEVICE) == kept
    assert identify(DEVICE).uuid == used.removeprefix("GPU-")
    use(Cuda([FAST if used == SLOW else SLOW]), monkeypatch)
    with pytest.raises(CeilingsUnknown, match="not known"):
        known_ceilings(DEVICE)


@pytest.mark.parametrize("text", ["", "-1", "99", "GPU-ffffffff", "GPU-"])
def test_none_that_is_visible(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible(text) == []
    use(Cuda([]), monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    shown = text or "''"
    with pytest.raises(BadInput) as refused:
        choose_device("cuda", [])
    assert str(refused.value) == (
        f"device=cuda: PyTorch finds no GPU on this machine with CUDA_VISIBLE_DEVICES={shown}; use device=cpu, or name "
        "a GPU that nvidia-smi -L lists"
    )
    notices: list[str] = []
    assert choose_device(None, notices) == "cpu"
    assert notices == [f"device: no GPU found with CUDA_VISIBLE_DEVICES={shown}, measuring on the CPU"]
    assert doctor.find_gpus() == []


# MIG


def test_an_instance_is_found_by_its_own_uuid(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.divided = True
    use(Cuda(visible(MIG_UUID)), monkeypatch)
    assert sampled(Console(file=io.StringIO())) == (MIG_UUID, CLOCKS[SLOW])
    assert host_facts(DEVICE)["gpu_uuid"] == MIG_UUID.removeprefix("MIG-")


def test_an_instance_of_which_pytorch_knows_the_gpu(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's driver knows the instance."""
    nvml.divided = True
    use(Cuda([MIG_UUID], reported=[SLOW.removeprefix("GPU-")]), monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(host, "cuda_uuid", {0: MIG_UUID.removeprefix("MIG-")}.get)
    assert sampled(Console(file=io.StringIO())) == (MIG_UUID, CLOCKS[SLOW])


def test_an_instance_that_nobody_names(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings of the whole GPU would have the neighbors in them: nothing is read, and that is said."""
    nvml.divided = True
    use(Cuda([MIG_UUID], reported=[SLOW.removeprefix("GPU-")]), monkeypatch)
    said = Console(file=io.StringIO(), width=1000)
    assert sampled(said) is None
    assert isinstance(said.file, io.StringIO)
    (line,) = said.file.getvalue().splitlines()
    assert "is divided by MIG, and which of its instances this process uses is not known" in line
    assert line.endswith("set CUDA_VISIBLE_DEVICES to the UUID of one, as nvidia-smi -L lists it")
    assert nvml.open_count == 0


@pytest.mark.parametrize("reported", [None, "", "00000000-0000-0000-0000-000000000000"])
def test_a_gpu_of_which_pytorch_does_not_say_which_it_is(
    reported: str | None, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Cuda([FAST], reported=[reported]), monkeypatch)
    said = Console(file=io.StringIO(), width=1000)
    assert sampled(said) is None
    assert isinstance(said.file, io.StringIO)
    assert "are not recorded: PyTorch does not report the GPU's UUID; check the driver" in said.file.getvalue()
    assert "gpu_uuid" not in host_facts(DEVICE)
    with pytest.raises(CeilingsUnknown, match="does not report the GPU's UUID"):
        known_ceilings(DEVICE)
    (found,) = doctor.find_gpus()
    assert found.uuid == "unknown"


def test_a_count_that_is_larger_before_cuda_has_started(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch reads CUDA_VISIBLE_DEVICES itself until CUDA does, and may read it differently."""
    cuda = Cuda([SLOW])
    use(cuda, monkeypatch)
    started: list[int] = []

    def properties(device: torch.device | int) -> SimpleNamespace:
        started.append(1)
        return cuda.properties(device)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1 if started else 2)
    assert [one.uuid for one in doctor.find_gpus()] == [SLOW.removeprefix("GPU-")]
