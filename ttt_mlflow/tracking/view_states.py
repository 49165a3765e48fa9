"""The saved views of MLflow's UI: which runs each shows, with which columns and charts. Nothing here asks a server.

MLflow keeps a view as JSON, with its own names for columns (``params.`batch` ``), charts and sections. The names of
metrics and tags come from the catalog.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ttt_mlflow import names
from ttt_mlflow.names import Metric, Tag
from ttt_mlflow.tracking import run_color
from ttt_mlflow.workload import PARTS

VERSION = 2  # of the views below; it rises whenever one of them changes
CHARTED_RUNS = 100  # MLflow loads that many
SECTION = "ttt-section"
# MLflow adds a chart for every other metric to these: a metric a/b is in the section a
FOLDED = {"ttt-model-metrics": "Model metrics", "ttt-parts": names.PART_US.name, "ttt-system-metrics": "System metrics"}
# Sorted by when they began, MLflow folds the runs of a sweep under their parent, which has no number: the charts are
# empty. Sorted by anything else, all stand side by side. A record's id begins with the time.
NEWEST = f"tags.`{names.TAG_JOURNAL_ID.name}`"
Mode = Literal["TABLE", "CHART", "ARTIFACT"]
Chart = dict[str, Any]


@dataclass(frozen=True)
class View:
    """One saved view.

    id: part of its link and of the experiment's tag; it never changes. condition: which runs it shows, in MLflow's
    filter syntax. columns: their ids with their widths in pixels, in order. order_by: the column whose highest value
    comes first. group_by: a tag, whose groups show their highest values. modes: what its links open, the most useful
    first. MLflow shows columns in the table alone, and beside charts and artifacts only the names.
    """

    id: str
    name: str
    shows: str
    condition: str
    columns: Mapping[str, int]
    charts: Sequence[Chart]
    order_by: str = NEWEST
    group_by: Tag | None = None
    modes: tuple[Mode, ...] = ("CHART", "TABLE")

    def state(self) -> dict[str, Any]:
        """The view as MLflow stores it."""
        charts = [{**chart, "uuid": f"{self.id}-{number}"} for number, chart in enumerate(self.charts)]
        return {
            "selectedColumns": list(self.columns),
            "columnOrder": list(self.columns),
            "columnWidths": dict(self.columns),
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "searchFilter": self.condition,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "groupBy": _grouped(self.group_by),
            "groupsExpanded": {},
            "useGroupedValuesInCharts": False,  # a point for each run
            "runsHiddenMode": "SHOW_ALL",  # MLflow's default draws ten runs only
            "hideEmptyCharts": True,
            "isAccordionReordered": True,  # keeps our section first
            "compareRunCharts": charts,
            "compareRunSections": [
                _section(SECTION, "Benchmark", shown=True),
                *(_section(uid, name, shown=False) for uid, name in FOLDED.items()),
            ],
        }


def _grouped(tag: Tag | None) -> dict[str, Any] | None:
    if tag is None:
        return None
    return {"aggregateFunction": "max", "groupByKeys": [{"mode": "tag", "groupByData": tag.name}]}


def _section(uid: str, name: str, shown: bool) -> dict[str, Any]:
    common = {"uuid": uid, "name": name, "display": shown, "isReordered": True, "deleted": False, "isGenerated": False}
    return {**common, "columns": 2, "cardHeight": 320} if shown else common


def _chart(kind: str, **fields: Any) -> Chart:
    common = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": CHARTED_RUNS}
    return {"type": kind, **common, **fields}


def _scatter(x: Metric, y: Metric) -> Chart:
    """``y`` over the parameter of which ``x`` is the number: MLflow draws it as a number, and every run has it."""
    return _chart("SCATTER", xaxis={"key": x.name, "type": "PARAM"}, yaxis={"key": y.name, "type": "METRIC"})


def _bars(metric: Metric) -> Chart:
    return _chart("BAR", metricKey=metric.name, selectedMetricKeys=[metric.name])


def _param(name: str) -> str:
    return f"params.`{name}`"


def _metric(metric: Metric) -> str:
    return f"metrics.`{metric.name}`"


def _tag(tag: Tag) -> str:
    return f"tags.`{tag.name}`"


def _is(tag: Tag, value: str) -> str:
    return f"{_tag(tag)} = '{value}'"


def _all_of(*conditions: str) -> str:
    return " AND ".join(conditions)


# the widths fit a window of 1600 pixels
MODEL = {_param("model_name"): 120, _param("inner_net"): 145}
SIZE = {_metric(names.BATCH): 65, _param("dtype"): 75}
TRUST = {_metric(names.RELATIVE_HALF_WIDTH_PCT): 170, _tag(names.TAG_VERDICT): 85, _metric(names.ROOFLINE_PCT): 100}
PROFILED = f"tags.`mlflow.loggedArtifacts` LIKE '%{names.ARTIFACT_KERNELS.path}%'"  # MLflow's own tag, of its tables

VIEWS = (
    View(
        "ttt-latest",
        "Latest 100",
        "the newest decode runs",
        _is(names.TAG_KIND, "decode"),
        {**MODEL, **SIZE, _metric(names.DECODE_TOKENS_PER_S): 170, **TRUST},
        (_scatter(names.BATCH, names.DECODE_TOKENS_PER_S), _scatter(names.BATCH, names.DECODE_STEP_MS_P50)),
    ),
    View(
        "ttt-best",
        "Best of each configuration",
        "the fastest valid decode run of each configuration, by model and inner net",
        _all_of(_is(names.TAG_KIND, "decode"), _is(names.TAG_BEST, "true")),
        {**MODEL, **SIZE, _metric(names.DECODE_TOKENS_PER_S): 170, **TRUST, _tag(names.TAG_GPU_NAME): 170},
        (
            _scatter(names.BATCH, names.DECODE_TOKENS_PER_S),
            _scatter(names.BATCH, names.ROOFLINE_PCT),
            _bars(names.DECODE_TOKENS_PER_S),
            _bars(names.ROOFLINE_PCT),
        ),
        order_by=_metric(names.DECODE_TOKENS_PER_S),
        group_by=names.TAG_SERIES,
    ),
    View(
        "ttt-memory",
        "Memory and energy",
        "memory, power and energy per token of the newest decode runs",
        _is(names.TAG_KIND, "decode"),
        {
            **MODEL,
            **SIZE,
            _metric(names.PEAK_MEMORY_ALLOCATED_GB): 200,
            _metric(names.DEVICE_MEMORY_USED_GB): 190,
            _metric(names.JOULES_PER_TOKEN): 140,
            _metric(names.POWER_W_MEAN): 120,
            _metric(names.TEMPERATURE_C_MAX): 150,
            _tag(names.TAG_VERDICT): 110,
        },
        (
            _scatter(names.BATCH, names.PEAK_MEMORY_ALLOCATED_GB),
            _scatter(names.BATCH, names.JOULES_PER_TOKEN),
            _scatter(names.BATCH, names.POWER_W_MEAN),
            _scatter(names.BATCH, names.SM_CLOCK_MHZ_MEAN),
        ),
    ),
    View(
        "ttt-not-valid",
        "Not valid, and why",
        "the newest runs without a valid measurement, with the reasons",
        _is(names.TAG_SERIES, run_color.NOT_VALID),
        {
            **MODEL,
            _metric(names.BATCH): 65,
            _tag(names.TAG_STATUS): 80,
            _tag(names.TAG_VERDICT): 90,
            _tag(names.TAG_REASONS): 160,
            _tag(names.TAG_MESSAGE): 230,
            _tag(names.TAG_MISSING): 160,
        },
        (
            _scatter(names.BATCH, names.RELATIVE_HALF_WIDTH_PCT),
            _scatter(names.BATCH, names.DRIFT_PCT),
            _scatter(names.BATCH, names.SM_CLOCK_MHZ_MEAN),
            _scatter(names.BATCH, names.TEMPERATURE_C_MAX),
        ),
        modes=("TABLE", "CHART"),
    ),
    View(
        "ttt-prefill",
        "Prefill",
        "the newest prefill runs",
        _is(names.TAG_KIND, "prefill"),
        {
            **MODEL,
            **SIZE,
            _metric(names.PROMPTLEN): 100,
            _metric(names.PREFILL_TOKENS_PER_S): 180,
            _metric(names.PREFILL_MS): 110,
            **TRUST,
        },
        (
            _scatter(names.PROMPTLEN, names.PREFILL_TOKENS_PER_S),
            _scatter(names.PROMPTLEN, names.PREFILL_MS),
            _scatter(names.BATCH, names.PREFILL_TOKENS_PER_S),
            _scatter(names.BATCH, names.PREFILL_MS),
        ),
    ),
    View(
        "ttt-kernels",
        "Kernels",
        "the kernels of profiled runs side by side; its charts show the time of each part of a step",
        _all_of(f"{_tag(names.TAG_KIND)} != 'micro'", PROFILED),
        {
            **MODEL,
            **SIZE,
            _param("profile"): 90,
            _metric(names.PROFILED_STEP_MS): 150,
            **{_metric(names.PART_US.of(part)): 170 for part in PARTS},
        },
        tuple(_bars(names.PART_US.of(part)) for part in PARTS),
        modes=("ARTIFACT", "CHART", "TABLE"),
    ),
)
LATEST, BEST, MEMORY, NOT_VALID, PREFILL, KERNELS = VIEWS
OF_KIND = {"decode": LATEST, "prefill": PREFILL}  # the view that has the runs of a kind


def view_link(base: str, experiment_id: str, view: View, mode: Mode | None = None) -> str:
    """The link that opens ``view`` with its columns, sorting and charts; without ``mode`` in its most useful mode.

    base: the server's address, or nothing for the path alone. Without the workflow type the page would be MLflow's
    GenAI overview, and without `/runs` the view would be dropped.
    """
    mode = mode or view.modes[0]
    query = f"viewStateShareKey={view.id}&workflowType=machine_learning"
    query += "" if mode == "TABLE" else f"&compareRunsMode={mode}"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def description(experiment_id: str) -> str:
    """The description of an experiment. MLflow shows its first line only, until someone unfolds it."""
    links = " · ".join(_linked(view.name, experiment_id, view, view.modes[0]) for view in VIEWS)
    lines = [
        f"- **{view.name}** ({', '.join(_linked(WORDS[mode], experiment_id, view, mode) for mode in view.modes)}): "
        f"{view.shows}"
        for view in VIEWS
    ]
    return "\n".join(
        [
            links,
            "",
            "These are runs of ttt-mlflow. The links open saved views:",
            "",
            *lines,
            "",
            "Color: model and inner net; gray: not valid. `ttt-mlflow views` writes the views and this text again. It "
            "keeps what a person has changed.",
        ]
    )


WORDS: dict[Mode, str] = {"TABLE": "table", "CHART": "charts", "ARTIFACT": "side by side"}


def _linked(text: str, experiment_id: str, view: View, mode: Mode) -> str:
    return f"[{text}]({view_link('', experiment_id, view, mode).lstrip('/')})"
