"""Chooses the values that a micro-benchmark leaves open, before anything is measured."""

from dataclasses import dataclass
from functools import partial

import torch

from ttt_mlflow.config import MicroConfig, as_text
from ttt_mlflow.config.base import defaults_of
from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.inner_layers import INNER_LAYERS
from ttt_mlflow.micro.entry import KernelEntry
from ttt_mlflow.micro.registry import DEFAULT_CPU, DEFAULT_GPU, find_kernels, package_of, registered
from ttt_mlflow.micro.task import LayerSizes, Task
from ttt_mlflow.plugins import answer_of
from ttt_mlflow.profilers.nsys import Nsys
from ttt_mlflow.run.caches import choose_kernel_cache
from ttt_mlflow.run.machine import choose_device
from ttt_mlflow.run.plan import check_nsys_options, choose_nsys
from ttt_mlflow.run.reserve import LARGE, own_files

CELL_BYTES = 1 << 10  # of one measurement in the description, the series and the list of what failed
SAMPLES, SAMPLES_BYTES = "samples", 256 << 10  # micro/samples.json after the first kernels

DEFAULT_BATCHES = {"cuda": (128, 512, 1024), "cpu": (1, 4)}
DEFAULT_PROMPT_BATCHES = {"cuda": (16, 64), "cpu": (1,)}  # a prompt has thousands of tokens for each sequence


@dataclass(frozen=True)
class MicroPlan:
    """A configuration as given (``asked``), with all values chosen (``used``), and notices for the user."""

    asked: MicroConfig
    used: MicroConfig
    entries: list[KernelEntry]
    device: torch.device
    notices: list[str]
    nsys: Nsys | None  # None if nsys was not requested

    @property
    def dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.used.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def package(self) -> None:
        """Of several kernels there is no one package. A kernel that fails is named with its own."""
        return None

    @property
    def room(self) -> dict[str, int]:
        """The disk space that the run reserves before it checks a kernel; see :mod:`ttt_mlflow.run.reserve`."""
        return own_files(LARGE + len(self.cells) * CELL_BYTES) | {SAMPLES: SAMPLES_BYTES}

    @property
    def cells(self) -> list[tuple[KernelEntry, int]]:
        """What is timed: each kernel with each batch of its mode that it takes."""
        batches = {"decode": self.used.batches, "prefill": self.used.prompt_batches}
        return [
            (entry, batch) for entry in self.entries for batch in batches[entry.mode] or () if entry.takes(batch)
        ]  # fmt: skip

    def task(self, entry: KernelEntry, batch: int) -> Task:
        """What ``entry`` is timed with."""
        used = self.used
        sizes = LayerSizes(used.heads, used.head_dim, used.intermediate, used.vocab, used.promptlen, self.dtype)
        return entry.task(sizes, batch)


def make_plan(asked: MicroConfig) -> MicroPlan:
    """Choose for this machine what ``asked`` leaves open. Raises BadInput for what is not possible here."""
    notices: list[str] = []
    entries = find_kernels(asked.kernels or ())
    device = choose_device(asked.device, notices)
    if device == "cuda":
        choose_kernel_cache(notices)
    if asked.kernels is None:
        entries = find_kernels(DEFAULT_GPU if device == "cuda" else DEFAULT_CPU)
        if device == "cpu":
            notices.append(f"kernels: Triton needs a GPU; {', '.join(DEFAULT_CPU)} (PyTorch) are timed")
    _check_kernels(entries, device, asked.dtype)
    _check_sizes(asked, entries)
    check_nsys_options(asked)
    nsys = choose_nsys(device, notices) if "nsys" in asked.profile else None
    used = asked.model_copy(
        update={
            "device": device,
            "kernels": tuple(entry.name for entry in entries),
            **_batches(asked, {entry.mode for entry in entries}, device),
        }
    )
    _leave_out(entries, used.batches or (), notices)
    return MicroPlan(asked, used, entries, torch.device(device), notices, nsys)


def _check_sizes(asked: MicroConfig, entries: list[KernelEntry]) -> None:
    """Refuse sizes that are those of no kernel that is timed."""
    usual = defaults_of(MicroConfig)
    for name in ("intermediate", "vocab"):
        if getattr(asked, name) != usual[name] and all(entry.layer_type in INNER_LAYERS for entry in entries):
            raise BadInput(
                f"{name}={getattr(asked, name)}: none of the kernels has it; omit it, or add kernels of the group layer"
            )
    if asked.promptlen != usual["promptlen"] and all(entry.mode != "prefill" for entry in entries):
        raise BadInput(
            f"promptlen={asked.promptlen}: none of the kernels takes a prompt; omit it, or add {_of_prompts()}"
        )


def _of_prompts() -> str:
    names = (name for name, entry in registered().entries.items() if entry.mode == "prefill")
    return f"one of {', '.join(names)}"


def _batches(asked: MicroConfig, modes: set[str], device: str) -> dict[str, tuple[int, ...] | None]:
    """The batches of the decode steps and of the prompts; None for a mode that no kernel has.

    Batches that are given are those of the prompts too, unless those have their own.
    """
    if asked.prompt_batches and "prefill" not in modes:
        raise BadInput(
            f"prompt_batches={as_text(asked.prompt_batches)}: none of the kernels takes a prompt; add {_of_prompts()}"
        )
    if asked.batches and asked.prompt_batches and "decode" not in modes:
        raise BadInput(
            f"batches={as_text(asked.batches)}: all kernels take prompts, and prompt_batches="
            f"{as_text(asked.prompt_batches)} has their batches; give one of the two"
        )
    decode = asked.batches or DEFAULT_BATCHES[device]
    prefill = asked.prompt_batches or asked.batches or DEFAULT_PROMPT_BATCHES[device]
    return {
        "batches": decode if "decode" in modes else None,
        "prompt_batches": prefill if "prefill" in modes else None,
    }


def _leave_out(entries: list[KernelEntry], batches: tuple[int, ...], notices: list[str]) -> None:
    """Say which batches are left out for kernels that do not take them. Refuses kernels that take none of them."""
    limited: dict[int, list[KernelEntry]] = {}
    for entry in entries:
        asking = f"kernels={entry.name}: the largest batch that it takes"
        largest = answer_of(package_of(entry.name), asking, partial(_largest, entry))
        if entry.mode == "decode" and largest is not None:
            limited.setdefault(largest, []).append(entry)
    for largest, those in limited.items():
        left_out = [batch for batch in batches if batch > largest]
        which = ",".join(entry.name for entry in those)
        if len(left_out) == len(batches):
            raise BadInput(
                f"kernels={which}: they take batches of up to {largest}, and batches={as_text(batches)} has none; "
                "add one, or choose other kernels"
            )
        if left_out:
            notices.append(f"batches: {as_text(tuple(left_out))} left out for {which}: they take up to {largest}")


def _largest(entry: KernelEntry) -> int | None:
    largest = entry.largest_batch()
    if largest is not None and largest < 1:
        raise ValueError(f"largest_batch returns {largest}")
    return largest


def _check_kernels(entries: list[KernelEntry], device: str, dtype: str) -> None:
    """Refuse kernels that cannot run here. The message lists all of them."""
    others = [entry.name for entry in entries if entry.dtypes and dtype not in entry.dtypes]
    if others:
        taken = sorted({one for entry in entries for one in entry.dtypes if dtype not in entry.dtypes})
        raise BadInput(f"dtype={dtype}: {', '.join(others)} take {' and '.join(taken)}")
    gpu_only = [entry.name for entry in entries if entry.needs_gpu and device == "cpu"]
    if gpu_only:
        possible = [name for name, entry in registered().entries.items() if not entry.needs_gpu]
        raise BadInput(
            f"kernels={','.join(gpu_only)}: they need a GPU, but the device is cpu; on a CPU, choose from "
            f"{', '.join(possible)}"
        )
    missing = {}
    for entry in entries:
        asking = f"kernels={entry.name}: what must be installed for it"
        if reason := answer_of(package_of(entry.name), asking, partial(entry.missing, device)):
            missing[entry.name] = reason
    if missing:
        raise BadInput("\n".join(f"kernels={name}: {reason}" for name, reason in missing.items()))
