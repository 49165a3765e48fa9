"""Carries out `report`: finds runs, puts them into tables and charts, and writes the files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ttt_mlflow import names
from ttt_mlflow.app.output import print_error, print_text, working
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.app.report_sets import Found, find_sets
from ttt_mlflow.app.table import parsed_filter
from ttt_mlflow.app.views import run_link, run_place
from ttt_mlflow.config import DEFAULT_LOGDIR
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.names import Artifact
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.record.run_row import RunRow, local_row, store_row
from ttt_mlflow.record.sweep_file import SweepFile
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.best_run import Best, best_of, parse_limits
from ttt_mlflow.report.contexts_table import contexts_text, crossings_csv
from ttt_mlflow.report.results import Results
from ttt_mlflow.report.results_charts import charts_of
from ttt_mlflow.report.results_contexts import context_charts
from ttt_mlflow.report.results_figure import charts_figure, table_figure
from ttt_mlflow.report.results_grids import RunSet, results_of
from ttt_mlflow.report.results_page import results_html
from ttt_mlflow.report.results_table import results_csv, results_markdown, results_text
from ttt_mlflow.report.style import figure_png, figure_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_OUT = "./report"
# format -> the files that it has
FORMATS: dict[str, tuple[Artifact, ...]] = {
    "html": (names.ARTIFACT_RESULTS_PAGE,),
    "markdown": (names.ARTIFACT_RESULTS_MARKDOWN,),
    "csv": (names.ARTIFACT_RESULTS_CSV,),
    "png": (names.ARTIFACT_RESULTS_TABLE_PNG, names.ARTIFACT_RESULTS_CHARTS_PNG),
    "svg": (names.ARTIFACT_RESULTS_TABLE_SVG, names.ARTIFACT_RESULTS_CHARTS_SVG),
}
# files that a report has if its runs have several context lengths
OF_CONTEXTS: dict[str, tuple[Artifact, ...]] = {
    "csv": (names.ARTIFACT_RESULTS_CROSSINGS,),
    "png": (names.ARTIFACT_RESULTS_CONTEXT_PNG,),
    "svg": (names.ARTIFACT_RESULTS_CONTEXT_SVG,),
}
MOST_BATCHES = 4  # that have charts over the context in a picture; the page has all


@dataclass(frozen=True)
class Asked:
    """What the report is to show, as given. sets: what is put on top of each other; none: one place as a whole."""

    sets: tuple[str, ...] = ()
    where: Destination = field(default_factory=lambda: Destination(DEFAULT_LOGDIR, None, None))
    condition: str | None = None
    against: str | None = None
    best: str | None = None
    title: str | None = None
    out: str = DEFAULT_OUT
    formats: str = ",".join(FORMATS)


def make_report(asked: Asked) -> int:
    """Print the throughput table, write the files, and return the exit code: 4 if a record is damaged.

    Raises BadInput for options that mean nothing, for runs that are not found, and for a folder that cannot be written.
    """
    formats = _formats(asked.formats)
    limits = parse_limits(asked.best) if asked.best is not None else ()
    condition = parsed_filter(asked.condition)
    with working("reading runs") as tell:
        found = find_sets(asked.sets, asked.where, condition, tell)
    for line in found.unread:
        print_error(f"Error: {line}; the report goes on without it")
    results = _results(asked, found)
    best = best_of(results, limits) if limits else []
    files = results_files(results, best, formats)
    try:
        paths = _written(files, Path(asked.out))
    except OSError as error:
        raise BadInput(f"out={asked.out}: cannot be written ({error.strerror}); choose another folder") from None
    parts = [*("\n".join(one.lines) for one in best), results_text(results), contexts_text(results)]
    print_text("\n\n".join(filter(None, parts)))
    print_error(f"Written: {', '.join(map(str, paths))}")
    if older := _of_an_earlier_report(paths):
        print_error(f"Note: {asked.out} still has {', '.join(older)} of an earlier report; this one has no such file")
    return DamagedRecord.exit_code if found.unread else 0


def report_on(
    runs: Sequence[RecordedRun], folder: Path, *, sweep: SweepFile | None = None, title: str, store: str | None = None
) -> list[Path]:
    """Write the report on ``runs`` into ``folder``, which becomes part of a run's artifacts; returns the files.

    sweep: the cells among which some have no run. store: that of the runs that are no records. The Markdown's links
    lead to the runs within MLflow, whatever its address. Raises OSError if the files cannot be written, DamagedRecord
    if a run's record is not what was written.
    """
    rows = [row for run in runs if (row := _row(run)) is not None]
    sets = [RunSet(title, rows, (sweep,) if sweep else ())]
    places = _places(rows, store)
    results = results_of(sets, title, links=_links(places), run_ids=_run_ids(places))
    files = results_files(results, [], [*FORMATS])
    within = replace(results, links={one: run_place(at.experiment_id, at.run_id) for one, at in places.items()})
    files[names.ARTIFACT_RESULTS_MARKDOWN] = _encoded(results_markdown(within))
    return _written(files, folder)


def results_files(results: Results, best: Sequence[Best], formats: Sequence[str]) -> dict[Artifact, bytes]:
    """The content of each file of ``formats``. None of it has secrets."""
    figures = {"table": lambda: table_figure(results), "charts": lambda: _charts(results, best)}
    drawn: dict[str, Figure] = {}
    files: dict[Artifact, bytes] = {}
    for form in formats:
        if form in ("png", "svg"):
            save = figure_png if form == "png" else figure_svg
            for artifact in FORMATS[form]:
                name = PurePosixPath(artifact.path).stem
                drawn[name] = drawn.get(name) or figures[name]()
                files[artifact] = save(drawn[name])
        else:
            files[FORMATS[form][0]] = _TEXTS[form](results, best)
    return files | _of_contexts(results, formats)


def _of_contexts(results: Results, formats: Sequence[str]) -> dict[Artifact, bytes]:
    files = {}
    if "csv" in formats and (table := crossings_csv(results)):
        files[names.ARTIFACT_RESULTS_CROSSINGS] = _encoded(table)
    if charts := context_charts(results, MOST_BATCHES):
        figure = charts_figure([(chart.title, chart) for chart in charts], columns=2)
        for form, save in (("png", figure_png), ("svg", figure_svg)):
            if form in formats:
                files[OF_CONTEXTS[form][0]] = save(figure)
    return files


def _encoded(text: str) -> bytes:
    return without_secrets(text).encode(errors="backslashreplace")


_TEXTS: dict[str, Callable[[Results, Sequence[Best]], bytes]] = {
    "html": results_html,
    "markdown": lambda results, best: _encoded(results_markdown(results, best)),
    "csv": lambda results, best: _encoded(results_csv(results)),
}


def _charts(results: Results, best: Sequence[Best]) -> "Figure":
    several = len(results.grids) > 1
    return charts_figure(
        [
            (f"{grid.kind}: {chart.title}" if several else chart.title, chart)
            for grid in results.grids
            for chart in charts_of(grid, best)
        ]
    )


def _results(asked: Asked, found: Found) -> Results:
    rows = [row for one in found.sets for row in one.rows]
    located = _places(rows, found.store)
    results = results_of(
        found.sets,
        asked.title or f"Results of {', '.join(found.places)}",
        links=_links(located),
        run_ids=_run_ids(located),
        notes=found.notes,
        against=asked.against,
    )
    if not results.grids:
        places = ", ".join(found.places)
        fits = f" that fits {asked.condition}" if asked.condition else ""
        raise BadInput(f"no decode or prefill run{fits} in {places}; `ttt-mlflow table` lists what there is")
    return results


def _formats(text: str) -> list[str]:
    asked = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in asked:
        if word not in FORMATS:
            raise BadInput(f"formats={text}: {word or 'nothing'} is not allowed; formats takes {', '.join(FORMATS)}")
    return asked


def _row(run: RecordedRun) -> RunRow | None:
    return local_row(run) if isinstance(run, LocalRun) else store_row(run)


@dataclass(frozen=True)
class _Place:
    """Where a run is in MLflow."""

    store: str
    experiment_id: str
    run_id: str


def _places(rows: Sequence[RunRow], store: str | None = None) -> dict[str, _Place]:
    """By the id of a row; a record that was not published is nowhere. store: that of all other runs."""
    from ttt_mlflow.tracking.find_run import StoreRun

    clean = lru_cache(without_secrets)
    places = {}
    for row in rows:
        if isinstance(row.run, LocalRun):
            published = row.run.journal.published
            if published:
                uri = clean(published["tracking_uri"])
                places[row.id] = _Place(uri, published["experiment_id"], published["run_id"])
        elif isinstance(row.run, StoreRun) and store is not None:
            places[row.id] = _Place(clean(store), row.run.experiment_id, row.id)
    return places


def _links(places: Mapping[str, _Place]) -> dict[str, str]:
    return {one: run_link(at.store, at.experiment_id, at.run_id) for one, at in places.items()}


def _run_ids(places: Mapping[str, _Place]) -> dict[str, str]:
    return {one: at.run_id for one, at in places.items()}


def _of_an_earlier_report(paths: Sequence[Path]) -> list[str]:
    """Names of files that a report can have and this one has not, though they lie beside its own."""
    known = [PurePosixPath(one.path).name for some in (FORMATS, OF_CONTEXTS) for of in some.values() for one in of]
    written = {path.name for path in paths}
    return [name for name in known if name not in written and (paths[0].parent / name).exists()] if paths else []


def _written(files: Mapping[Artifact, bytes], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for artifact, data in files.items():
        path = folder / PurePosixPath(artifact.path).name
        path.write_bytes(data)
        paths.append(path)
    return paths
