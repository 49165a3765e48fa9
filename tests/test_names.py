"""The catalog of names: what each entry says, that the code records through it, and that the page is made from it."""

import ast
import re
from functools import cache
from pathlib import Path

import pynvml
import pytest

from docs.generate import PAGES
from tests.project import ROOT
from ttt_mlflow import names
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.names import Metric
from ttt_mlflow.profilers.trace import UNKNOWN
from ttt_mlflow.workload import PARTS

EVERY_METRIC = (*names.METRICS, *names.KERNEL_METRICS, *names.PART_METRICS, *names.GPU_METRICS, *names.SYSTEM_METRICS)
RECORDED = {metric.name for metric in (*names.METRICS, *names.GPU_METRICS, *names.KERNEL_METRICS)}
RECORDED -= set(RunConfig.model_fields)  # a parameter that is a number is a metric of the same name
RECORDED |= {tag.name for tag in names.TAGS} | {artifact.path for artifact in names.ARTIFACTS}
# beside these parameters, which code names as fields, there are metrics of the same name
RECORDED -= set(RunConfig.model_fields)
SOURCES = sorted(path for path in (ROOT / "ttt_mlflow").rglob("*.py") if path.name != "names.py")


def test_names_are_unique() -> None:
    for kind in (EVERY_METRIC, names.TAGS):
        listed = [one.name for one in kind]
        assert len(listed) == len(set(listed))
    paths = [artifact.path for artifact in names.ARTIFACTS]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda metric: metric.name)
def test_a_metric_says_what_it_is(metric: Metric) -> None:
    assert metric.unit
    assert metric.meaning
    assert metric.better in ("higher", "lower", None)
    if metric in (*names.METRICS, *names.KERNEL_METRICS, *names.GPU_METRICS):
        assert metric.label, "a chart needs it"
    if metric.headline:
        assert metric.better, "a first screen shows what can be better or worse"


@pytest.mark.parametrize(
    "name", [metric.name for metric in EVERY_METRIC] + list({**RunConfig.model_fields, **MicroConfig.model_fields})
)
def test_names_are_such_as_every_mlflow_store_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert len(name) <= 250


def test_a_throughput_has_two_ends() -> None:
    throughput = names.DECODE_TOKENS_PER_S
    assert throughput.ci_low.name == "decode_tokens_per_s_ci_low"
    assert throughput.ci_high.name == "decode_tokens_per_s_ci_high"
    assert {throughput.ci_low, throughput.ci_high} <= set(names.METRICS)


def test_a_kernels_metric_is_in_a_section_of_mlflows_charts() -> None:
    assert names.KERNEL_US.of("mlp_1_dual").name == "kernel_us/mlp_1_dual"


def test_each_part_has_a_metric_of_its_own() -> None:
    assert names.PART_US.of("inner net state").name == "part_us/inner_net_state"
    made = [names.PART_US.of(part).name for part in (*PARTS, UNKNOWN)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"part_us/[a-z0-9_]+", name) for name in made)


def test_system_metrics() -> None:
    # MLflow shows those series, and only those, in the System metrics tab
    assert names.SYSTEM_POWER.of(3).name == "system/gpu_3_power_usage_watts"


def literals(path: Path) -> set[str]:
    """The texts of a source file, without its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return {node.value for node in found if isinstance(node.value, str)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_spells_a_name_that_the_catalog_has(source: Path) -> None:
    spelled = literals(source) & RECORDED
    assert not spelled - ALLOWED.get(str(source.relative_to(ROOT)), set()), "use the object of ttt_mlflow.names"


# names that stand for something else there as well
ALLOWED: dict[str, set[str]] = {
    # keys of timing/passes.json
    "ttt_mlflow/measurement/loop.py": {"warmup_passes", "warmup_s", "prefill_ms", "time_to_first_token_ms"},
    "ttt_mlflow/record/pass_log.py": {"warmup_s", "prefill_ms"},  # and of passes.jsonl
    # a file of the record that is also uploaded as an artifact
    "ttt_mlflow/record/json_files.py": {"config.json"},
    "ttt_mlflow/models/checkpoint_files.py": {"config.json"},  # of a checkpoint
    # the name of one of NVML's counters
    "ttt_mlflow/telemetry/counters.py": {"ecc_uncorrected_errors"},
}


def identifiers(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.id for node in nodes if isinstance(node, ast.Name)
    }


@cache
def used() -> set[str]:
    return set().union(*map(identifiers, SOURCES))


CONSTANTS = {
    name: value
    for name, value in vars(names).items()
    if isinstance(value, names.Metric | names.Tag | names.Artifact) or name in ("CLOCK_EVENT_PCT", "VIOLATION_S")
}


@pytest.mark.parametrize("constant", CONSTANTS)
def test_the_catalog_has_nothing_that_no_code_records(constant: str) -> None:
    value = CONSTANTS[constant]
    if isinstance(value, names.Artifact) and value.path.startswith("profiles/nsys/") and constant not in used():
        # Nsight Systems writes these files itself, in a folder that the run gives it
        file = Path(value.path)
        assert {file.name, file.stem} & literals(ROOT / "ttt_mlflow/profilers/nsys.py")
    else:
        assert constant in used()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert (ROOT / page).read_text() == PAGES[page](ROOT), f"run `python -m docs.generate`: {page} is stale"


def test_clock_event_reasons_are_nvmls_bits() -> None:
    for bit, reason in enumerate(names.CLOCK_EVENT_REASONS):
        camel = "".join(word.capitalize() for word in reason.split("_"))
        old, new = f"nvmlClocksThrottleReason{camel}", f"nvmlClocksEventReason{camel}"
        value = getattr(pynvml, new, None) or getattr(pynvml, old)
        assert value == 1 << bit
