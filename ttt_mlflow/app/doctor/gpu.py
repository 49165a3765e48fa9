"""Checks of the GPU."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ttt_mlflow.app.doctor.finding import Gpu, Wrong
from ttt_mlflow.errors import BadInput, TTTError

if TYPE_CHECKING:
    from ttt_mlflow.telemetry.gpu_state import GpuState

UNKNOWN = "unknown"  # in the place of a UUID: nothing can be read from NVML


def measure_gpus(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Measure and keep the ceilings of each GPU that PyTorch sees. Returns {UUID: ceilings}.

    Raises BadInput if there is no GPU or no folder for kernels, and TTTError if ceilings could not be measured or kept.
    """
    from ttt_mlflow.errors import one_line
    from ttt_mlflow.measurement.ceilings import measure_ceilings
    from ttt_mlflow.measurement.ceilings_cache import keep_ceilings
    from ttt_mlflow.run.caches import choose_kernel_cache

    measured: dict[str, dict[str, float]] = {}
    gpus = find_gpus()
    if not gpus:
        raise BadInput("measure: ceilings are measured on a GPU, but PyTorch finds none; use a machine with a GPU")
    notices: list[str] = []
    choose_kernel_cache(notices)
    for notice in notices:
        say(f"Note: {notice}")
    problems = []
    for gpu in gpus:
        try:
            ceilings = measure_ceilings(gpu.device)
        except RuntimeError as error:  # of PyTorch, including out of memory; the next GPU may succeed
            problems.append(f"GPU {gpu.index}: the ceilings were not measured: {one_line(error)}")
            continue
        measured[gpu.uuid] = asdict(ceilings)
        say(
            f"GPU {gpu.index} ({gpu.name}): reads {ceilings.read_gb_per_s:,.0f} GB/s, copies "
            f"{ceilings.copy_gb_per_s:,.0f} GB/s, multiplies {ceilings.matmul_tflops:,.0f} TFLOP/s in fp16"
        )
        if message := keep_ceilings(gpu.device, ceilings):
            problems.append(f"GPU {gpu.index}: {message}")
    if problems:
        raise TTTError("\n".join(problems))
    return measured


def find_gpus() -> list[Gpu]:
    """The GPUs that PyTorch sees, in PyTorch's order."""
    import torch

    from ttt_mlflow.telemetry.host import device_uuid
    from ttt_mlflow.telemetry.nvml import TelemetryUnavailable

    found: list[Gpu] = []
    # the count is NVML's until CUDA has started, and then CUDA's
    while torch.cuda.is_available() and (index := len(found)) < torch.cuda.device_count():
        properties = torch.cuda.get_device_properties(index)
        capability = 10 * properties.major + properties.minor
        try:
            uuid = device_uuid(torch.device("cuda", index))
        except TelemetryUnavailable:
            uuid = UNKNOWN
        found.append(Gpu(index, properties.name, uuid, capability, properties.total_memory))
    return found


def check_gpu(gpus: Sequence[Gpu]) -> str:
    import torch

    if not gpus:
        raise Wrong(f"PyTorch {torch.__version__} finds no GPU; only a CPU can be measured", _why_no_gpu())
    names = [
        f"{gpu.index}: {gpu.name}, sm_{gpu.capability}, {gpu.memory_bytes / 1e9:.1f} GB, {gpu.uuid}" for gpu in gpus
    ]
    return f"{'; '.join(names)} (PyTorch {torch.__version__})"


def _why_no_gpu() -> str:
    import torch

    from ttt_mlflow.telemetry.gpu_state import visible_to_nvml
    from ttt_mlflow.telemetry.nvml import TelemetryUnavailable, cuda_driver_version

    try:
        count = visible_to_nvml()
    except TelemetryUnavailable:
        return "use a machine with an NVIDIA GPU and its driver"
    if not count:
        return "NVML finds no GPU either: use a machine with an NVIDIA GPU"
    if torch.version.cuda is None:
        return f"NVML finds {count}: install a PyTorch that is built for CUDA"
    built_for, supported = torch.version.cuda, cuda_driver_version()
    if supported is not None and _is_too_old(supported, built_for):
        return (
            f"NVML finds {count}, but the driver supports CUDA {supported} and PyTorch is built for CUDA {built_for}: "
            f"update the driver to one that supports CUDA {built_for}, "
            f"or install a PyTorch that is built for CUDA {_major(supported)}"
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES={hidden})"
    driver = (
        f"check that the driver supports PyTorch's CUDA {built_for}"
        if supported is None
        else f"the driver's CUDA {supported} is new enough for PyTorch's CUDA {built_for}"
    )
    return f"NVML finds {count}: {driver}; make the GPUs visible to PyTorch{named}"


def _is_too_old(supported: str, built_for: str) -> bool:
    """Whether a driver that supports CUDA ``supported`` cannot run what is built for CUDA ``built_for``."""
    # Within one major version an older driver runs newer minor versions, since CUDA 11: "Minor Version Compatibility"
    # in NVIDIA's guide "CUDA Compatibility".
    return _major(supported) < _major(built_for)


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0])


def _states(gpus: Sequence[Gpu], lost: str) -> "list[tuple[Gpu, GpuState]]":
    """NVML's state of each GPU. ``lost`` names what a run does not record without it."""
    from ttt_mlflow.telemetry.gpu_state import read_gpu_state

    if not gpus:
        raise Wrong(f"no GPU: {lost} not recorded")
    return [(gpu, read_gpu_state(gpu.uuid)) for gpu in gpus]


def check_clocks(gpus: Sequence[Gpu]) -> str:
    states = _states(gpus, "clocks, power and temperature are")
    parts = [
        f"{gpu.index}: SM {_of(state.sm_clock, state.sm_clock_max)} MHz, "
        f"memory {_of(state.memory_clock, state.memory_clock_max)} MHz, "
        f"power {_of(state.power, state.power_limit)} W, {_known(state.temperature)} °C"
        for gpu, state in states
    ]
    return f"driver {states[0][1].driver}; {'; '.join(parts)}"


def _of(value: float | None, limit: float | None) -> str:
    return f"{_known(value)} of {_known(limit)}"


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def check_others(gpus: Sequence[Gpu]) -> str:
    """Other processes that compute on a GPU. A process that only holds memory is named, but is not a fault."""
    from ttt_mlflow.telemetry.neighbors import BUSY_PCT
    from ttt_mlflow.telemetry.processes import is_related

    named, busy = [], []
    for gpu, state in _states(gpus, "the other processes on a GPU are"):
        if state.processes is None:
            raise Wrong(f"{gpu.index}: NVML does not list the processes on it ({state.refused['processes']})")
        others = [process for process in state.processes if not is_related(process.pid)]
        texts = [
            f"{other.name or 'unknown process'} (pid {other.pid}, {_gigabytes(other.memory_bytes)})" for other in others
        ]
        named += [f"{gpu.index}: {text}" for text in texts]
        if others and (state.utilization or 0) > BUSY_PCT:
            busy.append(f"GPU {gpu.index} is {state.utilization} % busy")
    if busy:
        raise Wrong(f"{'; '.join([*busy, *named])}", "wait until the GPU is idle: a shared GPU cannot be measured")
    return f"idle; memory is held by {'; '.join(named)}" if named else "no other process"


def _gigabytes(value: int | None) -> str:
    return "memory unknown" if value is None else f"{value / 1e9:.1f} GB"


def check_telemetry(gpus: Sequence[Gpu]) -> str:
    """Ask each of the sampler's queries once."""
    from ttt_mlflow.telemetry.sampler import NvmlSampler

    if not gpus:
        raise Wrong("no GPU: clocks, power, temperature, utilization and energy are not recorded")
    refused = []
    for gpu in gpus:
        sampler = NvmlSampler.open(gpu.uuid)
        sampler.stop()
        # missing GPM has a finding of its own
        queries = {query: reason for query, reason in sampler.refused.items() if query != "gpm"}
        refused += [f"{gpu.index}: {query} ({reason})" for query, reason in queries.items()]
    if refused:
        raise Wrong(f"NVML does not answer {'; '.join(refused)}", "the values that depend on it are not recorded")
    return "NVML answers every query of the sampler"


def check_gpm(gpus: Sequence[Gpu]) -> str:
    states = _states(gpus, "SM, tensor and DRAM-bandwidth utilization are")
    without = [gpu.index for gpu, state in states if not state.gpm]
    if without:  # a property of the GPU: no fault, and there is no remedy
        return f"not on GPU {', '.join(map(str, without))}: SM, tensor and DRAM-bandwidth utilization are not recorded"
    return "SM, tensor and DRAM-bandwidth utilization can be read without a profiler"


def check_ceilings(gpus: Sequence[Gpu]) -> str:
    from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, known_ceilings

    if not gpus:
        raise Wrong("no GPU: roofline_ms and roofline_pct are not recorded")
    parts = []
    for gpu in gpus:
        try:
            known = known_ceilings(gpu.device)
        except CeilingsUnknown as unknown:
            raise Wrong(f"{gpu.index}: {unknown}; without them, a run has no roofline") from None
        parts.append(f"{gpu.index}: reads {known.read_gb_per_s:,.0f} GB/s, {known.matmul_tflops:,.0f} TFLOP/s")
    return "; ".join(parts)
