"""The public names: parameters, metrics, system metrics, tags and artifact paths.

Dashboards, saved searches and scripts rely on them. docs/names.md is the page for people; a test holds the
page, this module and :class:`ttt_mlflow.config.RunConfig` together.
"""

PARAMETERS: tuple[str, ...] = (
    "model_name",
    "mode",
    "batch",
    "promptlen",
    "genlen",
    "inner_net",
    "dtype",
    "use_compile",
    "cuda_graph",
    "profile",
    "nsys_args",
    "nsys_export",
    "device",
    "warmup",
    "repeats",
    "precision_pct",
    "max_seconds",
    "thresholds",
    "retry_invalid",
    "seed",
    "checkpoint",
)

MICRO_PARAMETERS: tuple[str, ...] = (
    "kernels",
    "batches",
    "heads",
    "head_dim",
    "dtype",
    "device",
    "seconds",
    "thresholds",
    "seed",
    "profile",
    "nsys_args",
    "nsys_export",
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


def clock_event_metric(reason: str) -> str:
    """Metric name for one of :data:`CLOCK_EVENT_REASONS`."""
    return f"clock_event_{reason}_pct"


# NVML's performance policies, in the order of their numbers: what can hold the clocks down.
VIOLATION_POLICIES: tuple[str, ...] = (
    "power",
    "thermal",
    "sync_boost",
    "board_limit",
    "low_utilization",
    "reliability",
)


def violation_metric(policy: str) -> str:
    """Metric name for one of :data:`VIOLATION_POLICIES`."""
    return f"violation_{policy}_s"


# name -> (unit, meaning); a metric that was not measured is absent, never zero
METRICS: dict[str, tuple[str, str]] = {
    "decode_tokens_per_s": (
        "tokens/s",
        "batch times generated tokens over decode time, median of the repeats",
    ),
    "decode_tokens_per_s_ci_low": ("tokens/s", "lower end of the median's 95 % interval"),
    "decode_tokens_per_s_ci_high": ("tokens/s", "upper end of the median's 95 % interval"),
    "decode_step_ms_p50": ("ms", "time of one decode step, median"),
    "decode_step_ms_p90": ("ms", "time of one decode step, 90th percentile"),
    "decode_step_ms_p99": ("ms", "time of one decode step, 99th percentile"),
    "decode_step_ms_mean": ("ms", "time of one decode step, mean"),
    "generation_tokens_per_s": (
        "tokens/s",
        "batch times generated tokens, the first included, over the time for prompt and decode together, median",
    ),
    "generation_tokens_per_s_ci_low": ("tokens/s", "lower end of the median's 95 % interval"),
    "generation_tokens_per_s_ci_high": ("tokens/s", "upper end of the median's 95 % interval"),
    "prefill_tokens_per_s": (
        "tokens/s",
        "batch times prompt tokens over prefill time, median of the repeats",
    ),
    "prefill_tokens_per_s_ci_low": ("tokens/s", "lower end of the median's 95 % interval (prefill mode)"),
    "prefill_tokens_per_s_ci_high": ("tokens/s", "upper end of the median's 95 % interval (prefill mode)"),
    "prefill_ms": ("ms", "time to process the prompt, median of the repeats"),
    "time_to_first_token_ms": ("ms", "from the prompt to its first generated token on the host, median"),
    "peak_memory_allocated_gb": ("10⁹ bytes", "most memory that PyTorch's tensors held"),
    "peak_memory_reserved_gb": ("10⁹ bytes", "most memory that PyTorch's allocator held"),
    "device_memory_used_gb": ("10⁹ bytes", "most memory in use on the device, by NVML, all processes"),
    "sm_clock_mhz_mean": ("MHz", "SM clock, mean over the measured section"),
    "sm_clock_mhz_min": ("MHz", "SM clock, lowest sample of the measured section"),
    "sm_clock_mhz_max": ("MHz", "SM clock, highest sample of the measured section"),
    "memory_clock_mhz_mean": ("MHz", "memory clock, mean over the measured section"),
    "power_w_mean": ("W", "board power, mean over the measured section"),
    "energy_j": ("J", "energy of the measured section"),
    "joules_per_token": ("J", "energy of the measured section over the tokens generated in it"),
    "temperature_c_max": ("°C", "GPU temperature, highest sample of the measured section"),
    "gpu_utilization_pct_mean": ("%", "share of time with a kernel running, mean over the measured section"),
    "sm_active_pct_mean": ("%", "share of the SMs with a warp on them, mean over the measured section (GPM)"),
    "tensor_active_pct_mean": ("%", "share of the tensor cores' time in use, mean over the measured section (GPM)"),
    "dram_bandwidth_pct_mean": ("%", "share of the DRAM bandwidth in use, mean over the measured section (GPM)"),
    **{
        clock_event_metric(reason): ("%", f"share of the measured section in which NVML named {reason}")
        for reason in CLOCK_EVENT_REASONS
    },
    **{
        violation_metric(policy): (
            "s",
            f"time in the measured section in which NVML's policy {policy} held clocks down",
        )
        for policy in VIOLATION_POLICIES
    },
    "ecc_uncorrected_errors": ("count", "uncorrected ECC errors of the device's memory in the measured section"),
    "min_bytes_per_step": ("bytes", "bytes that a decode step, or in prefill mode the prompt, has to read and write"),
    "flops_per_step": ("FLOP", "operations that a decode step, or in prefill mode the prompt, has to do"),
    "roofline_ms": ("ms", "least time for those on this card, from its measured read bandwidth and matrix rate"),
    "roofline_pct": ("%", "roofline_ms in percent of the measured time: the mean step, or prefill_ms"),
    "model_parameters": ("count", "parameters of the model"),
    "relative_spread_pct": ("%", "standard deviation of the repeats, in percent of their median"),
    "relative_half_width_pct": ("%", "half the width of the median's 95 % interval, in percent of the median"),
    "drift_pct": ("%", "how much longer the passes of the last third took than those of the first"),
    "drift_p_value": ("1", "how often passes that only scatter would show as much drift"),
    "drift_within_pass_pct": ("%", "how much longer the steps of a pass's last third took than those of its first"),
    "drift_within_pass_p_value": ("1", "how often passes that only scatter would show as much drift within them"),
    "attempts": ("count", "measurements made with retry_invalid, of which the last one counts"),
    "warmup_passes": ("count", "untimed passes before the measurement"),
    "measured_passes": ("count", "timed passes that were complete"),
    "imports_s": ("s", "from the start of the process until its libraries were loaded"),
    "setup_s": ("s", "building the model and the prompt"),
    "compile_s": ("s", "compiling, loading kernels, capturing the CUDA graph"),
    "warmup_s": ("s", "untimed passes before the measurement"),
    "recording_s": ("s", "writing the measurement to disk"),
    "profile_s": ("s", "the profilers' passes after the measurement"),
    "profiled_step_ms": ("ms", "a step under the profiler, mean; longer than measured where it waited for the host"),
    "gpu_idle_pct": ("%", "share of the profiled steps in which nothing ran on the GPU"),
    "launch_gap_us_mean": ("µs", "from the end of a GPU's kernel to the begin of the next, mean over a profiled step"),
    "host_ms_per_step": ("ms", "what the host took to launch a profiled step, mean"),
}

# Of a micro-benchmark, one a kernel, as name/<kernel>: name -> (unit, meaning). Each is a series with the batch as its
# step, but for the error and the first use.
KERNEL_METRICS: dict[str, tuple[str, str]] = {
    "kernel_us": ("µs", "time of one decode step, mean over a mini-batch, median of the samples"),
    "kernel_us_p20": ("µs", "the same, 20th percentile"),
    "kernel_us_p80": ("µs", "the same, 80th percentile"),
    "kernel_gb_per_s": ("10⁹ bytes/s", "the floor's bytes over the median time"),
    "kernel_read_ceiling_pct": ("%", "the floor's bytes a second in percent of what the card reads"),
    "kernel_error": ("1", "largest relative error against float64, of the outputs and of the state after each fold"),
    "kernel_first_use_s": ("s", "first call in the process, import and compilation included"),
    "kernel_sm_clock_mhz_mean": ("MHz", "SM clock while the kernel was timed"),
    "kernel_power_w_mean": ("W", "board power while the kernel was timed"),
    "kernel_temperature_c_max": ("°C", "GPU temperature while the kernel was timed, highest sample"),
}
# Of a micro-benchmark: what the card can do, measured in the same run
CARD_METRICS: dict[str, tuple[str, str]] = {
    "card_read_gb_per_s": ("10⁹ bytes/s", "read-only stream: the ceiling for kernels that mostly read state"),
    "card_copy_gb_per_s": ("10⁹ bytes/s", "device-to-device copy, read and written bytes together"),
    "card_matmul_tflops": ("TFLOP/s", "product of fp16 matrices of 8192 x 8192"),
}


def kernel_metric(name: str, kernel: str) -> str:
    """Metric of one kernel for one of :data:`KERNEL_METRICS`, for example ``kernel_us/mlp_1_dual_triton``."""
    return f"{name}/{kernel}"


# Series for MLflow's System metrics tab, one set a GPU: suffix -> (unit, meaning)
SYSTEM_METRICS: dict[str, tuple[str, str]] = {
    "sm_clock_megahertz": ("MHz", "SM clock"),
    "memory_clock_megahertz": ("MHz", "memory clock"),
    "power_usage_watts": ("W", "board power"),
    "temperature_celsius": ("°C", "GPU temperature"),
    "utilization_percentage": ("%", "share of time with a kernel running"),
    "memory_usage_megabytes": ("10⁶ bytes", "memory in use on the device"),
    "dram_bandwidth_percentage": ("%", "share of the DRAM bandwidth in use (GPM)"),
}


def system_metric(gpu_index: int, suffix: str) -> str:
    """Series name of one of :data:`SYSTEM_METRICS`, for example ``system/gpu_0_sm_clock_megahertz``."""
    return f"system/gpu_{gpu_index}_{suffix}"


TAGS: dict[str, str] = {
    "ttt.entry_point": "what was measured: main, a decode configuration; micro, kernels",
    "ttt.status": "what happened: ok, oom, error or killed",
    "ttt.verdict": "whether the measurement can be trusted: valid, invalid or unjudged",
    "ttt.reasons": "why it is invalid: the reasons' names, comma-separated",
    "ttt.missing": "what could not be judged for want of data: names, comma-separated",
    "ttt.message": "why, in one line, where the status is not ok",
    "ttt.warmup_stop_reason": "why the warm-up ended: settled, count, or, unsettled, most_passes or time_share",
    "ttt.stop_reason": "why the timed passes ended: interval, max_seconds, count or interrupted",
    "ttt.gpu_name": "the GPU's name",
    "ttt.gpu_uuid": "the GPU's UUID",
    "ttt.host": "the host's name",
    "ttt.driver": "NVIDIA driver version",
    "ttt.torch": "PyTorch version",
    "ttt.triton": "Triton version",
    "ttt.nsys": "version of Nsight Systems, where it recorded a pass",
    "ttt.git_dirty": "true where the working tree had uncommitted changes",
    "ttt.config_id": "hash of the configuration: the same configuration has the same id on every host",
    "ttt.journal_id": "the local record that the run was published from; publishing is idempotent by it",
}

ARTIFACTS: dict[str, str] = {
    "config.json": "the configuration as asked for and as used",
    "summary.md": "the summary that is also the run's description",
    "verdict.json": "the verdict with what was found, what could not be judged, and the thresholds",
    "log.txt": "what was done when, warnings, and the traceback of a failure",
    "telemetry/samples.csv": "every NVML sample, with its time and whether it fell into the measured section",
    "telemetry/queries.csv": "each query to NVML: what its answers cover, their age and cost, or why it is refused",
    "telemetry/processes.csv": "who else was on the card while measured: pid, name, memory_bytes, sm_utilization_pct",
    "telemetry/clocks.png": "clocks, power and temperature over time, the measured section marked",
    "timing/steps.csv": "every timed step of every repeat: repeat, step, ms, complete",
    "timing/passes.json": "every pass's time, warm-up included, why both ended, and the drift",
    "timing/discarded.json": "attempts that were judged invalid and measured again: passes and verdict of each",
    "timing/discarded-steps.csv": "every timed step of those: attempt, repeat, step, ms, complete",
    "roofline/parts.csv": "what each part of a step has to move and to compute: part, bytes, flops, floor_ms",
    "roofline/step.png": "the least time of each part beside the measured step; where the card's ceilings are known",
    "profiles/torch/trace.json.gz": "PyTorch profiler trace; opens in Perfetto",
    "profiles/torch/trace-eager.json.gz": "the same of an eager step, from which others have their parts",
    "profiles/torch/open.html": "one step as a timeline to zoom into, and the way to the full trace in Perfetto",
    "profiles/torch/kernels.csv": "PyTorch profiler, time by kernel (on a CPU: operator) and part",
    "profiles/torch/kernels.md": "the same for people, with the parts and the measured step beside them",
    "profiles/torch/kernels.png": "the kernels with the most time",
    "profiles/torch/timeline.png": "one step by stream",
    "profiles/torch/parts.csv": "PyTorch profiler, time by part, beside the roofline's floor",
    "profiles/torch/step.json": "a profiled step's time, busy and idle, and the measured one",
    "profiles/memory/snapshot.pickle": "PyTorch's allocator: its blocks, and its history over the pass",
    "profiles/memory/open.html": "the same as a page: the parts, and what was allocated over the pass",
    "profiles/memory/parts.csv": "memory by part in bytes: between steps, at the pass's peak, taken from the GPU",
    "profiles/memory/parts.md": "the same for people, beside the allocator's own sums",
    "profiles/nsys/report.nsys-rep": "Nsight Systems report; opens in nsys-ui",
    "profiles/nsys/report.qdstrm": "what Nsight Systems recorded, where its importer could not make a report of it",
    "profiles/nsys/cuda_gpu_kern_sum.csv": "Nsight Systems, time by kernel",
    "profiles/nsys/cuda_api_sum.csv": "Nsight Systems, time by call of the CUDA API",
    "profiles/nsys/nvtx_sum.csv": "Nsight Systems, time by named range: steps, and in eager runs layers and parts",
    "profiles/nsys/report.sqlite": "Nsight Systems' export of the report, with nsys_export=sqlite",
    "profiles/nsys/nsys.log": "what Nsight Systems and the process that it recorded printed",
    "micro/samples.json": "micro-benchmark: every sample, error and ceiling, as measured",
    "micro/table.csv": "micro-benchmark: a row a kernel and batch",
    "micro/table.md": "the same table for people",
    "micro/kernels.png": "time over batch, a line a kernel",
    "micro/kernels.html": "the same as an interactive chart, with GB/s and share of the read ceiling; needs no network",
    "environment/host.json": "the host's facts",
    "environment/packages.txt": "installed packages, name==version",
}
