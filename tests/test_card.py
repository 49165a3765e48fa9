"""A GPU's ceilings from one run to the next: what PyTorch and NVML say of it is the key."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.telemetry.fake_nvml import DRIVER_NOT_LOADED, GPU_UUID, FakeNvml
from ttt_mlflow.card import card_of, keep_ceilings, known_ceilings
from ttt_mlflow.measure.ceilings import CardCeilings
from ttt_mlflow.measure.ceilings_cache import Card, CeilingsUnknown

GPU = torch.device("cuda", 0)
CEILINGS = CardCeilings(4480.0, 4270.0, 700.0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    """One H200, as PyTorch and NVML have it, and a cache of its own."""
    fake = FakeNvml()
    properties = SimpleNamespace(uuid=GPU_UUID.removeprefix("GPU-"), name="NVIDIA H200", multi_processor_count=132)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return fake


def test_kept_ceilings_are_known(nvml: FakeNvml) -> None:
    assert card_of(GPU) == Card(GPU_UUID.removeprefix("GPU-"), "580.159.04", 132, "NVIDIA H200")
    with pytest.raises(CeilingsUnknown, match="the ceilings of this NVIDIA H200 are not known"):
        known_ceilings(GPU)
    assert keep_ceilings(GPU, CEILINGS) is None
    assert known_ceilings(GPU) == CEILINGS


def test_without_a_driver_version_nothing_is_kept(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    with pytest.raises(CeilingsUnknown, match="NVML does not tell the driver's version"):
        known_ceilings(GPU)
    assert "are not kept for later runs: ceilings are kept by card and driver" in str(keep_ceilings(GPU, CEILINGS))


def test_a_folder_that_cannot_be_written(nvml: FakeNvml, tmp_path: Path) -> None:
    (tmp_path / "ttt_mlflow").write_text("in the way")
    assert str(keep_ceilings(GPU, CEILINGS)).startswith("the ceilings are not kept for later runs: ")
