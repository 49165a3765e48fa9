"""Chooses what a configuration leaves open, for this machine, before anything is built.

What was asked for explicitly is used or refused. A default that does not exist here is left off, with a notice.
"""

from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity

from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.profilers.nsys import Nsys, NsysOptions, find_nsys, importer_fault
from ttt_mlflow.run.machine import choose_device, interpreting, missing_cxx_compiler
from ttt_mlflow.workload import Workload

DEFAULT_INNER_NET = "mlp_1_dual_triton"
DEFAULT_INNER_NET_CPU = "mlp_1_dual"


@dataclass(frozen=True)
class Plan:
    """``asked`` as it was given, ``used`` with nothing left open, and what the person should know about the rest."""

    asked: RunConfig
    used: RunConfig
    workload: Workload  # what is timed
    entry: ModelEntry
    request: ModelRequest
    notices: list[str]
    nsys: Nsys | None  # where it is asked for

    @property
    def device(self) -> torch.device:
        return self.request.device


def make_plan(asked: RunConfig) -> Plan:
    """Choose for this machine what ``asked`` leaves open; raise BadInput for what cannot be had here."""
    notices: list[str] = []
    entry = find_model(asked.model_name)
    check_nsys_options(asked)
    _check_what_the_model_takes(asked, entry)
    if missing := entry.missing():
        raise BadInput(f"model_name={asked.model_name}: {missing}")
    device = _device(asked, entry, notices)
    nsys = _profilers(asked, device, notices)
    inner_net = _inner_net(asked, entry, device, notices)
    used = asked.model_copy(
        update={
            "device": device,
            "inner_net": inner_net,
            "dtype": asked.dtype or ("float16" if device == "cuda" else "float32"),
            "use_compile": _use_compile(asked, entry, device, inner_net, notices),
            "cuda_graph": _cuda_graph(asked, entry, device, notices),
        }
    )
    assert used.dtype is not None
    request = ModelRequest(
        used.model_name, inner_net, getattr(torch, used.dtype), torch.device(device), used.seed, used.checkpoint
    )
    entry.check(request)
    workload = Workload(used.mode, used.batch, used.promptlen, used.genlen)
    return Plan(asked, used, workload, entry, request, notices, nsys)


def check_nsys_options(asked: RunConfig | MicroConfig) -> None:
    """Refuse options for nsys that cannot be passed on, or that nothing would use."""
    NsysOptions.parse(asked.nsys_args, asked.nsys_export == "sqlite")
    if "nsys" not in asked.profile:
        if asked.nsys_args:
            raise BadInput(f"nsys_args={asked.nsys_args}: nsys is not asked for; add profile=nsys, or leave it out")
        if asked.nsys_export != "none":
            raise BadInput(f"nsys_export={asked.nsys_export}: nsys is not asked for; add profile=nsys, or leave it out")


def _profilers(asked: RunConfig, device: str, notices: list[str]) -> Nsys | None:
    """nsys where it is asked for; refuse, all at once, the profilers that cannot be had here."""
    faults, nsys = [], None
    for profiler in asked.profile:
        try:
            if profiler == "nsys":
                nsys = choose_nsys(device, notices)
            elif profiler == "memory":
                _check_memory_profiler(device)
            else:
                _check_torch_profiler(device)
        except BadInput as fault:
            faults.append(str(fault))
    if faults:
        raise BadInput("\n".join(faults))
    return nsys


def choose_nsys(device: str, notices: list[str]) -> Nsys:
    """The nsys of this machine; raise :class:`BadInput` where it cannot record, and say what its report will lack."""
    if device == "cpu":
        raise BadInput("profile=nsys: it records what a GPU does, and the device is cpu; leave nsys out of profile")
    nsys = find_nsys()
    if fault := importer_fault(nsys):
        notices.append(f"profile=nsys: {fault}; until then the recording stays a .qdstrm file")
    return nsys


def _check_memory_profiler(device: str) -> None:
    if device == "cpu":
        raise BadInput(
            "profile=memory: it records PyTorch's allocator on a GPU, and the device is cpu; leave memory out of "
            "profile"
        )
    if (backend := torch.cuda.get_allocator_backend()) != "native":
        raise BadInput(
            f"profile=memory: PyTorch's own allocator keeps the history, and PYTORCH_CUDA_ALLOC_CONF chose {backend}; "
            "leave backend out of it, or memory out of profile"
        )


def _check_torch_profiler(device: str) -> None:
    if device == "cuda" and ProfilerActivity.CUDA not in torch.profiler.supported_activities():
        raise BadInput(
            "profile=torch: this PyTorch is built without the tracing of GPU kernels (CUPTI); install one that has it, "
            "or leave torch out of profile"
        )


def _check_what_the_model_takes(asked: RunConfig, entry: ModelEntry) -> None:
    """What is wrong on every machine, whatever is installed there."""
    if asked.inner_net and not entry.inner_nets:
        raise BadInput(f"inner_net={asked.inner_net}: {entry.name} has no inner net; leave inner_net out")
    if asked.inner_net and asked.inner_net not in entry.inner_nets:
        raise BadInput(
            f"inner_net={asked.inner_net}: no such inner net; {entry.name} has {', '.join(entry.inner_nets)}"
        )
    if asked.checkpoint and not entry.takes_checkpoint:
        raise BadInput(f"checkpoint={asked.checkpoint}: {asked.model_name} is measured with random weights only")


def _device(asked: RunConfig, entry: ModelEntry, notices: list[str]) -> str:
    device = choose_device(asked.device, notices)
    if device == "cpu" and entry.needs_cuda:
        raise BadInput(f"model_name={asked.model_name}: runs on a GPU only, and the device is cpu")
    return device


def _inner_net(asked: RunConfig, entry: ModelEntry, device: str, notices: list[str]) -> str | None:
    if not entry.inner_nets:
        return None
    has_triton = device == "cuda" or interpreting()
    if asked.inner_net is None:
        default = DEFAULT_INNER_NET if has_triton else DEFAULT_INNER_NET_CPU
        default = default if default in entry.inner_nets else entry.inner_nets[0]
        if not has_triton:
            notices.append(f"inner_net: Triton needs a GPU, {default} (PyTorch) is used")
        return default
    if asked.inner_net.endswith("_triton") and not has_triton:
        raise BadInput(
            f"inner_net={asked.inner_net}: Triton needs a GPU (or TRITON_INTERPRET=1, which is slow); "
            f"on a CPU use {asked.inner_net.removesuffix('_triton')}"
        )
    return asked.inner_net


def _use_compile(asked: RunConfig, entry: ModelEntry, device: str, inner_net: str | None, notices: list[str]) -> bool:
    obstacle = None
    if not _runs_the_step(asked, entry):
        obstacle = "the prompt's pass is not compiled"
    elif entry.own_generation:
        obstacle = f"{entry.name} decodes through its own generation code"
    elif device == "cpu" and inner_net is not None and inner_net.endswith("_triton"):
        obstacle = "Triton's interpreter cannot be compiled"
    elif device == "cpu":
        obstacle = missing_cxx_compiler()
    if asked.use_compile:
        if obstacle:
            raise BadInput(f"use_compile=true: {obstacle}; leave use_compile out, or set it to false")
        return True
    if asked.use_compile is None and device == "cuda" and not obstacle:
        return True
    if asked.use_compile is None:
        notices.append(f"use_compile: off; {obstacle or 'on a CPU it is on only if asked for'}")
    return False


def _cuda_graph(asked: RunConfig, entry: ModelEntry, device: str, notices: list[str]) -> bool:
    obstacle = None
    if device == "cpu":
        obstacle = "there are no CUDA graphs on a CPU"
    elif not _runs_the_step(asked, entry):
        obstacle = "the prompt's pass is not captured"
    if asked.cuda_graph and obstacle:
        raise BadInput(f"cuda_graph=true: {obstacle}; leave cuda_graph out, or set it to false")
    if asked.cuda_graph is None and obstacle:
        notices.append(f"cuda_graph: off; {obstacle}")
    return obstacle is None if asked.cuda_graph is None else asked.cuda_graph


def _runs_the_step(asked: RunConfig, entry: ModelEntry) -> bool:
    """Whether what is timed runs the decode step, which is what is compiled and captured: a prompt's rest does."""
    return asked.mode == "decode" or bool(entry.prefill_multiple and asked.promptlen % entry.prefill_multiple)
