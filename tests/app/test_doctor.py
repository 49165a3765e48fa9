"""What the doctor finds on machines that lack one thing or another, and that no check costs another one anything."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from click.testing import CliRunner, Result

from tests.profilers.fake_nsys import FakeNsys
from tests.project import free_port, new_store
from tests.telemetry.fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_UUID,
    NOT_SUPPORTED,
    FakeNvml,
)
from ttt_mlflow.app.doctor import diagnosis, finding, gpu, software, store
from ttt_mlflow.app.doctor.finding import Asked, Finding, Gpu, Wrong
from ttt_mlflow.cli import cli
from ttt_mlflow.errors import BadInput, TTTError
from ttt_mlflow.measurement import ceilings as ceilings_module
from ttt_mlflow.measurement import ceilings_cache
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown
from ttt_mlflow.models.fla import package
from ttt_mlflow.models.mamba import model as mamba
from ttt_mlflow.profilers import nsys as nsys_module
from ttt_mlflow.profilers.nsys import VARIABLE

H200 = Gpu(0, "NVIDIA H200", GPU_UUID.removeprefix("GPU-"), 90, 150_754_820_096)
CHECKS = [
    *("gpu", "clocks", "others", "telemetry", "gpm", "ceilings", "triton", "mamba", "peers", "nsys"),
    *("logdir", "temp", "tracking"),
]
CEILINGS = GpuCeilings(read_gb_per_s=4480.0, copy_gb_per_s=4270.0, matmul_tflops=700.0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_gpus", lambda: [])


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "runs", f"sqlite:///{tmp_path}/mlflow.db", None)


@pytest.fixture
def whole(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    """A machine on which nothing is missing, as far as it can be played."""
    monkeypatch.setattr(gpu, "find_gpus", lambda: [H200])
    monkeypatch.setattr(software, "_run_a_kernel", lambda gpu: None)
    monkeypatch.setattr(software, "check_mamba", lambda gpus, seconds: "mamba-ssm 2 and causal-conv1d 1")
    monkeypatch.setattr(software, "check_peers", lambda: "flash-linear-attention 0.6")
    monkeypatch.setattr(ceilings_cache, "known_ceilings", lambda device: CEILINGS)
    monkeypatch.setenv(VARIABLE, str(FakeNsys(tmp_path / "nsight").path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return nvml


def wrong(check: Callable[[], str]) -> Wrong:
    with pytest.raises(Wrong) as raised:
        check()
    return raised.value


def by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# The machine as a whole


def test_a_machine_that_has_everything(whole: FakeNvml, asked: Asked) -> None:
    findings = diagnosis.diagnose(asked, seconds=60)
    assert [finding.name for finding in findings] == CHECKS
    assert {finding.name: finding.found for finding in findings if finding.state != "ok"} == {}
    assert diagnosis.exit_code(findings) == 0
    found = {name: finding.found for name, finding in by_name(findings).items()}
    assert "0: NVIDIA H200, sm_90, 150.8 GB, 6d3b1f3a-" in found["gpu"]
    assert found["clocks"] == (
        "driver 580.159.04; 0: SM 1980 of 1980 MHz, memory 3201 of 3201 MHz, power 500 of 700 W, 41 °C"
    )
    assert found["others"] == "no other process"
    assert found["ceilings"] == "0: reads 4,480 GB/s, 700 TFLOP/s"
    assert "compiles and runs on NVIDIA H200" in found["triton"]
    assert "nsys 2025.3.1" in found["nsys"]
    assert whole.open_count == 0, "NVML was let go of"
    assert not asked.logdir.exists(), "nothing is made"


def test_a_machine_without_a_gpu(no_gpu: None, asked: Asked, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    nvml.refuses["nvmlInit"] = DRIVER_NOT_LOADED
    findings = diagnosis.diagnose(asked, seconds=60)
    states = {finding.name: finding.state for finding in findings}
    assert [name for name, state in states.items() if state == "limited"][:6] == CHECKS[:6]
    assert states["triton"] == states["logdir"] == states["temp"] == states["tracking"] == "ok"
    assert diagnosis.exit_code(findings) == 1
    lost = by_name(findings)
    assert "only a CPU can be measured" in lost["gpu"].found
    assert lost["gpu"].remedy == "use a machine with an NVIDIA GPU and its driver"
    assert "roofline_ms and roofline_pct are not recorded" in lost["ceilings"].found
    assert "it needs a GPU to run" in lost["triton"].found


def test_a_check_that_hangs_or_breaks_costs_no_other(
    whole: FakeNvml, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def hang(gpus: Sequence[Gpu]) -> str:
        ended.wait()
        return "too late"

    def break_down(gpus: Sequence[Gpu]) -> str:
        raise ZeroDivisionError("no\n  reason")

    monkeypatch.setattr(gpu, "check_clocks", hang)
    monkeypatch.setattr(gpu, "check_gpm", break_down)
    found = by_name(diagnosis.diagnose(asked, seconds=5))
    ended.set()
    assert (found["clocks"].state, found["clocks"].found) == ("limited", "no answer within 5.0 s")
    assert (found["gpm"].state, found["gpm"].found) == ("limited", "ZeroDivisionError: no reason")
    assert found["others"].state == found["telemetry"].state == "ok"


def test_who_is_on_the_card_is_asked_before_a_kernel_runs(
    whole: FakeNvml, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container NVML has another number for this process, which would then be somebody else."""
    asked_by = []

    def run_a_kernel(gpu: Gpu) -> None:
        asked_by.append(whole.calls["nvmlDeviceGetComputeRunningProcesses"])

    monkeypatch.setattr(software, "_run_a_kernel", run_a_kernel)
    original = gpu.check_others

    def slowly(gpus: Sequence[Gpu]) -> str:
        threading.Event().wait(0.5)
        return original(gpus)

    monkeypatch.setattr(gpu, "check_others", slowly)
    monkeypatch.setattr(gpu, "check_clocks", lambda gpus: "not asked")
    monkeypatch.setattr(gpu, "check_gpm", lambda gpus: "not asked")
    monkeypatch.setattr(gpu, "check_telemetry", lambda gpus: "not asked")
    diagnosis.diagnose(asked, seconds=60)
    (calls,) = asked_by
    assert calls > 0


def test_gpus_that_cannot_be_asked(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_gpus() -> list[Gpu]:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(gpu, "find_gpus", find_gpus)
    found = by_name(diagnosis.diagnose(asked, seconds=60))
    assert found["gpu"].found == "RuntimeError: CUDA error: unknown error"
    assert found["logdir"].state == "ok"


def test_a_store_that_does_not_answer_in_time_is_no_store(
    whole: FakeNvml, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(store, "check_tracking", lambda asked: str(ended.wait()))
    findings = diagnosis.diagnose(asked, seconds=5)
    ended.set()
    assert by_name(findings)["tracking"] == Finding("tracking", "failed", "no answer within 5.0 s")
    assert diagnosis.exit_code(findings) == 2


def test_a_pytorch_that_does_not_load(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(diagnosis.importlib, "import_module", import_module)
    (finding,) = diagnosis.diagnose(asked, seconds=60)
    assert finding.state == "failed"
    assert "libcudart.so.13" in finding.found


@pytest.mark.parametrize(
    ("states", "code"), [(["ok", "ok"], 0), (["ok", "limited"], 1), (["failed", "limited", "ok"], 2)]
)
def test_the_exit_code_is_that_of_the_worst(states: list[finding.State], code: int) -> None:
    assert diagnosis.exit_code([Finding("x", state, "") for state in states]) == code


def test_one_line_each() -> None:
    findings = [Finding("gpu", "ok", "an H200"), Finding("tracking", "failed", "down", "start it")]
    assert diagnosis.findings_text(findings) == "ok       gpu       an H200\nfailed   tracking  down; start it"


# The GPU


def test_why_pytorch_finds_no_gpu(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert wrong(lambda: gpu.check_gpu([])).remedy == "NVML finds 1: install a PyTorch that is built for CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert wrong(lambda: gpu.check_gpu([])).remedy == (
        "NVML finds 1: the driver's CUDA 13.1 is new enough for PyTorch's CUDA 13.0; "
        "make the GPUs visible to PyTorch (CUDA_VISIBLE_DEVICES=)"
    )
    nvml.uuids.clear()
    assert wrong(lambda: gpu.check_gpu([])).remedy == "NVML finds no GPU either: use a machine with an NVIDIA GPU"


@pytest.mark.parametrize(("supported", "built_for"), [(12090, "13.0"), (12020, "13.2")])
def test_a_driver_that_is_too_old_for_pytorch(
    supported: int, built_for: str, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.cuda_version = supported
    monkeypatch.setattr(torch.version, "cuda", built_for)
    named = f"{supported // 1000}.{supported % 1000 // 10}"
    assert wrong(lambda: gpu.check_gpu([])).remedy == (
        f"NVML finds 1, but the driver supports CUDA {named} and PyTorch is built for CUDA {built_for}: "
        f"update the driver to one that supports CUDA {built_for}, "
        f"or install a PyTorch that is built for CUDA {named.partition('.')[0]}"
    )


@pytest.mark.parametrize(("supported", "built_for"), [(12020, "12.9"), (13000, "12.6"), (13000, "13.0")])
def test_a_driver_of_the_same_or_a_later_major_version_is_new_enough(
    supported: int, built_for: str, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.cuda_version = supported
    monkeypatch.setattr(torch.version, "cuda", built_for)
    assert "is new enough for" in str(wrong(lambda: gpu.check_gpu([])).remedy)


def test_a_driver_that_does_not_say_what_it_supports(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.refuses["nvmlSystemGetCudaDriverVersion_v2"] = FUNCTION_NOT_FOUND
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "check that the driver supports PyTorch's CUDA 13.0" in str(wrong(lambda: gpu.check_gpu([])).remedy)


def test_a_reading_that_the_card_refuses_is_unknown(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetPowerUsage"] = NOT_SUPPORTED
    assert "power unknown of 700 W" in gpu.check_clocks([H200])


def test_another_process_that_computes(nvml: FakeNvml) -> None:
    me = SimpleNamespace(pid=os.getpid(), usedGpuMemory=1)
    nvml.processes = [me]
    assert gpu.check_others([H200]) == "no other process"
    nvml.processes = [me, SimpleNamespace(pid=2**30, usedGpuMemory=3_000_000_000)]
    found = wrong(lambda: gpu.check_others([H200]))
    assert found.found == "GPU 0 is 97 % busy; 0: unknown process (pid 1073741824, 3.0 GB)"
    assert "wait until the GPU is idle" in str(found.remedy)


def test_another_process_that_only_holds_memory(nvml: FakeNvml) -> None:
    nvml.utilization = 0
    nvml.processes = [SimpleNamespace(pid=2**30, usedGpuMemory=None)]
    assert gpu.check_others([H200]) == ("idle; memory is held by 0: unknown process (pid 1073741824, memory unknown)")


def test_processes_that_nvml_does_not_list(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetComputeRunningProcesses"] = NOT_SUPPORTED
    assert "does not list the processes on it (Not Supported)" in wrong(lambda: gpu.check_others([H200])).found


def test_a_query_that_the_sampler_would_miss(nvml: FakeNvml) -> None:
    nvml.refuses["nvmlDeviceGetUtilizationRates"] = NOT_SUPPORTED
    assert wrong(lambda: gpu.check_telemetry([H200])).found == "NVML does not answer 0: utilization (Not Supported)"
    assert nvml.open_count == 0


def test_a_process_of_this_one_is_nobody_else(nvml: FakeNvml) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        nvml.processes = [SimpleNamespace(pid=child.pid, usedGpuMemory=1)]
        assert gpu.check_others([H200]) == "no other process"


@pytest.mark.parametrize("how", ["unsupported", "unknown"])
def test_a_card_without_gpm_is_no_fault(how: str, nvml: FakeNvml) -> None:
    if how == "unsupported":
        nvml.gpm = 0
    else:
        nvml.refuses["nvmlGpmQueryDeviceSupport"] = FUNCTION_NOT_FOUND
    assert gpu.check_gpm([H200]).startswith("not on GPU 0: ")
    assert gpu.check_telemetry([H200]) == "NVML answers every query of the sampler"


def test_ceilings_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(device: torch.device) -> GpuCeilings:
        raise CeilingsUnknown("not known; `ttt-mlflow doctor --measure` measures them")

    monkeypatch.setattr(ceilings_cache, "known_ceilings", unknown)
    assert "0: not known; `ttt-mlflow doctor --measure`" in wrong(lambda: gpu.check_ceilings([H200])).found


# The software


def test_a_triton_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    found = wrong(lambda: software.check_triton([]))
    assert found.found == f"its cache {tmp_path}/cache is not writable (Not a directory): runs on a GPU are refused"
    assert found.remedy == "set TRITON_CACHE_DIR to a writable folder"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    for home, reason in (
        (str(tmp_path / "cache"), "is not writable (Not a directory)"),
        ("~/", "is in no folder, because this user has no home folder (HOME is not set)"),
    ):
        monkeypatch.setenv("TRITON_HOME", home)
        found = wrong(lambda: software.check_triton([]))
        cache = Path(home) / ".triton/cache"
        assert found.found == f"its cache {cache} {reason}: kernels go to the temporary files"


def test_tritons_interpreter_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "kernels run on the host" in wrong(lambda: software.check_triton([])).found


def test_mamba_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba, "missing", lambda: "mamba-ssm not installed; on a machine with a GPU: pip install it")
    found = wrong(lambda: software.check_mamba([H200], 5))
    assert found.found == "mamba-ssm not installed: Mamba cannot be measured"
    assert found.remedy == "on a machine with a GPU: pip install it"


def test_mamba_that_was_built_for_another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Traceback\nImportError: undefined symbol: _ZN3c104cuda"
    monkeypatch.setattr(mamba, "missing", lambda: None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.3")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr=said))
    found = wrong(lambda: software.check_mamba([H200], 5))
    assert found.found == "mamba-ssm 2.3 and causal-conv1d 2.3 do not load: ImportError: undefined symbol: _ZN3c104cuda"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stderr=""))
    assert software.check_mamba([H200], 5) == "mamba-ssm 2.3 and causal-conv1d 2.3"


def test_peers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "missing", lambda: "flash-linear-attention not installed: pip install it")
    found = wrong(software.check_peers)
    assert found.found == "flash-linear-attention not installed: gated delta networks and RWKV-7 cannot be measured"
    assert found.remedy == "pip install it"


def test_halves_of_flash_linear_attention_that_do_not_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"flash-linear-attention": "0.6.0", "fla-core": "0.7.1"}
    monkeypatch.setattr(package, "missing", lambda: None)
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    found = wrong(software.check_peers)
    assert found.found == "flash-linear-attention 0.6.0 and fla-core 0.7.1 do not belong together"
    versions["fla-core"] = "0.6.0"
    assert software.check_peers() == "flash-linear-attention 0.6.0"


def test_no_nsys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere/nsys")
    found = wrong(lambda: software.check_nsys(30))
    assert found.found == "TTT_NSYS=/nowhere/nsys is not an executable program; set it to the path of nsys"


def test_an_nsys_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = tmp_path / "pid"
    nsys = FakeNsys(tmp_path / "nsight", answer=f"echo $$ > {noted}; exec sleep 600")
    monkeypatch.setenv(VARIABLE, str(nsys.path))
    assert "does not run (" in wrong(lambda: software.check_nsys(3)).found
    assert not psutil.pid_exists(int(noted.read_text()))


def test_an_nsys_whose_importer_lacks_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = FakeNsys(tmp_path)
    importer = nsys.path.parents[1] / "QdstrmImporter"
    importer.write_text("#!/bin/sh\n")
    monkeypatch.setenv(VARIABLE, str(nsys.path))
    monkeypatch.setattr(
        nsys_module, "_missing_libraries", lambda program: ["libdw.so.1"] if program == importer else []
    )
    found = wrong(lambda: software.check_nsys(30))
    assert found.found.endswith("its importer needs libdw.so.1 (on Debian and Ubuntu: apt-get install libdw1)")


# Where the record goes


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    found = wrong(lambda: store.check_folder(tmp_path / "runs", "records"))
    assert (found.state, found.found) == ("failed", f"{tmp_path}/runs is not writable (Not a directory)")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    found = wrong(lambda: store.check_folder(tmp_path, "records"))
    assert (found.state, found.found) == ("failed", f"{tmp_path} is not writable (No space left on device)")


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000_000))
    found = wrong(lambda: store.check_folder(tmp_path / "not" / "made", "records"))
    assert (found.state, found.found) == ("limited", f"{tmp_path}/not/made: 0.20 GB free")
    assert list(tmp_path.iterdir()) == []


def test_no_password_is_printed() -> None:
    uri = f"postgresql://me:secret@127.0.0.1:{free_port()}/mlflow"
    found = wrong(lambda: store.check_tracking(Asked(Path("runs"), uri, None)))
    assert found.state == "failed"
    assert "does not answer" in found.found
    assert "secret" not in f"{found.found} {found.remedy}"


# Measuring


def test_the_ceilings_of_each_gpu_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[torch.device, GpuCeilings]] = []
    gpus = [H200, Gpu(1, "NVIDIA H200", "another", 90, 1)]

    def measure_ceilings(device: torch.device) -> GpuCeilings:
        if device.index == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return CEILINGS

    monkeypatch.setattr(gpu, "find_gpus", lambda: gpus)
    monkeypatch.setattr(ceilings_module, "measure_ceilings", measure_ceilings)
    monkeypatch.setattr(ceilings_cache, "keep_ceilings", lambda device, found: kept.append((device, found)))
    said: list[str] = []
    with pytest.raises(TTTError, match="GPU 0: the ceilings were not measured: OutOfMemoryError: CUDA out of memory"):
        gpu.measure_gpus(said.append)
    assert kept == [(torch.device("cuda", 1), CEILINGS)], "one card's failure costs the other nothing"
    assert said == ["GPU 1 (NVIDIA H200): reads 4,480 GB/s, copies 4,270 GB/s, multiplies 700 TFLOP/s in fp16"]
    gpus.pop(0)
    assert gpu.measure_gpus(said.append)["another"]["read_gb_per_s"] == 4480.0


def test_ceilings_that_cannot_be_kept_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_gpus", lambda: [H200])
    monkeypatch.setattr(ceilings_module, "measure_ceilings", lambda device: CEILINGS)
    monkeypatch.setattr(ceilings_cache, "keep_ceilings", lambda device, found: "not kept: read-only file system")
    with pytest.raises(TTTError, match="GPU 0: not kept: read-only file system"):
        gpu.measure_gpus(lambda text: None)


def test_the_kernels_of_the_ceilings_go_where_there_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # so that what is set here is forgotten
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TRITON_HOME", "/proc/nobody/may/write")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    used: list[str] = []

    def measure_ceilings(device: torch.device) -> GpuCeilings:
        used.append(os.environ["TRITON_CACHE_DIR"])
        return CEILINGS

    monkeypatch.setattr(gpu, "find_gpus", lambda: [H200])
    monkeypatch.setattr(ceilings_module, "measure_ceilings", measure_ceilings)
    monkeypatch.setattr(ceilings_cache, "keep_ceilings", lambda device, found: None)
    said: list[str] = []
    gpu.measure_gpus(said.append)
    assert Path(*used).is_relative_to(tmp_path)
    assert said[0].startswith("Note: Triton's cache /proc/nobody/may/write/.triton/cache is not writable")


def test_no_gpu_to_measure(no_gpu: None) -> None:
    with pytest.raises(BadInput, match="measure: ceilings are measured on a GPU, but PyTorch finds none"):
        gpu.measure_gpus(lambda text: None)


# The command


def command(*options: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *options])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(diagnosis, "LEAST_SECONDS", 60)
    return ["--logdir", str(tmp_path / "runs"), "--tracking-uri", new_store(tmp_path)]


def test_the_command_prints_a_line_a_check(no_gpu: None, here: list[str]) -> None:
    result = command(*here)
    assert result.exit_code == 1, result.output
    assert [line.split()[1] for line in result.stdout.splitlines()] == CHECKS
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok", "limited"}


def test_the_command_prints_json(no_gpu: None, here: list[str]) -> None:
    result = command(*here, "--json")
    record = json.loads(result.stdout)
    assert set(record) == {"exit_code", "checks"}
    assert record["exit_code"] == result.exit_code == 1
    assert [check["name"] for check in record["checks"]] == CHECKS
    for check in record["checks"]:
        assert set(check) == {"name", "state", "found", "remedy"}
        assert check["state"] in finding.SEVERITY
        assert check["found"]


def test_the_commands_json_has_what_was_measured(
    whole: FakeNvml, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings_module, "measure_ceilings", lambda device: CEILINGS)
    monkeypatch.setattr(ceilings_cache, "keep_ceilings", lambda device, found: None)
    result = command(*here, "--json", "--measure")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ceilings"] == {H200.uuid: vars(CEILINGS)}
    assert "GPU 0 (NVIDIA H200): reads 4,480 GB/s" in result.stderr


def test_a_dead_server_cannot_record(no_gpu: None, here: list[str]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    result = command(*here[:2], "--tracking-uri", uri)
    assert result.exit_code == 2
    line, *others = [line for line in result.stdout.splitlines() if line.startswith("failed")]
    assert f"{uri}: it does not answer as an MLflow server" in line
    assert "ttt-mlflow sync" in line
    assert [other.split()[1] for other in others] == ["tls", "account", "tracking"]
    assert all(other.endswith("not asked, because the line above failed") for other in others)


def test_measuring_without_a_gpu_is_refused(no_gpu: None, here: list[str]) -> None:
    result = command(*here, "--measure")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: measure: ceilings are measured on a GPU, but PyTorch finds none")


def test_the_help_has_examples_and_exit_codes() -> None:
    text = command("--help").stdout
    assert "ttt-mlflow doctor --measure" in text
    assert "Exit code: 0 nothing is missing" in text
