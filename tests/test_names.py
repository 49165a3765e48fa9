"""The public names: module, docs page and configuration say the same."""

import re
from pathlib import Path

import pynvml
import pytest

from ttt_mlflow import names
from ttt_mlflow.config import Configuration, MicroConfig, RunConfig

PAGE = (Path(__file__).parents[1] / "docs" / "names.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Rows of the first table under the page's ``heading``, cells without their backquotes."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


@pytest.mark.parametrize(
    ("heading", "kind", "listed"),
    [
        ("Parameters", RunConfig, names.PARAMETERS),
        ("Micro-benchmark parameters", MicroConfig, names.MICRO_PARAMETERS),
    ],
)
def test_parameters(heading: str, kind: type[Configuration], listed: tuple[str, ...]) -> None:
    assert tuple(kind.model_fields) == listed
    defaults = kind.parse({}).as_params()
    assert table(heading) == [[name, defaults[name], field.description] for name, field in kind.model_fields.items()]


@pytest.mark.parametrize(
    ("heading", "metrics"),
    [("Metrics", names.METRICS), ("Kernel metrics", names.KERNEL_METRICS), ("Card metrics", names.CARD_METRICS)],
)
def test_metrics(heading: str, metrics: dict[str, tuple[str, str]]) -> None:
    assert table(heading) == [[name, *entry] for name, entry in metrics.items()]


def test_a_kernels_metric_is_in_a_section_of_mlflows_charts() -> None:
    assert names.kernel_metric("kernel_us", "mlp_1_dual") == "kernel_us/mlp_1_dual"


def test_system_metrics() -> None:
    assert table("System metrics") == [
        [f"system/gpu_<i>_{suffix}", *entry] for suffix, entry in names.SYSTEM_METRICS.items()
    ]
    # MLflow shows those series, and only those, in the System metrics tab
    assert names.system_metric(3, "power_usage_watts") == "system/gpu_3_power_usage_watts"


def test_tags() -> None:
    assert table("Tags") == [[name, meaning] for name, meaning in names.TAGS.items()]


def test_artifacts() -> None:
    assert table("Artifacts") == [[name, meaning] for name, meaning in names.ARTIFACTS.items()]


@pytest.mark.parametrize(
    "name",
    [
        *(*names.METRICS, *names.KERNEL_METRICS, *names.CARD_METRICS, *names.SYSTEM_METRICS),
        *dict.fromkeys((*names.PARAMETERS, *names.MICRO_PARAMETERS)),
    ],
)
def test_names_are_such_as_every_mlflow_store_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert len(name) <= 250


def test_clock_event_reasons_are_nvmls_bits() -> None:
    for bit, reason in enumerate(names.CLOCK_EVENT_REASONS):
        camel = "".join(word.capitalize() for word in reason.split("_"))
        old, new = f"nvmlClocksThrottleReason{camel}", f"nvmlClocksEventReason{camel}"
        value = getattr(pynvml, new, None) or getattr(pynvml, old)
        assert value == 1 << bit
