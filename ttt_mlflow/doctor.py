"""Whether this machine can measure: one finding for each thing that a full measurement needs.

Every check runs in a thread of its own and has the same time; one that hangs or fails is a finding and costs the others
nothing. Nothing is measured here but with :func:`measure_cards`.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttt_mlflow.errors import BadInput, TTTError

if TYPE_CHECKING:
    import torch

    from ttt_mlflow.telemetry.cards import CardState

SECONDS = 9.0  # from the start of the process until the last answer
LEAST_SECONDS = 4.0  # for the checks, however long the start took
CHILD_SHARE = 0.8  # of that time for a process that a check starts: it is ended while the check still waits for it
FREE_GB = 1.0  # profiler reports and samples of many runs
WRITTEN_BYTES = 1 << 20
BUSY_PCT = 5  # utilisation by others from which on a card is not quiet
COMPILED_BLOCK = 1024
EXTENSIONS = ("selective_scan_cuda", "causal_conv1d_cuda")  # what breaks when torch is another one than at their build
State = Literal["ok", "limited", "failed"]
SEVERITY: tuple[State, ...] = ("ok", "limited", "failed")


@dataclass(frozen=True)
class Finding:
    """``limited``: measuring works with less; ``failed``: it does not. ``remedy`` is what to do."""

    name: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Asked:
    """Where a run would record."""

    logdir: Path
    tracking_uri: str
    experiment_name: str | None


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch sees."""

    index: int
    name: str
    uuid: str
    capability: int  # 90 for 9.0
    memory_bytes: int

    @property
    def device(self) -> "torch.device":
        import torch

        return torch.device("cuda", self.index)


class Wrong(Exception):
    """What a check found to be wrong, and what to do."""

    def __init__(self, found: str, remedy: str | None = None, state: State = "limited") -> None:
        super().__init__(found)
        self.found, self.remedy, self.state = found, remedy, state


def diagnose(asked: Asked, seconds: float) -> list[Finding]:
    """All findings, after ``seconds``; what has not answered by then is a finding too."""
    deadline = time.monotonic() + seconds
    try:
        importlib.import_module("torch")  # here, so that the threads do not wait for each other's import
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return [
            Finding("pytorch", "failed", f"PyTorch does not load: {type(error).__name__}: {error}", "install it again")
        ]
    gpus = _begin(find_gpus)
    others = _begin(lambda: check_others(gpus.result()))
    checks: dict[str, Callable[[], str]] = {
        "gpu": lambda: check_gpu(gpus.result()),
        "clocks": lambda: check_clocks(gpus.result()),
        "others": others.result,
        "telemetry": lambda: check_telemetry(gpus.result()),
        "gpm": lambda: check_gpm(gpus.result()),
        "ceilings": lambda: check_ceilings(gpus.result()),
        # its kernel makes this process one of those on the card, under a number that in a container is not its own
        "triton": lambda: check_triton(_after(others, gpus, seconds / 4)),
        "mamba": lambda: check_mamba(gpus.result(), CHILD_SHARE * seconds),
        "nsys": lambda: check_nsys(CHILD_SHARE * seconds),
        "logdir": lambda: check_folder(asked.logdir, "the record of a run"),
        "temp": lambda: check_folder(Path(tempfile.gettempdir()), "compilers and profilers"),
        "tracking": lambda: check_tracking(asked),
    }
    started = {name: _begin(check) for name, check in checks.items()}
    return [_finding(name, future, deadline, seconds) for name, future in started.items()]


def exit_code(findings: Sequence[Finding]) -> int:
    """0 fine, 1 something is missing for full measurements, 2 cannot measure or not record what is asked."""
    return max(SEVERITY.index(finding.state) for finding in findings)


def findings_text(findings: Sequence[Finding]) -> str:
    """One line each."""
    width = max(len(finding.name) for finding in findings)
    return "\n".join(
        f"{finding.state:<7}  {finding.name:<{width}}  {'; '.join(filter(None, [finding.found, finding.remedy]))}"
        for finding in findings
    )


def findings_json(findings: Sequence[Finding], measured: dict[str, dict[str, float]] | None = None) -> str:
    """exit_code, checks (name, state, found, remedy) and, where ceilings were measured, those by the GPU's UUID."""
    record: dict[str, Any] = {"exit_code": exit_code(findings), "checks": [asdict(finding) for finding in findings]}
    return json.dumps(record if measured is None else {**record, "ceilings": measured}, indent=1, ensure_ascii=False)


def measure_cards(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Measure and keep the ceilings of each GPU that PyTorch sees; {UUID: ceilings}.

    Raises BadInput without a GPU, TTTError where what was measured cannot be kept.
    """
    from ttt_mlflow.card import keep_ceilings
    from ttt_mlflow.failures import one_line
    from ttt_mlflow.measure.ceilings import measure_ceilings

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


# The time of a check


def _begin(action: Callable[[], Any]) -> "Future[Any]":
    """Run ``action`` in a thread that the end of the process does not wait for."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _after(first: "Future[Any]", second: "Future[Any]", patience_s: float) -> Any:
    """The result of ``second``, once ``first`` has ended or taken too long."""
    wait([first], timeout=patience_s)
    return second.result()


def _finding(name: str, future: "Future[Any]", deadline: float, seconds: float) -> Finding:
    try:
        return Finding(name, "ok", future.result(timeout=max(0.0, deadline - time.monotonic())))
    except TimeoutError:
        if future.done():  # the check's own
            return Finding(name, _worst_of(name), "the check ran into a time-out of its own")
        return Finding(name, _worst_of(name), f"no answer within {seconds:.1f} s")
    except Wrong as wrong:
        return Finding(name, wrong.state, wrong.found, wrong.remedy)
    except Exception as error:  # whatever breaks one check is that check's finding
        said = " ".join(str(error).split())[:300]
        return Finding(
            name, _worst_of(name), said if isinstance(error, TTTError) else f"{type(error).__name__}: {said}"
        )


def _worst_of(name: str) -> State:
    """Without a place to record, nothing can be measured; without the rest, less."""
    return "failed" if name in ("logdir", "temp", "tracking") else "limited"


# The GPU


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

    from ttt_mlflow.telemetry.cards import visible_to_nvml
    from ttt_mlflow.telemetry.nvml import TelemetryUnavailable

    try:
        count = visible_to_nvml()
    except TelemetryUnavailable:
        return "use a machine with an NVIDIA GPU and its driver"
    if not count:
        return "NVML sees none either: use a machine with an NVIDIA GPU"
    if torch.version.cuda is None:
        return f"NVML sees {count}: install a PyTorch that is built for CUDA"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES={hidden})"
    return f"NVML sees {count}: let PyTorch's CUDA {torch.version.cuda} fit the driver, and make them visible{named}"


def _cards(gpus: Sequence[Gpu], lost: str) -> "list[tuple[Gpu, CardState]]":
    """What NVML says of each; ``lost`` is what is not recorded without."""
    from ttt_mlflow.telemetry.cards import read_card

    if not gpus:
        raise Wrong(f"no GPU: {lost} not recorded")
    return [(gpu, read_card(gpu.uuid)) for gpu in gpus]


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
        raise Wrong("no GPU: clocks, power, temperature, utilisation and energy are not recorded")
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
    cards = _cards(gpus, "SM, tensor and DRAM-bandwidth utilisation are")
    without = [gpu.index for gpu, card in cards if not card.gpm]
    if without:  # that is how the card is: nothing to be done, and no fault
        return f"not on GPU {', '.join(map(str, without))}: SM, tensor and DRAM-bandwidth utilisation are not recorded"
    return "SM, tensor and DRAM-bandwidth utilisation can be read without a profiler"


def check_ceilings(gpus: Sequence[Gpu]) -> str:
    from ttt_mlflow.card import known_ceilings
    from ttt_mlflow.measure.ceilings_cache import CeilingsUnknown

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


# The software


def check_triton(gpus: Sequence[Gpu]) -> str:
    """Compile a kernel, and where there is a GPU run it; the cache must take what is compiled."""
    import triton

    from ttt_mlflow.machine import interpreting

    if interpreting():
        raise Wrong("TRITON_INTERPRET=1 is set: kernels run on the host", "unset it to measure them")
    folder = Path(triton.knobs.cache.dir)
    if reason := _write_fault(folder):
        raise Wrong(f"its cache {folder} {reason}: every process compiles anew", "set TRITON_CACHE_DIR to a folder")
    if gpus:
        _run_a_kernel(gpus[0])
        return f"Triton {triton.__version__} compiles and runs on {gpus[0].name}; cache {folder}"
    _compile_a_kernel()
    return f"Triton {triton.__version__} compiles; it needs a GPU to run; cache {folder}"


def _run_a_kernel(gpu: Gpu) -> None:
    import torch

    from ttt_mlflow.kernels.stream import block_sums

    with torch.cuda.device(gpu.device):
        values = torch.ones(COMPILED_BLOCK, dtype=torch.int32, device=gpu.device)
        sums = torch.zeros(1, dtype=torch.int32, device=gpu.device)
        block_sums(values, sums, COMPILED_BLOCK, num_warps=4)
        if int(sums) != COMPILED_BLOCK:
            raise Wrong(f"a Triton kernel computed {int(sums)} where {COMPILED_BLOCK} is right")


def _compile_a_kernel() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ttt_mlflow.kernels.stream import block_sums_kernel

    types = {"x": "*i32", "sums": "*i32", "BLOCK": "constexpr"}
    triton.compile(ASTSource(block_sums_kernel, types, {(2,): COMPILED_BLOCK}), GPUTarget("cuda", 90, 32))


def check_mamba(gpus: Sequence[Gpu], seconds: float) -> str:
    """mamba-ssm and causal-conv1d are there, and their compiled parts load with this PyTorch."""
    from importlib.metadata import version

    from ttt_mlflow.models.mamba import missing

    if reason := missing():
        raise Wrong(reason.partition(";")[0] + ": Mamba cannot be measured", reason.partition("; ")[2])
    names = f"mamba-ssm {version('mamba-ssm')} and causal-conv1d {version('causal-conv1d')}"
    program = f"import torch, {', '.join(EXTENSIONS)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Wrong(f"{names} do not load: {words[-1][:300]}", "build them again with this PyTorch")
    return names if gpus else f"{names}; they need a GPU to run"


def check_nsys(answer_s: float) -> str:
    from ttt_mlflow.profilers.nsys import find_nsys, importer_fault

    try:
        nsys = find_nsys(answer_s)
    except BadInput as error:
        raise Wrong(str(error).removeprefix("profile=nsys: ")) from None
    if fault := importer_fault(nsys):
        raise Wrong(f"nsys {nsys.version} at {nsys.path}: {fault}", "without it recordings stay .qdstrm files")
    return f"nsys {nsys.version} at {nsys.path}, with its importer"


# Where the record goes


def check_folder(folder: Path, purpose: str) -> str:
    """``folder``, or where it would be made, takes a file and has room."""
    if reason := _write_fault(folder):
        raise Wrong(f"{folder} {reason}", f"make room or choose another one: it is for {purpose}", "failed")
    free_gb = shutil.disk_usage(_existing(folder)).free / 1e9
    if free_gb < FREE_GB:
        raise Wrong(f"{folder}: {free_gb:.2f} GB free", f"make room: {FREE_GB:g} GB or more for {purpose}")
    return f"{folder}: {free_gb:,.0f} GB free"


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _write_fault(folder: Path) -> str | None:
    """Why nothing can be written there, found out with a file that is gone at once; None where it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
    except OSError as error:
        return f"cannot be written to ({error.strerror or error})"
    return None


def check_tracking(asked: Asked) -> str:
    from ttt_mlflow.tracking.probe import check_writing
    from ttt_mlflow.tracking.publish import without_password

    place = without_password(asked.tracking_uri)
    if reason := check_writing(asked.tracking_uri, asked.experiment_name):
        remedy = "runs would stay on disk until `ttt-mlflow sync`; set MLFLOW_TRACKING_URI to one that can be reached"
        raise Wrong(f"{place}: {reason}", remedy, "failed")
    return f"{place} takes records"
