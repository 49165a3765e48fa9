"""The profiling passes of a run. They follow the measurement and are not part of it.

A failure of one pass is kept as a problem. It affects neither the other passes nor the measurement.
"""

import gzip
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ttt_mlflow import names
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.measurement.roofline import PartWork
from ttt_mlflow.models.entry import DecodeModel, Decoder
from ttt_mlflow.names import Metrics
from ttt_mlflow.profilers import memory, torch_profiler
from ttt_mlflow.profilers.attribution import with_parts_of
from ttt_mlflow.profilers.nsys import Nsys, NsysOptions
from ttt_mlflow.profilers.nsys import profile as profile_with_nsys
from ttt_mlflow.profilers.nsys_tables import read_kernel_summary
from ttt_mlflow.profilers.step_profile import PartRoofline, StepProfile, kernel_table, part_table, profile_of, table_csv
from ttt_mlflow.profilers.trace import Steps, read_steps
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.kernel_table import ProfiledKernel, kernels_json
from ttt_mlflow.report.accuracy_report import accuracy_markdown, positions_csv, positions_png
from ttt_mlflow.report.memory_report import memory_page, parts_csv, parts_markdown
from ttt_mlflow.report.profile_pictures import kernels_png, timeline_png
from ttt_mlflow.report.profile_tables import kernels_markdown
from ttt_mlflow.report.timeline_page import timeline_page
from ttt_mlflow.run import nsys_child
from ttt_mlflow.run.accuracy import AccuracyPass, Doing, Predicted
from ttt_mlflow.run.attempt import attempt_pass
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.prepare import Prepared, clock_warmup_steps, release, to_mean_position, warm_clocks
from ttt_mlflow.workload import profiled_steps

MEMORY_STEPS = 4  # all steps allocate and free the same memory
# time limit of the process under nsys: a constant, and a factor for the seconds that this process needed to get ready
NSYS_LIMIT_S, NSYS_LIMIT_FACTOR = 180.0, 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """The measurement with which profiles are compared.

    step_ms: the mean time of what is profiled, measured without a profiler; None if it was not measured.
    parts: the work of each part of a step; empty if the model does not count it. startup_s: seconds from the start of
    the process until the decoder was ready. attn_impl: the attention that was measured; None if the model has none.
    """

    step_ms: float | None
    parts: Sequence[PartWork]
    startup_s: float
    attn_impl: str | None = None


class Profiles:
    """The profiling passes of one run. problems: one line for each pass that failed. doing: shows the progress."""

    def __init__(self, record: Journal, plan: Plan, measured: Measured, doing: Doing = lambda what: None) -> None:
        self.record, self.plan, self.measured, self._doing = record, plan, measured, doing
        self.used, self.device = plan.used, plan.device
        self.on_gpu = plan.device.type == "cuda"
        self.problems: list[str] = []
        self._predicted: Predicted | None = None

    def of_the_decoder(self, prepared: Prepared) -> None:
        """Run the passes that need the measured decoder."""
        # the memory pass is first, so that it does not see memory of the other passes
        if "memory" in self.used.profile:
            self._attempt("memory", lambda: self._memory_pass(prepared))
        if "torch" in self.used.profile:
            self._attempt("torch", lambda: self._torch_pass(prepared))
        if "accuracy" in self.used.profile and self.used.mode == "decode":
            self._attempt("accuracy", lambda: self._predict(prepared))

    def of_the_model(self, prompt: Tensor, model: DecodeModel) -> None:
        """Run the passes that need the weights, after the memory of the measured decoder was released."""
        if "accuracy" in self.used.profile and (self._predicted or self.used.mode == "prefill"):
            release(self.device)
            self._attempt("accuracy", lambda: self._accuracy_pass(prompt, model))

    def of_a_process(self) -> None:
        """Run the passes in a separate process, after the model's memory was released."""
        if nsys := self.plan.nsys:
            release(self.device)
            self._attempt("nsys", lambda: self._nsys_pass(nsys))

    def _attempt(self, kind: str, action: Callable[[], None]) -> None:
        if problem := attempt_pass(kind, self.record, self.device, action):
            self.problems.append(problem)

    # PyTorch's profiler

    def _torch_pass(self, prepared: Prepared) -> None:
        """Profile a few decode steps or one prompt, and write the trace, tables, pictures and page."""
        step, count = self._profiled_step(prepared)
        most = clock_warmup_steps(self.used, self.device)

        def warm_up() -> None:
            warm_clocks(step, most, self.device)
            to_mean_position(self.plan, prepared, count)

        trace = torch_profiler.record(step, count, self.device, warm_up)
        packed = gzip.compress(trace.data)
        self.record.write_artifact(names.ARTIFACT_TORCH_TRACE, packed)
        steps = read_steps(trace.content, self.on_gpu)
        if self.on_gpu and not steps.activities:
            raise RunFailed(torch_profiler.NO_KERNEL)
        notes: list[str] = []
        if self.used.use_compile or self.used.cuda_graph:
            steps = self._with_parts(prepared.decoder, step, steps, notes)
        self._write_step(steps, packed, notes)

    def _profiled_step(self, prepared: Prepared) -> tuple[Callable[[], object], int]:
        """What a pass runs, and how many times."""
        decoder, prompt = prepared.decoder, prepared.prompt
        if self.used.mode == "prefill":
            return lambda: decoder.prefill(prompt), 1
        decoder.prefill(prompt)
        return decoder.step, min(profiled_steps(self.plan.entry.period), self.used.genlen)

    def _with_parts(self, decoder: Decoder, step: Callable[[], object], steps: Steps, notes: list[str]) -> Steps:
        """``steps`` with layers and parts from an eager pass. If that is not possible, a note says why."""
        if not hasattr(decoder, "eagerly"):
            notes.append("The parts are not known: the model's own decoder has no eager step to take them from.")
            return steps
        try:
            with decoder.eagerly():
                eager = torch_profiler.record(step, 1, self.device)
        except torch.OutOfMemoryError:
            log.warning("no eager pass: out of memory")
            notes.append("The parts are not known: the eager step that shows them does not fit into the memory.")
            return steps
        self.record.write_artifact(names.ARTIFACT_TORCH_EAGER_TRACE, gzip.compress(eager.data))
        notes.append("The parts come from an eager step, in which the same kernels run in the same order.")
        return with_parts_of(steps, read_steps(eager.content, self.on_gpu).activities)

    def _write_step(self, steps: Steps, packed: bytes, notes: list[str]) -> None:
        record, title = self.record, self.used.run_name
        profile = profile_of(steps)
        parts = part_table(steps, self._rooflines())
        kernels = kernel_table(steps, parts)
        record.update_metrics(_metrics(profile) | {names.PART_US.of(row.part): 1e3 * row.ms_per_step for row in parts})
        table_rows = [
            ProfiledKernel(row.name, row.part, row.calls / steps.count, 1e3 * row.ms_per_step, row.share_pct)
            for row in kernels
        ]
        record.write_artifact(names.ARTIFACT_KERNELS, kernels_json(table_rows))
        record.write_artifact(names.ARTIFACT_TORCH_STEP, json.dumps(self._step_record(profile), indent=1))
        record.write_artifact(names.ARTIFACT_TORCH_KERNELS_CSV, table_csv(kernels))
        record.write_artifact(names.ARTIFACT_TORCH_PARTS, table_csv(parts))
        table = kernels_markdown(profile, kernels, parts, self.measured.step_ms, notes)
        record.write_artifact(names.ARTIFACT_TORCH_KERNELS_TABLE, table)
        record.write_artifact(names.ARTIFACT_TORCH_KERNELS_CHART, kernels_png(kernels, title))
        one = steps.of_step(steps.count // 2)
        title = f"{title}, step {steps.count // 2}" if steps.count > 1 else title
        record.write_artifact(names.ARTIFACT_TORCH_TIMELINE, timeline_png(one, title))
        record.write_artifact(names.ARTIFACT_TORCH_PAGE, timeline_page(one, packed, title))

    def _step_record(self, profile: StepProfile) -> dict[str, object]:
        """The known times of the step. Unknown values are left out."""
        known = asdict(profile) | {"mode": self.used.mode, "measured_ms": self.measured.step_ms}
        return {name: value for name, value in known.items() if value is not None}

    def _rooflines(self) -> dict[str, PartRoofline]:
        return {part.part: PartRoofline(part.bytes, part.milliseconds) for part in self.measured.parts}

    # The allocator

    def _memory_pass(self, prepared: Prepared) -> None:
        """Record the allocator during a prompt and a few steps, and the memory by part after them."""

        def work() -> None:
            step, count = self._profiled_step(prepared)
            for _ in range(min(count, MEMORY_STEPS)):
                step()

        recorded = memory.record(work, self.device)
        self.record.write_artifact(names.ARTIFACT_MEMORY_SNAPSHOT, recorded.pickled())
        decoder = prepared.decoder
        parts = decoder.memory_parts() if hasattr(decoder, "memory_parts") else {}
        rows = memory.memory_table(recorded, parts)
        self.record.write_artifact(names.ARTIFACT_MEMORY_PARTS, parts_csv(rows))
        self.record.write_artifact(names.ARTIFACT_MEMORY_TABLE, parts_markdown(rows, recorded.allocator))
        page = memory_page(rows, memory.history(recorded), f"{self.used.run_name}: memory")
        self.record.write_artifact(names.ARTIFACT_MEMORY_PAGE, page)

    # Accuracy

    def _predict(self, prepared: Prepared) -> None:
        one = AccuracyPass(self.plan, prepared.prompt, prepared.model.vocab_size, self._doing)
        self._predicted = one.predict(prepared.decoder)

    def _accuracy_pass(self, prompt: Tensor, model: DecodeModel) -> None:
        """Compare the predictions with those of the same weights in float32."""
        one = AccuracyPass(self.plan, prompt, model.vocab_size, self._doing)
        predicted, self._predicted = self._predicted, None  # its logits take gigabytes of the host's memory
        compared = one.compare(predicted or one.predict_anew(model), model)
        accuracy, metrics = compared.accuracy, compared.accuracy.metrics()
        self.record.update_metrics(metrics)
        known = {
            "reference": compared.reference,
            "yardstick": compared.yardstick,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "metrics": {metric.name: value for metric, value in metrics.items()},
            "first_differences": list(accuracy.own.first),
            "yardstick_first_differences": list(accuracy.yardstick.first) if accuracy.yardstick else None,
            "notes": compared.notes,
        }
        self.record.write_artifact(names.ARTIFACT_ACCURACY, json.dumps(known, indent=1))
        table = accuracy_markdown(accuracy, compared.reference, compared.yardstick, compared.notes)
        self.record.write_artifact(names.ARTIFACT_ACCURACY_TABLE, table)
        if accuracy.own.deviations is not None:
            self.record.write_artifact(names.ARTIFACT_ACCURACY_POSITIONS, positions_csv(accuracy))
            self.record.write_artifact(names.ARTIFACT_ACCURACY_CHART, positions_png(accuracy, self.used.run_name))

    # Nsight Systems

    def _nsys_pass(self, nsys: Nsys) -> None:
        """Run a few steps of the same configuration under nsys, in a separate process."""
        self.record.update_tags({names.TAG_NSYS: nsys.version})
        options = NsysOptions.parse(self.used.nsys_args, self.used.nsys_export == "sqlite")
        alone = self.used.model_copy(
            update={"profile": (), "nsys_args": None, "nsys_export": "none", "attn_impl": self.measured.attn_impl}
        )
        command = [sys.executable, "-m", nsys_child.__name__, alone.model_dump_json()]
        limit_s = NSYS_LIMIT_S + NSYS_LIMIT_FACTOR * self.measured.startup_s
        out_dir = self.record.artifact_path(names.ARTIFACT_NSYS_LOG).parent
        try:
            profile_with_nsys(nsys, command, out_dir, limit_s, options)
        finally:
            self._write_nsys_kernels()

    def _write_nsys_kernels(self) -> None:
        """Keep the kernels of nsys as MLflow's table, unless PyTorch's profiler has made it, which knows the parts."""
        table = self.record.artifact_path(names.ARTIFACT_KERNELS)
        kernels = self.record.artifact_path(names.ARTIFACT_NSYS_KERNELS)
        if table.exists() or not kernels.exists():
            return
        steps = nsys_child.steps(self.plan)
        rows = [
            ProfiledKernel(row.name, None, row.calls / steps, row.total_ns / 1e3 / steps, row.share_pct)
            for row in read_kernel_summary(kernels.read_text())
        ]
        self.record.write_artifact(names.ARTIFACT_KERNELS, kernels_json(rows))


def _metrics(profile: StepProfile) -> Metrics:
    """The metrics of a profile. They are defined for a GPU only."""
    found: Metrics = {}
    if profile.host_ms is not None:
        found[names.HOST_MS_PER_STEP] = profile.host_ms
    if profile.launch_gap_us is not None:
        found[names.LAUNCH_GAP_US_MEAN] = profile.launch_gap_us
        found[names.GPU_IDLE_PCT] = 100 * profile.idle_ms / profile.step_ms
        found[names.PROFILED_STEP_MS] = profile.step_ms
    return found
