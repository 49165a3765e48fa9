"""The catalog of public names: metrics, time series, tags and artifacts.

Dashboards, saved searches and scripts rely on these names. Each is defined here once, as an object with its unit and
its meaning, and code records through the object. ``python -m docs.generate`` writes docs/names.md from this module and
from the configurations, whose fields are the parameters.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

Better = Literal["higher", "lower"]
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    better: which way is better; None for a fact that has no goal. label: what a chart or a table calls it.
    headline: whether a first screen shows it.
    """

    name: str
    unit: str
    meaning: str
    better: Better | None = None
    label: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Estimate(Metric):
    """A number with a confidence interval: two more metrics."""

    @property
    def ci_low(self) -> Metric:
        return self._end("low", "lower")

    @property
    def ci_high(self) -> Metric:
        return self._end("high", "upper")

    def _end(self, suffix: str, word: str) -> Metric:
        meaning = f"{word} end of the 95 % confidence interval of {self.name}"
        return Metric(f"{self.name}_ci_{suffix}", self.unit, meaning, self.better, f"{self.label}, {word} end")


@dataclass(frozen=True)
class Throughput(Estimate):
    """A median of passes."""


@dataclass(frozen=True)
class KernelMetric(Metric):
    """A number of one kernel of a micro-benchmark."""

    def of(self, kernel: str) -> Metric:
        """The metric of ``kernel``, for example ``kernel_us/mlp_1_dual_triton``."""
        return replace(self, name=f"{self.name}/{kernel}")


@dataclass(frozen=True)
class PartMetric(Metric):
    """A number of one part of a step."""

    def of(self, part: str) -> Metric:
        """The metric of ``part``, for example ``part_us/inner_net_state`` for the part "inner net state"."""
        safe = re.sub(r"[^a-z0-9]+", "_", part.lower())
        return replace(self, name=f"{self.name}/{safe}")


@dataclass(frozen=True)
class SystemMetric(Metric):
    """A time series of one GPU, for MLflow's System metrics tab, which shows names that begin with ``system/``."""

    def of(self, gpu_index: int) -> Metric:
        """The series of one GPU, for example ``system/gpu_0_power_usage_watts``."""
        return replace(self, name=f"system/gpu_{gpu_index}_{self.name}")


@dataclass(frozen=True)
class Tag:
    """A text about a run, by which runs are found and filtered."""

    name: str
    meaning: str


@dataclass(frozen=True)
class ExperimentTag:
    """A text about an experiment."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Artifact:
    """A file of a run's record; ``path`` is relative to the run's artifacts."""

    path: str
    meaning: str


Metrics = dict[Metric, float]
Point = tuple[int, int, float]  # timestamp in ms since 1970, step, value
Series = dict[Metric, list[Point]]
Tags = dict[Tag, str]


# Metrics of a decode or prefill run. A metric that was not measured is absent, never zero.

DECODE_TOKENS_PER_S = Throughput(
    "decode_tokens_per_s",
    "tokens/s",
    "batch times decode steps, divided by the time of the steps; median of the timed passes",
    better="higher",
    label="decode throughput",
    headline=True,
)
DECODE_STEP_MS_P50 = Metric(
    "decode_step_ms_p50", "ms", "time of one decode step, median", "lower", "decode step, p50", headline=True
)
DECODE_STEP_MS_P90 = Metric(
    "decode_step_ms_p90", "ms", "time of one decode step, 90th percentile", "lower", "decode step, p90"
)
DECODE_STEP_MS_P99 = Metric(
    "decode_step_ms_p99", "ms", "time of one decode step, 99th percentile", "lower", "decode step, p99"
)
DECODE_STEP_MS_MEAN = Metric("decode_step_ms_mean", "ms", "time of one decode step, mean", "lower", "decode step, mean")
GENERATION_TOKENS_PER_S = Throughput(
    "generation_tokens_per_s",
    "tokens/s",
    "batch times generated tokens (including the first), divided by the time of prompt and decode together; median",
    better="higher",
    label="throughput of prompt and decode",
)
PREFILL_TOKENS_PER_S = Throughput(
    "prefill_tokens_per_s",
    "tokens/s",
    "batch times prompt tokens, divided by the prefill time; median of the timed passes; confidence interval only in "
    "prefill mode",
    better="higher",
    label="prefill throughput",
    headline=True,
)
PREFILL_MS = Metric(
    "prefill_ms", "ms", "time to process the prompt, median of the timed passes", "lower", "prefill time"
)
TIME_TO_FIRST_TOKEN_MS = Metric(
    "time_to_first_token_ms",
    "ms",
    "from the start of the prompt until the first generated token is on the host, median",
    "lower",
    "time to first token",
)
PEAK_MEMORY_ALLOCATED_GB = Metric(
    "peak_memory_allocated_gb", "10⁹ bytes", "peak memory of PyTorch's tensors", "lower", "peak memory", headline=True
)
PEAK_MEMORY_RESERVED_GB = Metric(
    "peak_memory_reserved_gb", "10⁹ bytes", "peak memory of PyTorch's allocator", "lower", "peak memory reserved"
)
DEVICE_MEMORY_USED_GB = Metric(
    "device_memory_used_gb",
    "10⁹ bytes",
    "peak memory in use on the device by all processes, from NVML",
    "lower",
    "device memory used",
)
SM_CLOCK_MHZ_MEAN = Metric("sm_clock_mhz_mean", "MHz", "SM clock, mean over the measured section", label="SM clock")
SM_CLOCK_MHZ_MIN = Metric(
    "sm_clock_mhz_min", "MHz", "SM clock, lowest sample of the measured section", label="SM clock, lowest"
)
SM_CLOCK_MHZ_MAX = Metric(
    "sm_clock_mhz_max", "MHz", "SM clock, highest sample of the measured section", label="SM clock, highest"
)
MEMORY_CLOCK_MHZ_MEAN = Metric(
    "memory_clock_mhz_mean", "MHz", "memory clock, mean over the measured section", label="memory clock"
)
POWER_W_MEAN = Metric("power_w_mean", "W", "board power, mean over the measured section", label="power")
ENERGY_J = Metric("energy_j", "J", "energy of the measured section", label="energy")
JOULES_PER_TOKEN = Metric(
    "joules_per_token",
    "J",
    "energy of the measured section, divided by the tokens generated in it",
    "lower",
    "energy per token",
)
TEMPERATURE_C_MAX = Metric(
    "temperature_c_max", "°C", "GPU temperature, highest sample of the measured section", label="temperature, highest"
)
GPU_UTILIZATION_PCT_MEAN = Metric(
    "gpu_utilization_pct_mean",
    "%",
    "share of time with a kernel running, mean over the measured section",
    label="GPU utilization",
)
SM_ACTIVE_PCT_MEAN = Metric(
    "sm_active_pct_mean",
    "%",
    "share of the SMs with a warp on them, mean over the measured section (GPM)",
    label="SM activity",
)
TENSOR_ACTIVE_PCT_MEAN = Metric(
    "tensor_active_pct_mean",
    "%",
    "share of the tensor cores' time in use, mean over the measured section (GPM)",
    label="tensor core activity",
)
DRAM_BANDWIDTH_PCT_MEAN = Metric(
    "dram_bandwidth_pct_mean",
    "%",
    "share of the DRAM bandwidth in use, mean over the measured section (GPM)",
    label="DRAM bandwidth",
)

# NVML's clock event reasons, in the order of their bits: reason i is bit 1 << i of the mask.
CLOCK_EVENT_REASONS: tuple[str, ...] = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
)
CLOCK_EVENT_PCT: dict[str, Metric] = {
    reason: Metric(
        f"clock_event_{reason}_pct",
        "%",
        f"share of the measured section in which NVML named {reason}",
        label=f"clock event {reason}",
    )
    for reason in CLOCK_EVENT_REASONS
}
# NVML's performance policies, in the order of their numbers: what can hold the clocks down.
VIOLATION_POLICIES: tuple[str, ...] = (
    "power",
    "thermal",
    "sync_boost",
    "board_limit",
    "low_utilization",
    "reliability",
)
VIOLATION_S: dict[str, Metric] = {
    policy: Metric(
        f"violation_{policy}_s",
        "s",
        f"time in the measured section in which NVML's policy {policy} held clocks down",
        label=f"violation {policy}",
    )
    for policy in VIOLATION_POLICIES
}
NEIGHBOR_GPUS_BUSY = Metric(
    "neighbor_gpus_busy",
    "count",
    "other GPUs of the host that were busy, mean from the first measured section to the last; absent without another "
    "GPU",
    label="busy neighbors",
)
NEIGHBOR_POWER_W = Metric(
    "neighbor_power_w",
    "W",
    "power of the host's other GPUs together, mean from the first measured section to the last; absent without another "
    "GPU",
    label="power of the neighbors",
)
ECC_UNCORRECTED_ERRORS = Metric(
    "ecc_uncorrected_errors",
    "count",
    "uncorrected ECC errors of the device's memory in the measured section",
    "lower",
    "uncorrected ECC errors",
)
MIN_BYTES_PER_STEP = Metric(
    "min_bytes_per_step",
    "bytes",
    "bytes that a decode step must read and write; in prefill mode, the prompt",
    label="minimum bytes per step",
)
FLOPS_PER_STEP = Metric(
    "flops_per_step",
    "FLOP",
    "operations that a decode step must do; in prefill mode, the prompt",
    label="operations per step",
)
ROOFLINE_MS = Metric(
    "roofline_ms",
    "ms",
    "minimum time for these bytes and operations on this GPU, from its measured read bandwidth and matrix rate",
    label="roofline time",
)
ROOFLINE_PCT = Metric(
    "roofline_pct",
    "%",
    "roofline_ms in percent of the measured time: the mean step; in prefill mode, prefill_ms",
    "higher",
    "share of the roofline",
    headline=True,
)
BATCH = Metric("batch", "count", "the parameter batch as a number, for sorting, filters and charts", label="batch")
PROMPTLEN = Metric("promptlen", "count", "the parameter promptlen as a number", label="prompt tokens")
GENLEN = Metric("genlen", "count", "the parameter genlen as a number (decode mode)", label="decode steps")
MODEL_PARAMETERS = Metric("model_parameters", "count", "parameters of the model", label="parameters")
RELATIVE_SPREAD_PCT = Metric(
    "relative_spread_pct",
    "%",
    "coefficient of variation of the passes: their standard deviation in percent of their median",
    "lower",
    "coefficient of variation",
)
RELATIVE_HALF_WIDTH_PCT = Metric(
    "relative_half_width_pct",
    "%",
    "half the width of the median's 95 % confidence interval, in percent of the median",
    "lower",
    "confidence interval ±",
    headline=True,
)
DRIFT_PCT = Metric(
    "drift_pct",
    "%",
    "how much longer the last third of the passes took than the first third; of 2 or 3 passes, the last than the first",
    label="drift",
)
DRIFT_P_VALUE = Metric(
    "drift_p_value", "1", "p-value of drift_pct: probability of as much drift by chance", label="drift, p-value"
)
DRIFT_WITHIN_PASS_PCT = Metric(
    "drift_within_pass_pct",
    "%",
    "how much longer the steps of a pass's last third took than the steps of its first third",
    label="drift within a pass",
)
DRIFT_WITHIN_PASS_P_VALUE = Metric(
    "drift_within_pass_p_value",
    "1",
    "p-value of drift_within_pass_pct: probability of as much drift by chance",
    label="drift within a pass, p-value",
)
PASS_TOKENS_PER_S = Metric(
    "pass_tokens_per_s",
    "tokens/s",
    "throughput of each complete timed pass: a series with the number of the pass as its step",
    "higher",
    "throughput of a pass",
)
DISCARDED_TOKENS_PER_S = Metric(
    "discarded_tokens_per_s",
    "tokens/s",
    "median throughput of each attempt that retry_invalid discarded: a series with the attempt as its step",
    "higher",
    "throughput of a discarded attempt",
)
ATTEMPTS = Metric(
    "attempts", "count", "measurements made with retry_invalid, of which only the last one counts", label="attempts"
)
WARMUP_PASSES = Metric("warmup_passes", "count", "untimed passes before the measurement", label="warm-up passes")
MEASURED_PASSES = Metric("measured_passes", "count", "complete timed passes", label="timed passes")
IMPORTS_S = Metric(
    "imports_s", "s", "from the start of the process until its libraries are loaded", "lower", "import time"
)
SETUP_S = Metric("setup_s", "s", "building the model and the prompt", "lower", "setup time")
COMPILE_S = Metric(
    "compile_s", "s", "compiling, loading kernels, capturing the CUDA graph", "lower", "compilation time"
)
WARMUP_S = Metric("warmup_s", "s", "time of the warm-up passes", label="warm-up time")
RECORDING_S = Metric("recording_s", "s", "writing the measurement to disk", "lower", "recording time")
PROFILE_S = Metric("profile_s", "s", "the profiling passes after the measurement", label="profiling time")
PROFILED_STEP_MS = Metric(
    "profiled_step_ms",
    "ms",
    "a step under the profiler, mean; longer than the measured step where it waits for the host",
    label="profiled step",
)
GPU_IDLE_PCT = Metric(
    "gpu_idle_pct", "%", "share of the profiled steps in which nothing ran on the GPU", "lower", "GPU idle"
)
LAUNCH_GAP_US_MEAN = Metric(
    "launch_gap_us_mean",
    "µs",
    "from the end of one GPU kernel to the start of the next, mean over a profiled step",
    "lower",
    "gap between kernels",
)
HOST_MS_PER_STEP = Metric(
    "host_ms_per_step",
    "ms",
    "time that the host takes to launch a profiled step, mean",
    "lower",
    "kernel launch overhead",
)

PART_US = PartMetric("part_us", "µs", "time of one part of a profiled step, mean; by part", "lower", "time of the part")

# Accuracy: metrics of profile=accuracy, which compares the model's predictions with those of a float32 reference that
# has the same weights. The yardstick is plain PyTorch in the dtype of the run.

ACCURACY_SEQUENCES = Metric(
    "accuracy_sequences", "count", "sequences of the batch that profile=accuracy compared", label="compared sequences"
)
ACCURACY_POSITIONS = Metric(
    "accuracy_positions", "count", "predictions of each of these sequences", label="compared predictions of a sequence"
)
ACCURACY_LOGITS_ERROR = Metric(
    "accuracy_logits_error",
    "1",
    "||logits - reference|| / ||reference||, over all compared positions; the same tokens were fed to both",
    "lower",
    "logits' error",
)
ACCURACY_TOTAL_VARIATION = Metric(
    "accuracy_total_variation",
    "1",
    "total variation between the predicted distribution and the reference's, mean over these positions",
    "lower",
    "total variation of the predictions",
)
ACCURACY_DIFFERING_TOKENS_PCT = Metric(
    "accuracy_differing_tokens_pct",
    "%",
    "share of these positions at which the greedy token is not the reference's",
    "lower",
    "greedy tokens that differ",
)
ACCURACY_FIRST_DIFFERENCE = Metric(
    "accuracy_first_difference",
    "count",
    "generated token, from 1, at which free-running greedy decode first parts from the reference's, in any of the "
    "compared sequences; absent if none parts",
    "higher",
    "first token that differs",
)
ACCURACY_PARTED_SEQUENCES_PCT = Metric(
    "accuracy_parted_sequences_pct",
    "%",
    "share of the compared sequences whose free-running greedy decode parts from the reference's",
    "lower",
    "sequences that part",
)
ACCURACY_EAGER_DIFFERING_TOKENS_PCT = Metric(
    "accuracy_eager_differing_tokens_pct",
    "%",
    "share of the free-running greedy tokens that differ between the decode as it was measured (compiled, as a graph) "
    "and the same model's eager decode",
    "lower",
    "tokens that differ from eager decode",
)
ACCURACY_YARDSTICK_LOGITS_ERROR = Metric(
    "accuracy_yardstick_logits_error",
    "1",
    "accuracy_logits_error of plain PyTorch in the dtype of the run",
    label="logits' error of plain PyTorch",
)
ACCURACY_YARDSTICK_TOTAL_VARIATION = Metric(
    "accuracy_yardstick_total_variation",
    "1",
    "accuracy_total_variation of plain PyTorch in the dtype of the run",
    label="total variation of plain PyTorch",
)
ACCURACY_YARDSTICK_DIFFERING_TOKENS_PCT = Metric(
    "accuracy_yardstick_differing_tokens_pct",
    "%",
    "accuracy_differing_tokens_pct of plain PyTorch in the dtype of the run",
    label="greedy tokens of plain PyTorch that differ",
)
ACCURACY_YARDSTICK_FIRST_DIFFERENCE = Metric(
    "accuracy_yardstick_first_difference",
    "count",
    "accuracy_first_difference of plain PyTorch in the dtype of the run",
    label="first token of plain PyTorch that differs",
)
ACCURACY_YARDSTICK_PARTED_SEQUENCES_PCT = Metric(
    "accuracy_yardstick_parted_sequences_pct",
    "%",
    "accuracy_parted_sequences_pct of plain PyTorch in the dtype of the run",
    label="sequences of plain PyTorch that part",
)
ACCURACY_RATIO = Estimate(
    "accuracy_ratio",
    "1",
    "accuracy_differing_tokens_pct divided by that of plain PyTorch in the same dtype; absent if either has none",
    "lower",
    "differing tokens against plain PyTorch",
)

# Metrics of one kernel of a micro-benchmark. Each is a series with the batch as its step, except for the error and the
# first use.

KERNEL_US = KernelMetric(
    "kernel_us",
    "µs",
    "time of one decode step, mean over a mini-batch, of one prompt, or of another kernel; median of the samples",
    "lower",
    "kernel time",
    headline=True,
)
KERNEL_US_P20 = KernelMetric(
    "kernel_us_p20", "µs", "the same, 20th percentile of the samples", "lower", "kernel time, p20"
)
KERNEL_US_P80 = KernelMetric(
    "kernel_us_p80", "µs", "the same, 80th percentile of the samples", "lower", "kernel time, p80"
)
KERNEL_TOKENS_PER_S = KernelMetric(
    "kernel_tokens_per_s",
    "tokens/s",
    "tokens of a step or prompt, of all sequences, divided by the median time; of this kernel alone",
    "higher",
    "kernel throughput",
)
KERNEL_GB_PER_S = KernelMetric(
    "kernel_gb_per_s",
    "10⁹ bytes/s",
    "minimum bytes of the step or prompt, divided by the median time",
    "higher",
    "kernel bandwidth",
)
KERNEL_READ_CEILING_PCT = KernelMetric(
    "kernel_read_ceiling_pct",
    "%",
    "kernel_gb_per_s in percent of the read bandwidth of the GPU",
    "higher",
    "share of the read bandwidth",
    headline=True,
)
KERNEL_TFLOPS = KernelMetric(
    "kernel_tflops",
    "10¹² operations/s",
    "operations of the step or prompt, divided by the median time",
    "higher",
    "kernel operations",
)
KERNEL_MATRIX_CEILING_PCT = KernelMetric(
    "kernel_matrix_ceiling_pct",
    "%",
    "kernel_tflops in percent of the matrix rate of the GPU",
    "higher",
    "share of the matrix rate",
)
KERNEL_ROOFLINE_PCT = KernelMetric(
    "kernel_roofline_pct",
    "%",
    "the larger of the times for the bytes and for the operations at the GPU's ceilings, in percent of the median time",
    "higher",
    "share of the roofline",
)
KERNEL_ERROR = KernelMetric(
    "kernel_error",
    "1",
    "largest relative error against float64, of the outputs and of the state after each call that changes it",
    "lower",
    "relative error",
)
KERNEL_FIRST_USE_S = KernelMetric(
    "kernel_first_use_s", "s", "first call in the process, import and compilation included", "lower", "first use"
)
KERNEL_SM_CLOCK_MHZ_MEAN = KernelMetric(
    "kernel_sm_clock_mhz_mean", "MHz", "SM clock while the kernel was timed", label="SM clock"
)
KERNEL_POWER_W_MEAN = KernelMetric("kernel_power_w_mean", "W", "board power while the kernel was timed", label="power")
KERNEL_TEMPERATURE_C_MAX = KernelMetric(
    "kernel_temperature_c_max",
    "°C",
    "GPU temperature while the kernel was timed, highest sample",
    label="temperature, highest",
)

# Metrics of a micro-benchmark: what the GPU can do, measured in the same run.

GPU_READ_GB_PER_S = Metric(
    "card_read_gb_per_s",
    "10⁹ bytes/s",
    "read-only stream: the ceiling for kernels that mostly read state",
    label="read bandwidth",
)
GPU_COPY_GB_PER_S = Metric(
    "card_copy_gb_per_s",
    "10⁹ bytes/s",
    "device-to-device copy, read and written bytes together",
    label="copy bandwidth",
)
GPU_MATMUL_TFLOPS = Metric(
    "card_matmul_tflops", "TFLOP/s", "product of fp16 matrices of 8192 x 8192", label="matrix rate"
)
GPU_METRICS: tuple[Metric, ...] = (GPU_READ_GB_PER_S, GPU_COPY_GB_PER_S, GPU_MATMUL_TFLOPS)

# Time series of one GPU.

SYSTEM_SM_CLOCK = SystemMetric("sm_clock_megahertz", "MHz", "SM clock")
SYSTEM_MEMORY_CLOCK = SystemMetric("memory_clock_megahertz", "MHz", "memory clock")
SYSTEM_POWER = SystemMetric("power_usage_watts", "W", "board power")
SYSTEM_TEMPERATURE = SystemMetric("temperature_celsius", "°C", "GPU temperature")
SYSTEM_UTILIZATION = SystemMetric("utilization_percentage", "%", "share of time with a kernel running")
SYSTEM_MEMORY = SystemMetric("memory_usage_megabytes", "10⁶ bytes", "memory in use on the device")
SYSTEM_DRAM_BANDWIDTH = SystemMetric("dram_bandwidth_percentage", "%", "share of the DRAM bandwidth in use (GPM)")

# Tags.

TAG_ENTRY_POINT = Tag(
    "ttt.entry_point", "what was measured: main (a decode or prefill configuration) or micro (kernels)"
)
TAG_STATUS = Tag("ttt.status", "what happened: ok, oom, error or killed")
TAG_VERDICT = Tag("ttt.verdict", "whether the measurement can be trusted: valid, invalid or unjudged")
TAG_REASONS = Tag("ttt.reasons", "why it is invalid: the names of the reasons, comma-separated")
TAG_MISSING = Tag("ttt.missing", "what could not be judged because data is missing: names, comma-separated")
TAG_MESSAGE = Tag("ttt.message", "one line that explains a status other than ok")
TAG_WARMUP_STOP_REASON = Tag(
    "ttt.warmup_stop_reason", "why the warm-up ended: settled, count, or (not settled) most_passes or time_share"
)
TAG_STOP_REASON = Tag("ttt.stop_reason", "why the timed passes ended: interval, max_seconds, count or interrupted")
TAG_GPU_NAME = Tag("ttt.gpu_name", "name of the GPU")
TAG_GPU_UUID = Tag("ttt.gpu_uuid", "UUID of the GPU")
TAG_HOST = Tag("ttt.host", "name of the host")
TAG_DRIVER = Tag("ttt.driver", "NVIDIA driver version")
TAG_TORCH = Tag("ttt.torch", "PyTorch version")
TAG_TRITON = Tag("ttt.triton", "Triton version")
TAG_LEFT_OUT = Tag("ttt.left_out", "artifacts that were measured and that a full disk left out: paths, comma-separated")
TAG_NSYS = Tag("ttt.nsys", "version of Nsight Systems, if it recorded a pass")
TAG_GIT_DIRTY = Tag("ttt.git_dirty", "true if the working tree had uncommitted changes")
TAG_CODE_ID = Tag(
    "ttt.code_id", "hash of the package that measured, with all uncommitted changes: equal code has the same id"
)
TAG_GIT_COMMIT = Tag("mlflow.source.git.commit", "MLflow's own tag: the commit that the package runs from")
TAG_GIT_BRANCH = Tag("mlflow.source.git.branch", "MLflow's own tag: the branch of that checkout, if it is on one")
TAG_GIT_REPO_URL = Tag(
    "mlflow.source.git.repoURL", "MLflow's own tag: the address of that checkout's first remote, without credentials"
)
TAG_KIND = Tag("ttt.kind", "what the run is: decode, prefill, micro, sweep or compare")
TAG_METHOD = Tag("ttt.method", "version of the way of measuring; it rises whenever the timing changes")
TAG_COST_GROWS = Tag(
    "ttt.cost_grows", "true if a step of the model costs more with the context, as with a KV cache; else false"
)
TAG_CONFIG_ID = Tag(
    "ttt.config_id",
    "hash of the configuration: the same configuration has the same id on every host. It covers neither the seed nor "
    "the path of a checkpoint, but the checkpoint's content",
)
TAG_CHECKPOINT_ID = Tag("ttt.checkpoint_id", "hash of the checkpoint's weights, whatever its path")
TAG_COMPARISON = Tag(
    "ttt.comparison", "answer of a comparison: faster, slower, mixed, no significant difference or cannot tell"
)
TAG_SIDE = Tag(
    "ttt.side",
    "side of a run that `ttt-mlflow ab` made: baseline or candidate; of `doctor --neighbors`: alone or together",
)
TAG_GIT_REF = Tag("ttt.git_ref", "what the side of such a run was given as: a git ref, a folder, or . for uncommitted")
TAG_PARENT_JOURNAL_ID = Tag(
    "ttt.parent_journal_id",
    "id of the record of the comparison or the sweep to which the run belongs; its run is the parent run",
)
TAG_SWEEP_ID = Tag("ttt.sweep_id", "hash of the grid of a sweep, of its parent run and of the runs that it measured")
TAG_CELL = Tag("ttt.cell", "hash of the configuration of one run of a sweep, as it was asked for")
TAG_RESUMES = Tag("ttt.resumes", "of a run that `mlflow run` made to resume a sweep: the id of the sweep's parent run")
TAG_JOURNAL_ID = Tag(
    "ttt.journal_id", "id of the local record of the run; a record becomes one run, however often it is published"
)
TAG_RECORDED_UNTIL = Tag(
    "ttt.recorded_until",
    "time (ISO 8601, UTC) of the last entry of the published record; an older copy of the record changes nothing",
)
TAG_ALIVE_UNTIL = Tag(
    "ttt.alive_until",
    "time (ISO 8601, UTC) until which the run may take; `ttt-mlflow janitor` ends one that is RUNNING an hour later",
)
TAG_PROCESS = Tag("ttt.process", "process that measures: host, boot, pid namespace, pid and start time, as JSON")
TAG_SERIES = Tag(
    "ttt.series",
    "model and inner net, which determine the run's color in the MLflow UI; `not valid` for a run without a valid "
    "measurement, which is gray",
)
TAG_BEST = Tag(
    "ttt.best", "true for the valid run with the highest throughput of its configuration (ttt.config_id, experiment)"
)

# Tags of an experiment.

TAG_VIEWS = ExperimentTag(
    "ttt.views",
    "version of the saved views that this program wrote, and a hash of each: what a person changed since is kept",
)

# Artifacts.

ARTIFACT_CONFIG = Artifact("config.json", "the configuration as given and as used")
ARTIFACT_SUMMARY = Artifact("summary.md", "the summary that is also the description of the run")
ARTIFACT_VERDICT = Artifact("verdict.json", "the verdict: what was found, what could not be judged, and the thresholds")
ARTIFACT_LOG = Artifact("log.txt", "actions with their times, warnings, and the traceback of a failure")
ARTIFACT_SAMPLES = Artifact(
    "telemetry/samples.csv", "every NVML sample, with its time and whether it is in the measured section"
)
ARTIFACT_QUERIES = Artifact(
    "telemetry/queries.csv", "each NVML query: what its answers cover, their age and cost, or why it is refused"
)
ARTIFACT_PROCESSES = Artifact(
    "telemetry/processes.csv",
    "other processes on the GPU in the measured section: pid, name, memory_bytes, sm_utilization_pct",
)
ARTIFACT_NEIGHBORS = Artifact(
    "telemetry/neighbors.csv",
    "the host's other GPUs from the first measured section to the last: gpu (NVML's number), uuid, busy_pct, "
    "utilization_pct_mean, power_w_mean",
)
ARTIFACT_CLOCKS = Artifact(
    "telemetry/clocks.png", "clocks, power and temperature over time, with the measured section shaded"
)
ARTIFACT_STEPS = Artifact("timing/steps.csv", "every timed step of every pass: repeat, step, ms, complete")
ARTIFACT_PASSES = Artifact(
    "timing/passes.json", "the time of every pass, warm-up included, why both phases ended, and the drift"
)
ARTIFACT_DISCARDED = Artifact(
    "timing/discarded.json", "invalid attempts that were measured again: passes and verdict of each"
)
ARTIFACT_DISCARDED_STEPS = Artifact(
    "timing/discarded-steps.csv", "every timed step of those attempts: attempt, repeat, step, ms, complete"
)
ARTIFACT_ROOFLINE_PARTS = Artifact(
    "roofline/parts.csv",
    "minimum bytes, operations and roofline time of each part of a step: part, bytes, flops, floor_ms",
)
ARTIFACT_ROOFLINE_STEP = Artifact(
    "roofline/step.png", "the roofline time of each part beside the measured step, if the GPU's ceilings are known"
)
ARTIFACT_TORCH_TRACE = Artifact("profiles/torch/trace.json.gz", "PyTorch profiler trace; opens in Perfetto")
ARTIFACT_TORCH_EAGER_TRACE = Artifact(
    "profiles/torch/trace-eager.json.gz", "the same for an eager step, which gives the kernels their parts"
)
ARTIFACT_TORCH_PAGE = Artifact(
    "profiles/torch/open.html", "one step as a timeline to zoom into, with the full trace for Perfetto"
)
ARTIFACT_TORCH_KERNELS_CSV = Artifact(
    "profiles/torch/kernels.csv", "PyTorch profiler, time by kernel (on a CPU: operator) and part"
)
ARTIFACT_TORCH_KERNELS_TABLE = Artifact(
    "profiles/torch/kernels.md", "the same as a table to read, with the parts and the measured step beside it"
)
ARTIFACT_TORCH_KERNELS_CHART = Artifact("profiles/torch/kernels.png", "the kernels with the most time")
ARTIFACT_TORCH_TIMELINE = Artifact("profiles/torch/timeline.png", "one step by stream")
ARTIFACT_TORCH_PARTS = Artifact("profiles/torch/parts.csv", "PyTorch profiler, time by part, beside its roofline time")
ARTIFACT_TORCH_STEP = Artifact(
    "profiles/torch/step.json", "time of a profiled step, busy and idle, and of the measured step"
)
ARTIFACT_MEMORY_SNAPSHOT = Artifact(
    "profiles/memory/snapshot.pickle", "PyTorch's allocator: its blocks, and its history over the pass"
)
ARTIFACT_MEMORY_PAGE = Artifact(
    "profiles/memory/open.html", "the same as a page: the parts, and what was allocated over the pass"
)
ARTIFACT_MEMORY_PARTS = Artifact(
    "profiles/memory/parts.csv",
    "memory by part in bytes: between steps, at the peak of the pass, reserved from the GPU",
)
ARTIFACT_MEMORY_TABLE = Artifact(
    "profiles/memory/parts.md", "the same as a table to read, beside the allocator's own sums"
)
ARTIFACT_ACCURACY = Artifact(
    "profiles/accuracy/accuracy.json", "what was compared with the float32 reference, and how: all values and notes"
)
ARTIFACT_ACCURACY_TABLE = Artifact("profiles/accuracy/accuracy.md", "the same as a table to read")
ARTIFACT_ACCURACY_POSITIONS = Artifact(
    "profiles/accuracy/positions.csv",
    "logits' error, total variation and differing tokens at each position, of the model and of plain PyTorch",
)
ARTIFACT_ACCURACY_CHART = Artifact("profiles/accuracy/positions.png", "the same as a chart")
ARTIFACT_NSYS_REPORT = Artifact("profiles/nsys/report.nsys-rep", "Nsight Systems report; opens in nsys-ui")
ARTIFACT_NSYS_RECORDING = Artifact(
    "profiles/nsys/report.qdstrm", "raw recording of Nsight Systems, if its importer could not make a report of it"
)
ARTIFACT_NSYS_KERNELS = Artifact("profiles/nsys/cuda_gpu_kern_sum.csv", "Nsight Systems, time by kernel")
ARTIFACT_NSYS_CALLS = Artifact("profiles/nsys/cuda_api_sum.csv", "Nsight Systems, time by call of the CUDA API")
ARTIFACT_NSYS_RANGES = Artifact(
    "profiles/nsys/nvtx_sum.csv", "Nsight Systems, time by named range: steps, and in eager runs layers and parts"
)
ARTIFACT_NSYS_EXPORT = Artifact(
    "profiles/nsys/report.sqlite", "SQLite export of the Nsight Systems report, with nsys_export=sqlite"
)
ARTIFACT_NSYS_LOG = Artifact("profiles/nsys/nsys.log", "output of Nsight Systems and of the process that it recorded")
ARTIFACT_MICRO_SAMPLES = Artifact("micro/samples.json", "micro-benchmark: every sample, error and ceiling, as measured")
ARTIFACT_MICRO_CSV = Artifact("micro/table.csv", "micro-benchmark: one row for each kernel and batch")
ARTIFACT_MICRO_TABLE = Artifact("micro/table.md", "the same as a table to read")
ARTIFACT_MICRO_CHART = Artifact(
    "micro/kernels.png", "time over batch, one line for each kernel; decode steps and prompts apart"
)
ARTIFACT_MICRO_PAGE = Artifact(
    "micro/kernels.html",
    "the same as an interactive chart, with rates and shares of the GPU's ceilings; needs no network",
)
ARTIFACT_KERNELS = Artifact(
    "profiles/kernels.json",
    "the profiled kernels as an MLflow table, from PyTorch's profiler, else Nsight Systems: kernel, us_per_step, "
    "share_pct, calls per step, part",
)
ARTIFACT_COMPARISON = Artifact("comparison/comparison.json", "a comparison: sides, conditions, pairs and the answer")
ARTIFACT_COMPARISON_PAGE = Artifact("comparison/comparison.html", "the same as a page; needs no network")
ARTIFACT_SWEEP = Artifact("sweep.json", "the cells of a sweep: configuration, state, reason, run and GPU of each")
ARTIFACT_RESULTS_PAGE = Artifact(
    "results/results.html", "the results of a sweep as a page: tables, charts, all runs; needs no network"
)
ARTIFACT_RESULTS_MARKDOWN = Artifact("results/results.md", "the tables to read, with links to the runs")
ARTIFACT_RESULTS_CSV = Artifact("results/results.csv", "the same for programs: one line for each run")
ARTIFACT_RESULTS_CROSSINGS = Artifact(
    "results/crossings.csv",
    "from which context on a model with a constant state decodes faster than one whose cache grows, by pair of models",
)
ARTIFACT_RESULTS_CONTEXT_PNG = Artifact(
    "results/context.png",
    "decode step and memory over the context, where models cross, and the highest batch that fits",
)
ARTIFACT_RESULTS_CONTEXT_SVG = Artifact("results/context.svg", "the same as SVG")
ARTIFACT_RESULTS_TABLE_PNG = Artifact("results/table.png", "the throughput by model, inner net and batch")
ARTIFACT_RESULTS_TABLE_SVG = Artifact("results/table.svg", "the same as SVG")
ARTIFACT_RESULTS_CHARTS_PNG = Artifact(
    "results/charts.png", "throughput, latency, memory, energy and share of the roofline as charts"
)
ARTIFACT_RESULTS_CHARTS_SVG = Artifact("results/charts.svg", "the same as SVG")
ARTIFACT_HOST = Artifact("environment/host.json", "facts about the host, its software and the GPU")
ARTIFACT_PACKAGES = Artifact("environment/packages.txt", "installed packages, name==version")


def _defined(kind: type[Kind]) -> tuple[Kind, ...]:
    """All objects of ``kind`` that this module defines, in the order of their definition."""
    found: list[Kind] = []
    for value in list(globals().values()):
        several = value.values() if isinstance(value, dict) else [value]
        found += [one for one in several if isinstance(one, kind)]
    return tuple(found)


def _with_ends(metric: Metric) -> tuple[Metric, ...]:
    return (metric, metric.ci_low, metric.ci_high) if isinstance(metric, Estimate) else (metric,)


KERNEL_METRICS = _defined(KernelMetric)
PART_METRICS = _defined(PartMetric)
SYSTEM_METRICS = _defined(SystemMetric)
METRICS: tuple[Metric, ...] = tuple(
    one
    for metric in _defined(Metric)
    if metric not in (*KERNEL_METRICS, *PART_METRICS, *SYSTEM_METRICS, *GPU_METRICS)
    for one in _with_ends(metric)
)
TAGS = _defined(Tag)
EXPERIMENT_TAGS = _defined(ExperimentTag)
ARTIFACTS = _defined(Artifact)
