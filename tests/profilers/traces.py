"""Traces composed by hand, as PyTorch's profiler writes them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ComposedTrace:
    """Events in µs; kernels are joined to their launches by numbers."""

    events: list[dict[str, Any]] = field(default_factory=list)
    _correlation: int = 0

    def range(self, name: str, begin: float, end: float, thread: int = 1) -> None:
        self._add("user_annotation", name, begin, end, thread)

    def operator(self, name: str, begin: float, end: float, thread: int = 1) -> None:
        self._add("cpu_op", name, begin, end, thread)

    def launch(self, at: float, *kernels: tuple[str, float, float], stream: int = 7, thread: int = 1) -> None:
        """One launch on the host, of a kernel or of a graph of several."""
        self._correlation += 1
        number = {"correlation": self._correlation}
        self._add("cuda_runtime", "cudaLaunchKernel", at, at + 1, thread, **number)
        for name, begin, end in kernels:
            category = "gpu_memset" if name.startswith("Memset") else "kernel"
            self._add(category, name, begin, end, stream, stream=stream, **number)

    @property
    def content(self) -> dict[str, Any]:
        # what else a trace has: names of processes, instants, spans
        other = [{"ph": "M", "name": "process_name", "pid": 1}, {"ph": "i", "name": "mark", "ts": 0}]
        return {"schemaVersion": 1, "traceEvents": [*other, *reversed(self.events)]}

    def _add(self, category: str, name: str, begin: float, end: float, thread: int, **more: Any) -> None:
        event = {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": thread, "ts": begin, "dur": end - begin}
        self.events.append({**event, "args": more})


def two_eager_steps() -> ComposedTrace:
    """Two steps of a layer of two kernels and a copy outside the layer, launched well before they run."""
    trace = ComposedTrace()
    for step in (0, 1):
        at, gpu = 100.0 * step, 1000 + 100.0 * step
        trace.range(f"step {step}", at, at + 50)
        trace.range("layer 0", at + 1, at + 30)
        trace.range("projections", at + 2, at + 12)
        trace.launch(at + 5, ("gemm", gpu, gpu + 20))
        trace.range("inner net state", at + 13, at + 29)
        trace.launch(at + 15, ("decode", gpu + 15, gpu + 40))  # begins while the product still runs
        trace.launch(at + 40, ("Memset (Device)", gpu + 50, gpu + 60))
    return trace


def two_replays() -> ComposedTrace:
    """The same two steps as a graph, which does not tell a fill's kind of memory."""
    trace = ComposedTrace()
    for step in (0, 1):
        at, gpu = 10.0 * step, 1000 + 70.0 * step
        trace.range(f"step {step}", at, at + 8)
        trace.launch(
            at + 2,
            ("gemm", gpu, gpu + 20),
            ("decode", gpu + 15, gpu + 40),
            ("Memset (Unknown)", gpu + 50, gpu + 60),
        )
    return trace
