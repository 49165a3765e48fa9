"""Ceilings are kept by card and driver, and a damaged file is a reason, never a number."""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.telemetry.fake_nvml import DRIVER_NOT_LOADED, GPU_UUID, FakeNvml
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import (
    CeilingsUnknown,
    GpuIdentity,
    cache_folder,
    identify,
    keep_ceilings,
    known_ceilings,
    load,
    store,
)

GPU = torch.device("cuda", 0)
CARD = GpuIdentity("6d3b1f3a-0000-4000-8000-5a5a5a5a5a5a", "580.159.04", 132, "NVIDIA H200")
CEILINGS = GpuCeilings(read_gb_per_s=4480.0, copy_gb_per_s=4270.0, matmul_tflops=700.5)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    path = store(CARD, CEILINGS)
    assert path.is_relative_to(tmp_path / "ttt_mlflow")
    assert load(CARD) == CEILINGS
    record = json.loads(path.read_text())
    assert record["card"]["name"] == "NVIDIA H200"
    assert record["measured_at"].startswith("20")
    newer = GpuCeilings(4490.0, 4271.0, 701.0)
    store(CARD, newer)
    assert load(CARD) == newer
    assert list(path.parent.iterdir()) == [path], "nothing unfinished is left"


@pytest.mark.parametrize(
    "other",
    [
        GpuIdentity("7d3b1f3a-0000-4000-8000-5a5a5a5a5a5a", CARD.driver, 132, CARD.name),
        GpuIdentity(CARD.uuid, "590.1", 132, CARD.name),
        GpuIdentity(CARD.uuid, CARD.driver, 16, CARD.name),
    ],
    ids=["card", "driver", "MIG instance"],
)
def test_another_cards_ceilings_are_not_used(other: GpuIdentity) -> None:
    store(CARD, CEILINGS)
    with pytest.raises(CeilingsUnknown, match="not known; `ttt-mlflow doctor --measure` measures them"):
        load(other)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"ceilings": 3}',
        '{"ceilings": {"read_gb_per_s": 4480}}',
        '{"ceilings": {"read_gb_per_s": "fast", "copy_gb_per_s": 1, "matmul_tflops": 1}}',
        '{"ceilings": {"read_gb_per_s": 0, "copy_gb_per_s": 1, "matmul_tflops": 1}}',
        '{"ceilings": {"read_gb_per_s": NaN, "copy_gb_per_s": 1, "matmul_tflops": 1}}',
    ],
)
def test_a_damaged_file_is_ignored_with_a_word_and_replaced(content: str) -> None:
    path = store(CARD, CEILINGS)
    path.write_text(content)
    with pytest.raises(
        CeilingsUnknown, match=r"is ignored; `ttt-mlflow doctor --measure` measures them again"
    ) as raised:
        load(CARD)
    assert str(path) in str(raised.value)
    store(CARD, CEILINGS)
    assert load(CARD) == CEILINGS


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ttt_mlflow").write_text("a file where a folder belongs")
    with pytest.raises(OSError, match="ttt_mlflow"):
        store(CARD, CEILINGS)


def test_a_failed_write_leaves_the_old_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(CARD, CEILINGS)

    def replace(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match="no space left"):
        store(CARD, GpuCeilings(1.0, 1.0, 1.0))
    assert load(CARD) == CEILINGS
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("named", ["", "relative/folder"])
def test_the_folder_without_an_absolute_xdg_cache_home(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/ttt_mlflow")


# Of the GPU that PyTorch and NVML see


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    """One H200, as PyTorch and NVML have it, and a cache of its own."""
    fake = FakeNvml()
    properties = SimpleNamespace(uuid=GPU_UUID.removeprefix("GPU-"), name="NVIDIA H200", multi_processor_count=132)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # also on a machine with a GPU
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return fake


def test_kept_ceilings_are_known(nvml: FakeNvml) -> None:
    assert identify(GPU) == GpuIdentity(GPU_UUID.removeprefix("GPU-"), "580.159.04", 132, "NVIDIA H200")
    with pytest.raises(CeilingsUnknown, match="the ceilings of this NVIDIA H200 are not known"):
        known_ceilings(GPU)
    assert keep_ceilings(GPU, CEILINGS) is None
    assert known_ceilings(GPU) == CEILINGS


def test_without_a_driver_version_nothing_is_kept(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    with pytest.raises(CeilingsUnknown, match="NVML does not report the driver's version"):
        known_ceilings(GPU)
    assert "are not kept for later runs: ceilings are kept by GPU and driver" in str(keep_ceilings(GPU, CEILINGS))


def test_a_folder_that_cannot_be_written(nvml: FakeNvml, tmp_path: Path) -> None:
    (tmp_path / "ttt_mlflow").write_text("in the way")
    assert keep_ceilings(GPU, CEILINGS) == (
        f"the ceilings are not kept for later runs: {tmp_path}/ttt_mlflow/ceilings: Not a directory; set "
        "XDG_CACHE_HOME to a folder that can be written to"
    )


def test_no_home_and_no_folder_for_temporary_files(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nobody/may/write"])
    with pytest.raises(CeilingsUnknown, match="`ttt-mlflow doctor --measure` measures them"):
        known_ceilings(GPU)
    assert "No usable temporary directory" in str(message := keep_ceilings(GPU, CEILINGS))
    assert str(message).endswith("; set XDG_CACHE_HOME to a folder that can be written to")
