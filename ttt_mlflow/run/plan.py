"""Chooses the values that a configuration leaves open, before anything is built.

An explicit value is used or refused. A default that is not available on this machine is replaced, with a notice.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch.profiler import ProfilerActivity

from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.roofline import total_bytes, total_flops
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model, package_of
from ttt_mlflow.plugins import Value, answer_of
from ttt_mlflow.profilers.nsys import Nsys, NsysOptions, find_nsys, importer_fault
from ttt_mlflow.run.caches import check_compiler_cache, choose_kernel_cache
from ttt_mlflow.run.machine import choose_device, interpreting, missing_cxx_compiler
from ttt_mlflow.run.reserve import sizes_at_start
from ttt_mlflow.workload import Stage, Workload

DEFAULT_INNER_NET = "mlp_1_dual_triton"
DEFAULT_INNER_NET_CPU = "mlp_1_dual"


@dataclass(frozen=True)
class Plan:
    """A configuration as given (``asked``), with all values chosen (``used``), and notices for the user."""

    asked: RunConfig
    used: RunConfig
    workload: Workload  # what is timed
    entry: ModelEntry
    request: ModelRequest
    notices: list[str]
    nsys: Nsys | None  # None if nsys was not requested

    @property
    def device(self) -> torch.device:
        return self.request.device

    @property
    def package(self) -> str | None:
        """The package that has added the model; None for a model of this package."""
        return package_of(self.entry.name)

    @property
    def room(self) -> dict[str, int]:
        """The disk space that the run reserves before it builds the model; see :mod:`ttt_mlflow.run.reserve`."""
        return sizes_at_start(self.used)

    def stages(self, question: str) -> list[Stage] | None:
        """The work of a step (in prefill mode, the prompt), as the model counts it; None if it does not.

        question: what the work is asked for. Raises BadInput with it if the model cannot answer.
        """
        work = self.entry.work
        if work is None:
            return None
        return answer_of(self.package, question, lambda: _stages(work(self.request, self.workload)))


def _stages(answer: object) -> list[Stage]:
    """``answer`` if it is a list of stages whose sums are numbers too. Raises ValueError or TypeError otherwise."""
    if not isinstance(answer, Iterable):
        raise TypeError(f"work returns {type(answer).__name__}, not a list of Stage")
    stages = list(answer)
    for stage in stages:
        if not isinstance(stage, Stage):
            raise TypeError(f"work returns {type(stage).__name__} in its list, not Stage")
    if not (math.isfinite(total_bytes(stages)) and math.isfinite(total_flops(stages))):
        raise ValueError("the bytes or operations of all stages together are not finite")
    return stages


def make_plan(asked: RunConfig) -> Plan:
    """Choose for this machine what ``asked`` leaves open. Raises BadInput for what is not possible here."""
    notices: list[str] = []
    entry = find_model(asked.model_name)
    check_nsys_options(asked)
    _check_what_the_model_takes(asked, entry)
    if missing := _answer(entry, entry.missing):
        raise BadInput(f"model_name={asked.model_name}: {missing}")
    device = _device(asked, entry, notices)
    nsys = _profilers(asked, device, notices)
    inner_net = _inner_net(asked, entry, device, notices)
    _check_attention(asked, device)
    dtype = asked.dtype or ("float16" if device == "cuda" else "float32")
    if asked.mode == "prefill" and asked.genlen != RunConfig.model_fields["genlen"].default:
        notices.append(f"genlen={asked.genlen}: it has no effect, as a prefill run decodes nothing")
    workload = Workload(asked.mode, asked.batch, asked.promptlen, asked.genlen)
    request = ModelRequest(
        asked.model_name,
        inner_net,
        getattr(torch, dtype),
        torch.device(device),
        asked.seed,
        asked.checkpoint,
        asked.attn_impl,
        workload,
    )
    request = replace(request, decode_path=asked.decode_path or _decode_path(asked, entry, request))
    _answer(entry, lambda: entry.check(request))
    used = asked.model_copy(
        update={
            "device": device,
            "inner_net": inner_net,
            "decode_path": request.decode_path,
            "dtype": dtype,
            "use_compile": _use_compile(asked, entry, request, notices),
            "cuda_graph": _cuda_graph(asked, entry, device, notices),
        }
    )
    if used.use_compile:
        check_compiler_cache()
    if device == "cuda":
        choose_kernel_cache(notices)
    return Plan(asked, used, workload, entry, request, notices, nsys)


def check_nsys_options(asked: RunConfig | MicroConfig) -> None:
    """Refuse nsys options that cannot be passed on, or that have no effect."""
    NsysOptions.parse(asked.nsys_args, asked.nsys_export == "sqlite")
    if "nsys" not in asked.profile:
        if asked.nsys_args:
            raise BadInput(f"nsys_args={asked.nsys_args}: nsys is not requested; add profile=nsys, or omit nsys_args")
        if asked.nsys_export != "none":
            raise BadInput(
                f"nsys_export={asked.nsys_export}: nsys is not requested; add profile=nsys, or omit nsys_export"
            )


def _profilers(asked: RunConfig, device: str, notices: list[str]) -> Nsys | None:
    """nsys if it is requested. Raises BadInput that lists all requested profilers that are not available here."""
    faults, nsys = [], None
    for profiler in asked.profile:
        try:
            if profiler == "nsys":
                nsys = choose_nsys(device, notices)
            elif profiler == "memory":
                _check_memory_profiler(device)
            elif profiler == "torch":
                _check_torch_profiler(device)
        except BadInput as fault:
            faults.append(str(fault))
    if faults:
        raise BadInput("\n".join(faults))
    return nsys


def choose_nsys(device: str, notices: list[str]) -> Nsys:
    """The nsys of this machine. Raises :class:`BadInput` if it cannot record; a notice says if it makes no reports."""
    if device == "cpu":
        raise BadInput("profile=nsys: it records GPU activity, but the device is cpu; remove nsys from profile")
    nsys = find_nsys()
    if fault := importer_fault(nsys):
        notices.append(f"profile=nsys: {fault}; until then, the recording remains a .qdstrm file")
    return nsys


def _check_memory_profiler(device: str) -> None:
    if device == "cpu":
        raise BadInput(
            "profile=memory: it records PyTorch's GPU allocator, but the device is cpu; remove memory from profile"
        )
    if (backend := torch.cuda.get_allocator_backend()) != "native":
        raise BadInput(
            "profile=memory: only PyTorch's native allocator keeps a history, but PYTORCH_CUDA_ALLOC_CONF selects "
            f"{backend}; remove backend from PYTORCH_CUDA_ALLOC_CONF, or memory from profile"
        )


def _check_torch_profiler(device: str) -> None:
    if device == "cuda" and ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        raise BadInput(
            "profile=torch: this PyTorch was built without GPU kernel tracing (CUPTI); install a PyTorch with CUPTI, "
            "or remove torch from profile"
        )


def _check_what_the_model_takes(asked: RunConfig, entry: ModelEntry) -> None:
    """Refuse what the model does not accept on any machine."""
    if asked.inner_net and not entry.inner_nets:
        raise BadInput(f"inner_net={asked.inner_net}: {entry.name} has no inner net; omit inner_net")
    if asked.inner_net and asked.inner_net not in entry.inner_nets:
        raise BadInput(
            f"inner_net={asked.inner_net}: no such inner net; {entry.name} has {', '.join(entry.inner_nets)}"
        )
    if asked.decode_path and asked.decode_path not in entry.decode_paths:
        has = f"it has {', '.join(entry.decode_paths)}" if entry.decode_paths else "it has one alone; omit decode_path"
        raise BadInput(f"decode_path={asked.decode_path}: {entry.name} has no such decode path; {has}")
    if asked.attn_impl and not entry.attn_impls:
        raise BadInput(f"attn_impl={asked.attn_impl}: {entry.name} has no attention; omit attn_impl")
    if asked.attn_impl and not set(asked.attn_impl.split("+")) <= set(entry.attn_impls):
        raise BadInput(
            f"attn_impl={asked.attn_impl}: no such attention; {entry.name} has {', '.join(entry.attn_impls)}, or two "
            "of them as PROMPT+STEP"
        )
    if asked.checkpoint and not entry.takes_checkpoint:
        raise BadInput(
            f"checkpoint={asked.checkpoint}: {asked.model_name} only supports random weights; omit checkpoint"
        )


def _device(asked: RunConfig, entry: ModelEntry, notices: list[str]) -> str:
    device = choose_device(asked.device, notices)
    if device == "cpu" and entry.needs_cuda:
        raise BadInput(
            f"model_name={asked.model_name}: it needs a GPU, but the device is cpu; use a GPU, or another model"
        )
    return device


def _inner_net(asked: RunConfig, entry: ModelEntry, device: str, notices: list[str]) -> str | None:
    if not entry.inner_nets:
        return None
    has_triton = device == "cuda" or interpreting()
    if asked.inner_net is None:
        default = DEFAULT_INNER_NET if has_triton else DEFAULT_INNER_NET_CPU
        default = default if default in entry.inner_nets else entry.inner_nets[0]
        if not has_triton:
            notices.append(f"inner_net: Triton needs a GPU; {default} (PyTorch) is used")
        return default
    if asked.inner_net.endswith("_triton") and not has_triton:
        raise BadInput(
            f"inner_net={asked.inner_net}: Triton needs a GPU (or TRITON_INTERPRET=1, which is slow); "
            f"on a CPU, use {asked.inner_net.removesuffix('_triton')}"
        )
    return asked.inner_net


def _check_attention(asked: RunConfig, device: str) -> None:
    """Refuse an attention in Triton where Triton cannot run."""
    if _in_triton(asked.attn_impl) and device == "cpu" and not interpreting():
        raise BadInput(
            f"attn_impl={asked.attn_impl}: Triton needs a GPU (or TRITON_INTERPRET=1, which is slow); on a CPU, omit "
            "attn_impl"
        )


def _in_triton(names: str | None) -> bool:
    return any(name.endswith("_triton") for name in (names or "").split("+"))


def _decode_path(asked: RunConfig, entry: ModelEntry, request: ModelRequest) -> str | None:
    """That of a run that asks for none. What it does ask for, torch.compile or no graph, comes first.

    Without a graph the host launches each kernel from Python, which takes longer than kernels of some microseconds: it
    would hide what overlapping saves, and compiled code has fewer of them.
    """
    if not entry.decode_paths:
        return None
    if asked.cuda_graph is False:
        return entry.decode_paths[0]
    usual = replace(request, decode_path=_answer(entry, lambda: _usual_path(entry, request)))
    return usual.decode_path if not asked.use_compile or _compiles(entry, usual) else entry.decode_paths[0]


def _usual_path(entry: ModelEntry, request: ModelRequest) -> str:
    path = entry.usual_path(request) or entry.decode_paths[0]
    if path not in entry.decode_paths:
        raise ValueError(f"usual_path returns {path!r}, which is none of its decode paths")
    return path


def _compiles(entry: ModelEntry, request: ModelRequest) -> bool:
    return _answer(entry, lambda: bool(entry.compiles(request)))


def _answer(entry: ModelEntry, action: Callable[[], Value]) -> Value:
    """What the model ``entry`` says about itself. Raises BadInput that names its package if it cannot."""
    return answer_of(package_of(entry.name), f"model_name={entry.name}", action)


def _use_compile(asked: RunConfig, entry: ModelEntry, request: ModelRequest, notices: list[str]) -> bool:
    obstacle, device = None, request.device.type
    if not _runs_the_step(asked, entry):
        obstacle = "processing the prompt is not compiled"
    elif entry.own_generation:
        obstacle = f"{entry.name} decodes with its own generation code"
    elif not _compiles(entry, request):
        obstacle = (
            f"decode_path={request.decode_path}: the step has kernels alone, which torch.compile leaves as they are"
        )
    elif device == "cpu" and (_in_triton(request.inner_net) or _in_triton(asked.attn_impl)):
        obstacle = "code in Triton's interpreter cannot be compiled"
    elif device == "cpu":
        obstacle = missing_cxx_compiler()
    if asked.use_compile:
        if obstacle:
            raise BadInput(f"use_compile=true: {obstacle}; omit use_compile, or set it to false")
        return True
    if asked.use_compile is None and device == "cuda" and not obstacle:
        return True
    if asked.use_compile is None:
        notices.append(f"use_compile: off; {obstacle or 'on a CPU it is on only if requested'}")
    return False


def _cuda_graph(asked: RunConfig, entry: ModelEntry, device: str, notices: list[str]) -> bool:
    obstacle = None
    if device == "cpu":
        obstacle = "there are no CUDA graphs on a CPU"
    elif not _runs_the_step(asked, entry):
        obstacle = "processing the prompt is not captured"
    if asked.cuda_graph and obstacle:
        raise BadInput(f"cuda_graph=true: {obstacle}; omit cuda_graph, or set it to false")
    if asked.cuda_graph is None and obstacle:
        notices.append(f"cuda_graph: off; {obstacle}")
    return obstacle is None if asked.cuda_graph is None else asked.cuda_graph


def _runs_the_step(asked: RunConfig, entry: ModelEntry) -> bool:
    """Whether the timed code runs the decode step, which is what is compiled and captured.

    In prefill mode, the step runs for a prompt of one token, and for the tokens beyond the model's multiple.
    """
    if asked.mode == "decode" or asked.promptlen == 1:
        return True
    return bool(entry.prefill_multiple and asked.promptlen % entry.prefill_multiple)
