"""The tables of a profile, for people."""

from collections.abc import Sequence

from ttt_mlflow.profilers.step_profile import KernelRow, PartRow, StepProfile
from ttt_mlflow.profilers.trace import UNKNOWN
from ttt_mlflow.report.text import counted, escaped, markdown_table, number, shortened

KERNELS_SHOWN = 30
SLOWED = 1.05  # a profiled step counts as slowed if it takes this many times as long as the measured step


def kernels_markdown(
    profile: StepProfile,
    kernels: Sequence[KernelRow],
    parts: Sequence[PartRow],
    measured_ms: float | None,
    notes: Sequence[str],
) -> str:
    """The time of a step by part and by kernel, compared with the measured step."""
    what = "kernel" if profile.device == "cuda" else "operator"
    lines = [
        f"**{counted(profile.steps, 'profiled step')}, {number(profile.step_ms)} ms each: "
        f"{what}s {number(profile.busy_ms)} ms, nothing running {number(profile.idle_ms)} ms**",
        "",
    ]
    if measured_ms:
        lines += [
            f"The measured step, without a profiler, took {number(measured_ms)} ms (mean). The {what}s of a profiled "
            f"step add up to {100 * profile.busy_ms / measured_ms:.1f} % of that.{_slowed(profile, measured_ms)}",
            "",
        ]
    lines += [line for note in notes for line in (escaped(note), "")]
    lines += markdown_table(
        ("part", "calls", "ms per step", "share", "minimum bytes", "roofline ms", "share of the roofline"),
        [
            (row.part, number(row.calls), number(row.ms_per_step), _percent(row.share_pct), _number(row.min_bytes),
             _number(row.floor_ms), _percent(row.roofline_pct))
            for row in parts
        ],
        texts=1,
    )  # fmt: skip
    lines += ["", f"The {min(KERNELS_SHOWN, len(kernels))} {what}s with the most time, of {len(kernels)}:", ""]
    lines += markdown_table(
        (what, "part", "calls", "ms per step", "mean µs", "share"),
        [
            (shortened(row.name), row.part, number(row.calls), number(row.ms_per_step), number(row.mean_us),
             _percent(row.share_pct))
            for row in kernels[:KERNELS_SHOWN]
        ],
        texts=2,
    )  # fmt: skip
    unknown = sum(row.share_pct for row in kernels if row.part == UNKNOWN)
    if unknown:
        lines += ["", f"The part of {_percent(unknown)} of the time is not known."]
    return "\n".join([*lines, ""])


def slowed_pct(step_ms: float, measured_ms: float) -> float | None:
    """By how much the profiler lengthened a step, in percent; None if that is little.

    The idle time of a lengthened step is not that of the measured step.
    """
    return 100 * (step_ms / measured_ms - 1) if step_ms >= SLOWED * measured_ms else None


def _slowed(profile: StepProfile, measured_ms: float) -> str:
    slowed = slowed_pct(profile.step_ms, measured_ms)
    if slowed is None:
        return ""
    said = f" The profiler made the step {slowed:.0f} % longer"
    if profile.device != "cuda":
        return f"{said}."
    idle_ms = max(0.0, measured_ms - profile.busy_ms)
    return (
        f"{said}: it slows the host, which then launches kernels more slowly than the GPU runs them. "
        f"In the measured step, nothing ran for about {number(idle_ms)} ms."
    )


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
