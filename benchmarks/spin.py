"""A model whose decode step waits, to add a known slowdown, noise or drift to the measured step.

The wait is a kernel of the step, and captured in its graph. A schedule sets the length of the wait for each pass. It is
written to the device at the start of a pass, outside the timed section.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import DecodeModel, ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model, register_model
from ttt_mlflow.workload import Workload

# µs to wait in each step of a pass. Passes are numbered from 0; the first ones prepare and warm up a decoder.
Schedule = Callable[[int], float]


class SpinningModel:
    """``model`` with the waits of ``schedule`` in its steps. See :class:`ttt_mlflow.models.entry.DecodeModel`."""

    def __init__(self, model: Any, device: torch.device, schedule: Schedule) -> None:
        self.model, self.schedule = model, schedule
        self.vocab_size: int = model.vocab_size
        self.passes = 0
        self._step = model.step
        self._ns, self._waited = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._spin = _spin_for(device)
        # optional methods of a model
        for name in ("prefill", "prefill_multiple", "parameter_count"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def new_state(self, batch: int) -> Any:
        return self.model.new_state(batch)

    def reset_state(self, state: Any) -> None:
        """Start of a pass, untimed: sets the wait of its steps."""
        self.model.reset_state(state)
        self._ns.fill_(round(1e3 * self.schedule(self.passes)))
        self.passes += 1

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Feed one token per sequence: tokens [B] to logits [B, V]. Then wait."""
        logits = self._step(tokens, state)
        self._spin(self._ns, self._waited)
        return logits

    def compile_step(self) -> None:
        """Compile the model's own step, without the wait."""
        if hasattr(self.model, "compile_step"):
            self.model.compile_step()
        else:
            self._step = torch.compile(self.model.step, dynamic=False)


def register_spinning(base: str, suffix: str, schedule: Schedule) -> str:
    """Register the model ``base`` with a wait in its step, as ``base+suffix``. Returns that name.

    Raises BadInput for an unknown model, and for a model with its own generation code.
    """
    entry = find_model(base)
    if entry.own_generation:
        raise BadInput(f"model={base}: it decodes with its own generation code, in which no wait can be inserted")

    def own(request: ModelRequest) -> ModelRequest:
        return replace(request, name=base)

    def build(request: ModelRequest) -> DecodeModel:
        return SpinningModel(entry.factory(own(request)), request.device, schedule)

    def work(request: ModelRequest, workload: Workload) -> Any:
        assert entry.work is not None
        return entry.work(own(request), workload)

    def kept_bytes(request: ModelRequest, workload: Workload) -> int:
        assert entry.kept_bytes is not None
        return entry.kept_bytes(own(request), workload)

    spinning: ModelEntry = replace(
        entry,
        name=f"{base}+{suffix}",
        description=f"{entry.description}; its step waits",
        factory=build,
        check=lambda request: entry.check(own(request)),
        work=work if entry.work else None,
        kept_bytes=kept_bytes if entry.kept_bytes else None,
    )
    return register_model(spinning).name


def spin_on_host(ns: Tensor, waited: Tensor) -> None:
    """Wait for ``ns`` [1] int64 nanoseconds in a busy loop. ``waited`` is set to the actual time."""
    began, wanted = time.perf_counter_ns(), int(ns)
    gone = 0
    while gone < wanted:
        gone = time.perf_counter_ns() - began
    waited.fill_(gone)


def _spin_for(device: torch.device) -> Callable[[Tensor, Tensor], None]:
    if device.type != "cuda":
        return spin_on_host
    from benchmarks.spin_kernel import spin  # imported here, because Triton is needed only with a GPU

    return spin
