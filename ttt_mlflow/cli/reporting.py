"""The commands that report: report."""

from collections.abc import Sequence

import click

from ttt_mlflow.app.output import guard_output
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.cli.options import RECORDS_HELP, USER_PATH, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR

REPORT_EXAMPLES = """\b
Examples:
  ttt-mlflow report
  ttt-mlflow report ./exp/v1.0 ./exp/v1.1 --title "Version 1.1" --out ./report
  ttt-mlflow report --experiment-name nightly --filter "tags.ttt.gpu_name = 'NVIDIA H200'"
  ttt-mlflow report --best "decode_step_ms_p99 < 10 and batch >= 256"
  ttt-mlflow report 3f0c5d9e8b7a46b1a2c3d4e5f6071829 --against mamba --formats html,csv

\b
Exit code: 0 written, 2 bad input: a limit or a filter that is none, runs that are not found, a folder that cannot be
written, 4 written without a record that is damaged and named on standard error.
"""
FILTER_HELP = "only the runs that fit, in MLflow's filter syntax"
BEST_HELP = "which valid run has the highest throughput within these limits, for example decode_step_ms_p99 < 10"
AGAINST_HELP = (
    "row to which speed-ups are relative, or a part of its name  [default: the first; of several sets, itself]"
)
FORMATS_HELP = "what to write: html, markdown, csv, png, svg, comma-separated  [default: all]"
STORE_HELP = "read the runs of this MLflow store or server, not a folder"
EXPERIMENT_HELP = "read the runs of this MLflow experiment, not a folder  [default: ttt-mlflow and Default]"


@click.command("report", epilog=REPORT_EXAMPLES)
@click.argument("sets", nargs=-1, metavar="[RUNS]...")
@click.option("--filter", "condition", metavar="FILTER", help=FILTER_HELP)
@click.option("--best", metavar="LIMITS", help=BEST_HELP)
@click.option("--against", metavar="ROW", help=AGAINST_HELP)
@click.option("--title", metavar="TEXT", help="heading of the report  [default: where the runs are]")
@click.option("--out", type=USER_PATH, default="./report", metavar="FOLDER", help="output folder  [default: ./report]")
@click.option("--formats", default="html,markdown,csv,png,svg", metavar="NAMES", help=FORMATS_HELP)
@click.option(*spellings("logdir"), "logdir", type=USER_PATH, metavar="LOGDIR", help=RECORDS_HELP)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=STORE_HELP)
@click.option(*spellings("experiment_name"), "experiment_name", metavar="NAME", help=EXPERIMENT_HELP)
@click.pass_context
def report_command(
    context: click.Context,
    sets: Sequence[str],
    condition: str | None,
    best: str | None,
    against: str | None,
    title: str | None,
    out: str,
    formats: str,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
) -> None:
    """Write tables and charts: throughput by model, inner net and batch, latency, memory, energy.

    RUNS is a folder of records, or what a side of `ttt-mlflow compare` can be: a sweep's parent run, a run, a commit, a
    filter. Several are put on top of each other. Without RUNS, the records in LOGDIR; with --tracking-uri or
    --experiment-name, the runs of a store. One page works offline and in MLflow's artifact view.
    """
    from ttt_mlflow.app import report

    guard_output()
    where = Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(report.make_report(report.Asked(tuple(sets), where, condition, against, best, title, out, formats)))


COMMANDS = (report_command,)
