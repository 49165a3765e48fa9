"""A model whose decode step waits: a known slowdown, noise or drift, put into the step that is measured.

The wait is a kernel of the step like any other, captured in its graph. How long it takes is decided anew for each pass
by a schedule, and written to the device where a pass begins, outside of what is timed.
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

# µs to wait in each step of a pass. Passes are numbered from 0; the first few are those in which a decoder is made
# ready and warmed up.
Schedule = Callable[[int], float]


class SpinningModel:
    """``model``, whose steps wait as ``schedule`` says. See :class:`ttt_mlflow.models.entry.DecodeModel`."""

    def __init__(self, model: Any, device: torch.device, schedule: Schedule) -> None:
        self.model, self.schedule = model, schedule
        self.vocab_size: int = model.vocab_size
        self.passes = 0
        self._step = model.step
        self._ns, self._waited = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._spin = _spin_for(device)
        # what a model may offer and need not
        for name in ("prefill", "prefill_multiple", "parameter_count"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def new_state(self, batch: int) -> Any:
        return self.model.new_state(batch)

    def reset_state(self, state: Any) -> None:
        """A pass begins here, untimed: the wait of its steps is settled."""
        self.model.reset_state(state)
        self._ns.fill_(round(1e3 * self.schedule(self.passes)))
        self.passes += 1

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Feed one token a sequence: tokens [B] to logits [B, V]; then wait."""
        logits = self._step(tokens, state)
        self._spin(self._ns, self._waited)
        return logits

    def compile_step(self) -> None:
        """Compile the model's own step; the wait is no part of it."""
        if hasattr(self.model, "compile_step"):
            self.model.compile_step()
        else:
            self._step = torch.compile(self.model.step, dynamic=False)


def register_spinning(base: str, suffix: str, schedule: Schedule) -> str:
    """Register the model ``base`` with a wait in its step, as ``base+suffix``; returns that name.

    Raises BadInput for an unknown model, and for one whose step is not this package's.
    """
    entry = find_model(base)
    if entry.own_generation:
        raise BadInput(f"model={base}: decodes through its own generation code, and a wait cannot be put into its step")

    def own(request: ModelRequest) -> ModelRequest:
        return replace(request, name=base)

    def build(request: ModelRequest) -> DecodeModel:
        return SpinningModel(entry.factory(own(request)), request.device, schedule)

    def work(request: ModelRequest, workload: Workload) -> Any:
        assert entry.work is not None
        return entry.work(own(request), workload)

    spinning: ModelEntry = replace(
        entry,
        name=f"{base}+{suffix}",
        description=f"{entry.description}; its step waits",
        factory=build,
        check=lambda request: entry.check(own(request)),
        work=work if entry.work else None,
    )
    return register_model(spinning).name


def spin_on_host(ns: Tensor, waited: Tensor) -> None:
    """Wait for ``ns`` [1] int64 nanoseconds, busily, as a step that computes would; ``waited`` is what it became."""
    began, wanted = time.perf_counter_ns(), int(ns)
    gone = 0
    while gone < wanted:
        gone = time.perf_counter_ns() - began
    waited.fill_(gone)


def _spin_for(device: torch.device) -> Callable[[Tensor, Tensor], None]:
    if device.type != "cuda":
        return spin_on_host
    from benchmarks.spin_kernel import spin  # Triton is loaded where a GPU is used

    return spin
