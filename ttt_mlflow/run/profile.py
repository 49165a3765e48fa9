"""The profiling passes of a run: each one after the measurement, none of them part of it.

What goes wrong in one is kept as a problem and costs neither the others nor the measurement; :meth:`Passes.finish`
raises what there is.
"""

import csv
import gc
import gzip
import io
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.models.entry import Decoder
from ttt_mlflow.profilers import memory, torch_profiler
from ttt_mlflow.profilers.attribution import with_parts_of
from ttt_mlflow.profilers.nsys import Nsys, NsysOptions
from ttt_mlflow.profilers.nsys import profile as profile_with_nsys
from ttt_mlflow.profilers.step_profile import PartFloor, StepProfile, kernel_table, part_table, summarise, table_csv
from ttt_mlflow.profilers.trace import Steps, read_steps
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.report.memory_report import memory_page, parts_csv, parts_markdown
from ttt_mlflow.report.profile_pictures import kernels_png, timeline_png
from ttt_mlflow.report.profile_tables import kernels_markdown
from ttt_mlflow.report.timeline_page import timeline_page
from ttt_mlflow.run import nsys_child
from ttt_mlflow.run.attempt import COMPLETE, attempt_pass
from ttt_mlflow.run.prepare import profiled_steps, settle, settling_steps

MEMORY_STEPS = 4  # each allocates and frees the same
# how long the process under nsys may take: in all, and for each second that this one took until it was ready
NSYS_LIMIT_S, NSYS_LIMIT_FACTOR = 180.0, 5.0
log = logging.getLogger(__name__)


class Passes:
    """The passes of one run, on the model that was measured; ``period`` is the model's."""

    def __init__(
        self, journal: Journal, used: RunConfig, device: torch.device, nsys: Nsys | None, period: int = 1
    ) -> None:
        self.journal, self.used, self.device, self.nsys, self.period = journal, used, device, nsys, period
        self.on_gpu = device.type == "cuda"
        self.problems: list[str] = []

    def run(self, decoder: Decoder, prompt: Tensor) -> None:
        """What was asked for of those that need the built model."""
        # first: what another pass leaves behind is not the run's memory
        if "memory" in self.used.profile:
            self.attempt("memory", lambda: self.memory_pass(decoder, prompt))
        if "torch" in self.used.profile:
            self.attempt("torch", lambda: self.torch_pass(decoder, prompt))

    def run_apart(self) -> None:
        """What was asked for of those in a process of their own, once the model's memory is free again."""
        if self.nsys:
            release(self.device)
            nsys = self.nsys
            self.attempt("nsys", lambda: self.nsys_pass(nsys))

    def finish(self) -> None:
        """Raise :class:`RunFailed` where a pass failed."""
        if self.problems:
            raise RunFailed(f"{'; '.join(self.problems)}; {COMPLETE}")

    def attempt(self, kind: str, action: Callable[[], None]) -> None:
        """One pass, whose failure is kept."""
        if problem := attempt_pass(kind, self.journal, self.device, action):
            self.problems.append(problem)

    # PyTorch's profiler

    def torch_pass(self, decoder: Decoder, prompt: Tensor) -> None:
        """A few decode steps, or one prompt: the trace, tables and pictures of it, and a page to look around in."""
        step, count = self.profiled_step(decoder, prompt)
        most = settling_steps(self.used, self.device)
        trace = torch_profiler.record(step, count, self.device, lambda: settle(step, most, self.device))
        packed = gzip.compress(trace.data)
        self.journal.write_artifact("profiles/torch/trace.json.gz", packed)
        steps = read_steps(trace.content, self.on_gpu)
        if self.on_gpu and not steps.activities:
            raise RunFailed(torch_profiler.NO_KERNEL)
        notes: list[str] = []
        if self.used.use_compile or self.used.cuda_graph:
            steps = self.with_parts(decoder, step, steps, notes)
        self.write_step(steps, packed, notes)

    def profiled_step(self, decoder: Decoder, prompt: Tensor) -> tuple[Callable[[], object], int]:
        """What a pass runs, and how often."""
        if self.used.mode == "prefill":
            return lambda: decoder.prefill(prompt), 1
        decoder.prefill(prompt)
        return decoder.step, min(profiled_steps(self.period), self.used.genlen)

    def with_parts(self, decoder: Decoder, step: Callable[[], object], steps: Steps, notes: list[str]) -> Steps:
        """``steps`` with the layers and parts that an eager pass beside them shows; why not is noted."""
        if not hasattr(decoder, "eagerly"):
            notes.append("Parts are not known: the model's own decoder offers no eager step to take them from.")
            return steps
        try:
            with decoder.eagerly():
                eager = torch_profiler.record(step, 1, self.device)
        except torch.OutOfMemoryError:
            log.warning("no eager pass: out of memory")
            notes.append("Parts are not known: the eager step that shows them does not fit into the device's memory.")
            return steps
        self.journal.write_artifact("profiles/torch/trace-eager.json.gz", gzip.compress(eager.data))
        notes.append("Parts are those that the same kernels have, in the same order, in an eager step beside it.")
        return with_parts_of(steps, read_steps(eager.content, self.on_gpu).activities)

    def write_step(self, steps: Steps, packed: bytes, notes: list[str]) -> None:
        journal, title = self.journal, self.used.run_name
        profile = summarise(steps)
        parts = part_table(steps, self.floors())
        kernels = kernel_table(steps, parts)
        journal.update_metrics(profile.metrics())
        journal.write_artifact("profiles/torch/step.json", json.dumps(self.step_record(profile), indent=1))
        journal.write_artifact("profiles/torch/kernels.csv", table_csv(kernels))
        journal.write_artifact("profiles/torch/parts.csv", table_csv(parts))
        table = kernels_markdown(profile, kernels, parts, self.measured_ms, notes)
        journal.write_artifact("profiles/torch/kernels.md", table)
        journal.write_artifact("profiles/torch/kernels.png", kernels_png(kernels, title))
        one = steps.of_step(steps.count // 2)
        title = f"{title}, step {steps.count // 2}" if steps.count > 1 else title
        journal.write_artifact("profiles/torch/timeline.png", timeline_png(one, title))
        journal.write_artifact("profiles/torch/open.html", timeline_page(one, packed, title))

    def step_record(self, profile: StepProfile) -> dict[str, object]:
        """What is known of the step's time; what is not is left out."""
        known = asdict(profile) | {"mode": self.used.mode, "measured_ms": self.measured_ms}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def measured_ms(self) -> float | None:
        """The mean time of what a pass profiles, as it was measured."""
        return self.journal.metrics.get("prefill_ms" if self.used.mode == "prefill" else "decode_step_ms_mean")

    def floors(self) -> dict[str, PartFloor]:
        """The roofline's parts as they were recorded; none of a model that does not count its work."""
        path = self.journal.artifacts / "roofline/parts.csv"
        if not path.exists():
            return {}
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return {
            row["part"]: PartFloor(float(row["bytes"]), float(row["floor_ms"]) if row["floor_ms"] else None)
            for row in rows
        }

    # The allocator

    def memory_pass(self, decoder: Decoder, prompt: Tensor) -> None:
        """A prompt and a few steps with the allocator's history; what the memory holds after them, by part."""

        def work() -> None:
            step, count = self.profiled_step(decoder, prompt)
            for _ in range(min(count, MEMORY_STEPS)):
                step()

        recorded = memory.record(work, self.device)
        self.journal.write_artifact("profiles/memory/snapshot.pickle", recorded.pickled())
        parts = decoder.memory_parts() if hasattr(decoder, "memory_parts") else {}
        rows = memory.memory_table(recorded, parts)
        self.journal.write_artifact("profiles/memory/parts.csv", parts_csv(rows))
        self.journal.write_artifact("profiles/memory/parts.md", parts_markdown(rows, recorded.allocator))
        page = memory_page(rows, memory.history(recorded), f"{self.used.run_name}: memory")
        self.journal.write_artifact("profiles/memory/open.html", page)

    # Nsight Systems

    def nsys_pass(self, nsys: Nsys) -> None:
        """A few steps of the same configuration in a process of its own, under nsys."""
        self.journal.update_tags({"ttt.nsys": nsys.version})
        options = NsysOptions.parse(self.used.nsys_args, self.used.nsys_export == "sqlite")
        alone = self.used.model_copy(update={"profile": (), "nsys_args": None, "nsys_export": "none"})
        command = [sys.executable, "-m", nsys_child.__name__, alone.model_dump_json()]
        metrics = self.journal.metrics
        began_s = sum(metrics.get(name, 0.0) for name in ("imports_s", "setup_s", "compile_s"))
        out_dir = self.journal.artifact_path("profiles/nsys/nsys.log").parent
        profile_with_nsys(nsys, command, out_dir, NSYS_LIMIT_S + NSYS_LIMIT_FACTOR * began_s, options)


def release(device: torch.device) -> None:
    """Give memory back that nothing holds any more: PyTorch's profiler leaves a cycle that holds the model."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
