"""Carries out `compare`: finds both sides, compares them, prints, records, and decides the exit code."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ttt_mlflow import names
from ttt_mlflow.app.output import print_error, print_text, show_error, working
from ttt_mlflow.app.publishing import Destination, Publishing
from ttt_mlflow.app.sides import open_finder
from ttt_mlflow.app.signals import ParentRun
from ttt_mlflow.config import CompareConfig
from ttt_mlflow.errors import BadInput, DamagedRecord, Killed, PublishFailed
from ttt_mlflow.record.finding import Damaged
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.recorded_run import RecordedRun
from ttt_mlflow.report.comparison import ComparisonOptions, Pair, compare_sides
from ttt_mlflow.report.comparison_export import comparison_json, comparison_junit
from ttt_mlflow.report.comparison_page import comparison_html
from ttt_mlflow.report.comparison_text import Report, comparison_markdown, comparison_text
from ttt_mlflow.report.gate import Gate, decide
from ttt_mlflow.report.profile_diff import ProfileDiff, profile_diff, read_profiles
from ttt_mlflow.tracking.begin import PUBLISHING_S
from ttt_mlflow.tracking.query import fetch

KERNEL_PROFILES = frozenset(("torch", "nsys"))  # passes that time kernels


def execute(parse: Callable[[], CompareConfig], destination: Destination, record: bool = False) -> int:
    """Compare, print, and return the exit code. ``record``: keep the comparison as a run of its own.

    Under `mlflow run` the comparison is recorded in the run that it made, and the code is 0 once that is done, unless
    ``fail_above`` was given. Raises BadInput for sides that are not found or cannot be compared.
    """
    parent = ParentRun.of_this_process()
    with Publishing(destination, parent, refuses=False) as publishing:
        try:
            config = parse()
            report, damaged = _report(config, destination)
        except (BadInput, DamagedRecord, Killed) as error:
            publishing.reject(error)
            raise
        for one in damaged:
            print_error(f"Error: {one}; the comparison goes on without it")
        print_text(rendered(report, config.format, gate_of(config)))
        assert report.decision is not None
        code = report.decision.exit_code
        if record or publishing.confirm_parent():
            failed = _record(config, report, destination.logdir, publishing)
            code = failed or (0 if publishing.taken_over and config.fail_above is None else code)
        return code or (DamagedRecord.exit_code if damaged else 0)


def gate_of(config: CompareConfig) -> Gate:
    return Gate(config.fail_above, bool(config.inconclusive_ok), bool(config.allow_missing))


def options_of(config: CompareConfig) -> ComparisonOptions:
    return ComparisonOptions(config.resolution, bool(config.strict), bool(config.include_invalid))


def rendered(report: Report, form: str, gate: Gate) -> str:
    """The report in one of the formats text, markdown, json, junit and html."""
    forms: dict[str, Callable[[], str]] = {
        "text": lambda: comparison_text(report),
        "markdown": lambda: comparison_markdown(report),
        "json": lambda: comparison_json(report),
        "junit": lambda: comparison_junit(report, gate),
        "html": lambda: comparison_html(report),
    }
    return forms[form]()


def report_of(sides: Sequence[tuple[str, Sequence[RecordedRun]]], options: ComparisonOptions, gate: Gate) -> Report:
    """The report on two sides, each a text and its runs, with the change of the kernels where both were profiled."""
    (baseline, left), (candidate, right) = sides
    compared = compare_sides(left, right, options)
    profiles = tuple((pair.title, diff) for pair in compared.pairs if (diff := _profiles(pair)))
    return Report(baseline, candidate, compared, decide(compared, gate), profiles=profiles)


def _report(config: CompareConfig, destination: Destination) -> tuple[Report, list[Damaged]]:
    """The report, and the records that were set aside."""
    with open_finder(destination) as finder, working("finding the baseline's runs") as tell:
        baseline = finder.side("baseline", config.baseline)
        tell("finding the candidate's runs")
        candidate = finder.side("candidate", config.candidate)
        runs = [run for run in (*baseline.runs, *candidate.runs) if run.kind in ("decode", "prefill")]
        fetch(runs, names.ARTIFACT_PASSES, lambda read: tell(f"reading {read} of {len(runs)} runs"))
        sides = [(baseline.text, baseline.runs), (candidate.text, candidate.runs)]
        report = report_of(sides, options_of(config), gate_of(config))
    return replace(report, left_out=(*baseline.left_out, *candidate.left_out)), finder.damaged


def _profiles(pair: Pair) -> ProfileDiff | None:
    """The change by kernel between the newest profiled runs of both sides; None if a side has no such profile."""
    sides = [
        max((one.run for one in side), key=lambda run: (_has_profile(run), run.started_at))
        for side in (pair.baseline, pair.candidate)
    ]
    if not all(_has_profile(run) for run in sides):
        return None
    try:
        return profile_diff(*read_profiles(*sides))
    except BadInput as error:  # two profiles of different kinds; the comparison itself does not need them
        print_error(f"Note: {pair.title}: the kernels are not compared: {error}")
        return None


def _has_profile(run: RecordedRun) -> bool:
    return not KERNEL_PROFILES.isdisjoint(run.params.get("profile", "none").split(","))


def _record(config: CompareConfig, report: Report, logdir: str, publishing: Publishing) -> int:
    """Record the comparison as a run, and publish it. Returns the exit code of a failed publication, else 0."""
    record = Journal.create(Path(logdir), config.model_dump(mode="json"), CompareConfig.entry_point)
    record_comparison(record, report)
    try:
        publishing.start()
        publishing.begin(record, PUBLISHING_S)
        published = publishing.publish(record)
    except (BadInput, PublishFailed) as error:  # bad input: the server refuses, but the comparison is made
        show_error(error)
        return PublishFailed.exit_code
    print_error(f"Recorded: {record.path}, MLflow run {published.run_id} in {published.tracking_uri}")
    return 0


def record_comparison(record: Journal, report: Report) -> None:
    """Fill ``record`` with the comparison: its answer as tag, Markdown as description, data and page as artifacts."""
    config = CompareConfig.parse(record.settings)
    record.set_used(config.model_dump(mode="json"))
    record.update_params(config.model_dump(exclude={"format"}))
    record.update_tags(
        {
            names.TAG_KIND: config.kind,
            names.TAG_ENTRY_POINT: config.entry_point,
            names.TAG_JOURNAL_ID: record.journal_id,
            names.TAG_COMPARISON: report.compared.answer,
            names.TAG_STATUS: "ok",
        }
    )
    record.set_description(comparison_markdown(report))
    record.write_artifact(names.ARTIFACT_COMPARISON, comparison_json(report))
    record.write_artifact(names.ARTIFACT_COMPARISON_PAGE, comparison_html(report))
    record.set_status("ok", exit_code=report.decision.exit_code if report.decision else 0)
