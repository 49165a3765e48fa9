"""Checks of the GPU."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ttt_mlflow.app.doctor.finding import Gpu, Wrong
from ttt_mlflow.errors import BadInput, TTTError

if TYPE_CHECKING:
    from ttt_mlflow.telemetry.gpu_state import GpuState

BUSY_PCT = 5  # utilization by others from which on a card is not quiet


def measure_gpus(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Measure and keep the ceilings of each GPU that PyTorch sees; {UUID: ceilings}.

    Raises BadInput without a GPU, TTTError where what was measured cannot be kept.
    """
    from ttt_mlflow.errors import one_line
    from ttt_mlflow.measurement.ceilings import measure_ceilings
    from ttt_mlflow.measurement.ceilings_cache import keep_ceilings

    measured: dict[str, dict[str, float]] = {}
    gpus = find_gpus()
    if not gpus:
        raise BadInput("measure: PyTorch finds no GPU on this machine, and the ceilings are those of a GPU")
    problems = []
    for gpu in gpus:
        try:
            ceilings = measure_ceilings(gpu.device)
        except RuntimeError as error:  # PyTorch's, out of memory included: the next card may do
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
    """The GPUs that PyTorch sees, in its order."""
    import torch

    from ttt_mlflow.telemetry.host import device_uuid

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability = 10 * properties.major + properties.minor
        uuid = device_uuid(torch.device("cuda", index))
        found.append(Gpu(index, properties.name, uuid, capability, properties.total_memory))
    return found


def check_gpu(gpus: Sequence[Gpu]) -> str:
    import torch

    if not gpus:
        raise Wrong(f"PyTorch {torch.__version__} finds none: only a CPU can be measured", _why_no_gpu())
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
        return "NVML sees none either: use a machine with an NVIDIA GPU"
    if torch.version.cuda is None:
        return f"NVML sees {count}: install a PyTorch that is built for CUDA"
    built_for, supported = torch.version.cuda, cuda_driver_version()
    if supported is not None and _is_too_old(supported, built_for):
        return (
            f"NVML sees {count}, but the driver supports CUDA {supported} and PyTorch is built for CUDA {built_for}: "
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
    return f"NVML sees {count}: {driver}; make them visible to PyTorch{named}"


def _is_too_old(supported: str, built_for: str) -> bool:
    """Whether a driver that supports CUDA ``supported`` cannot run what is built for CUDA ``built_for``."""
    # Within one major version an older driver runs newer minor versions, since CUDA 11: "Minor Version Compatibility"
    # in NVIDIA's guide "CUDA Compatibility".
    return _major(supported) < _major(built_for)


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0])


def _cards(gpus: Sequence[Gpu], lost: str) -> "list[tuple[Gpu, GpuState]]":
    """What NVML says of each; ``lost`` is what is not recorded without."""
    from ttt_mlflow.telemetry.gpu_state import read_gpu_state

    if not gpus:
        raise Wrong(f"no GPU: {lost} not recorded")
    return [(gpu, read_gpu_state(gpu.uuid)) for gpu in gpus]


def check_clocks(gpus: Sequence[Gpu]) -> str:
    cards = _cards(gpus, "clocks, power and temperature are")
    parts = [
        f"{gpu.index}: SM {_of(card.sm_clock, card.sm_clock_max)} MHz, "
        f"memory {_of(card.memory_clock, card.memory_clock_max)} MHz, "
        f"power {_of(card.power, card.power_limit)} W, {_known(card.temperature)} °C"
        for gpu, card in cards
    ]
    return f"driver {cards[0][1].driver}; {'; '.join(parts)}"


def _of(value: float | None, limit: float | None) -> str:
    return f"{_known(value)} of {_known(limit)}"


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def check_others(gpus: Sequence[Gpu]) -> str:
    """Who else computes on a card; who only holds memory there is named and no fault."""
    from ttt_mlflow.telemetry.processes import is_related

    named, busy = [], []
    for gpu, card in _cards(gpus, "who else uses a GPU is"):
        if card.processes is None:
            raise Wrong(f"{gpu.index}: NVML does not list the processes on it ({card.refused['processes']})")
        others = [process for process in card.processes if not is_related(process.pid)]
        texts = [
            f"{other.name or 'unknown process'} (pid {other.pid}, {_gigabytes(other.memory_bytes)})" for other in others
        ]
        named += [f"{gpu.index}: {text}" for text in texts]
        if others and (card.utilization or 0) > BUSY_PCT:
            busy.append(f"GPU {gpu.index} is {card.utilization} % busy")
    if busy:
        raise Wrong(f"{'; '.join([*busy, *named])}", "wait until it is done: a shared card cannot be measured")
    return f"idle, with memory held by {'; '.join(named)}" if named else "nobody else"


def _gigabytes(value: int | None) -> str:
    return "memory unknown" if value is None else f"{value / 1e9:.1f} GB"


def check_telemetry(gpus: Sequence[Gpu]) -> str:
    """Each of the sampler's queries, asked once."""
    from ttt_mlflow.telemetry.sampler import NvmlSampler

    if not gpus:
        raise Wrong("no GPU: clocks, power, temperature, utilization and energy are not recorded")
    refused = []
    for gpu in gpus:
        sampler = NvmlSampler.open(gpu.uuid)
        sampler.stop()
        # a card without GPM is a finding of its own
        queries = {query: reason for query, reason in sampler.refused.items() if query != "gpm"}
        refused += [f"{gpu.index}: {query} ({reason})" for query, reason in queries.items()]
    if refused:
        raise Wrong(f"NVML does not answer {'; '.join(refused)}", "what depends on that is not recorded")
    return "NVML answers every query of the sampler"


def check_gpm(gpus: Sequence[Gpu]) -> str:
    cards = _cards(gpus, "SM, tensor and DRAM-bandwidth utilization are")
    without = [gpu.index for gpu, card in cards if not card.gpm]
    if without:  # that is how the card is: nothing to be done, and no fault
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
            raise Wrong(f"{gpu.index}: {unknown}; without them a run has no roofline") from None
        parts.append(f"{gpu.index}: reads {known.read_gb_per_s:,.0f} GB/s, {known.matmul_tflops:,.0f} TFLOP/s")
    return "; ".join(parts)
