"""The commands about runs that exist: models, table, profile-diff, sync, views."""

from pathlib import Path

import click

from ttt_mlflow.app import listings, records, table, views
from ttt_mlflow.app.output import guard_output
from ttt_mlflow.cli.options import RECORDS_HELP, TRACKING_URI_HELP, USER_PATH, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR

DEFAULT_DIFF = "./profile_diff"

SYNC_EXAMPLES = """\b
Examples:
  ttt-mlflow sync
  ttt-mlflow sync ./ttt_runs/20261123-101500-1a2b3c4d --tracking-uri http://mlflow.example:5000
  ttt-mlflow sync --verify

\b
Exit code: 0 all records are in MLflow, 2 bad input, 4 a record remains: not sent, damaged, or without a store.
"""
SYNC_URI_HELP = (
    "MLflow store or server  [default: $MLFLOW_TRACKING_URI, else the SQLite file that the record names, if it exists]"
)
VERIFY_HELP = "read back everything that is in MLflow, also large files and what was published before"

MODELS_EXAMPLES = """\b
Examples:
  ttt-mlflow models
  ttt-mlflow models --check my-model

\b
Exit code: 0 listed, or all checks hold, 1 a check failed, 2 no such model.
"""

DIFF_EXAMPLES = """\b
Examples:
  ttt-mlflow profile-diff ./ttt_runs/20261123-101500-1a2b3c4d ./ttt_runs/20261130-101500-5e6f7a8b
  ttt-mlflow profile-diff 3f0c5d9e8b7a46b1a2c3d4e5f6071829 20261130-101500-5e6f7a8b --out ./last_week
"""

TABLE_EXAMPLES = """\b
Examples:
  ttt-mlflow table
  ttt-mlflow table ./exp/mamba --sort -throughput --limit 10
  ttt-mlflow table --filter "metrics.batch >= 512 and tags.ttt.verdict = 'valid'"
  ttt-mlflow table --columns id,batch,throughput,decode_step_ms_p99,ttt.host --format csv
  ttt-mlflow table --experiment-name nightly --format markdown
  ttt-mlflow table --tracking-uri http://mlflow.example:5000 --filter "tags.ttt.kind = 'prefill'" --format json

\b
Exit code: 0 all runs were read, 2 bad input: an unknown column, a filter that nothing fits, a store that cannot be
read, 4 printed without a record that is damaged and named on standard error.
"""

VIEWS_EXAMPLES = """\b
Examples:
  ttt-mlflow views
  ttt-mlflow views --tracking-uri http://mlflow.example:5000 --experiment-name decode
  ttt-mlflow views --update-runs

\b
Exit code: 0 written, 2 no such experiment, or a store that does not answer or refuses.
"""
VIEWS_EXPERIMENT_HELP = (
    "MLflow experiment  [default: $MLFLOW_EXPERIMENT_NAME, else ttt-mlflow and Default, where they have our runs]"
)

COLUMNS_HELP = """\
what to show: id, date, name, kind, status, throughput, half_width, model, gpu, compile, graph, verdict, and the names
of parameters, metrics and tags, comma-separated"""
SORT_HELP = f"columns to sort by, comma-separated; -batch: the largest first  [default: {table.NEWEST_FIRST}]"
FORMAT_HELP = f"{', '.join(table.FORMATS)}; csv and json have full precision and ISO dates  [default: text]"
LIMIT_HELP = f"most runs to show, the first in the order of --sort; 0: all  [default: {table.LIMIT}]"
STORE_HELP = "read the runs of this MLflow store or server, not a folder"
EXPERIMENT_HELP = "read the runs of this MLflow experiment, not a folder  [default: ttt-mlflow and Default]"


@click.command("sync", epilog=SYNC_EXAMPLES)
@click.argument("path", type=USER_PATH, default=DEFAULT_LOGDIR)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=SYNC_URI_HELP)
@click.option("--verify", is_flag=True, help=VERIFY_HELP)
@click.pass_context
def sync_command(context: click.Context, path: str, tracking_uri: str | None, verify: bool) -> None:
    """Publish the records that MLflow does not have yet.

    PATH is one record or a folder of records (default: ./ttt_runs). Publishing a record twice changes nothing. A record
    that names a server stays where it is until you name the server.
    """
    guard_output()
    context.exit(records.sync_records(path, tracking_uri, verify))


@click.command("models", epilog=MODELS_EXAMPLES)
@click.option("--check", metavar="NAME", help="try a model of this name, or all of a plugin of this name, and exit")
@click.pass_context
def models_command(context: click.Context, check: str | None) -> None:
    """List the models that can be measured, with their inner nets, or try one."""
    if check is None:
        listings.print_models()
    else:
        context.exit(listings.check_models(check))


@click.command("profile-diff", epilog=DIFF_EXAMPLES)
@click.argument("run_a", type=USER_PATH)
@click.argument("run_b", type=USER_PATH)
@click.option(
    "--out", type=USER_PATH, default=DEFAULT_DIFF, metavar="FOLDER", help=f"output folder  [default: {DEFAULT_DIFF}]"
)
@click.option(*spellings("logdir"), "logdir", type=USER_PATH, metavar="LOGDIR", help=RECORDS_HELP)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
def profile_diff_command(run_a: str, run_b: str, out: str, logdir: str | None, tracking_uri: str | None) -> None:
    """Show which kernels explain the change from RUN_A to RUN_B.

    Both must have been measured with profile=torch, or both with profile=nsys. A run is given as the folder of its
    record, the id of its record in LOGDIR, or the id of its MLflow run. The command writes diff.csv, diff.md and
    diff.png.
    """
    records.profile_difference(run_a, run_b, Path(out), Path(logdir or DEFAULT_LOGDIR), tracking_uri)


@click.command("table", epilog=TABLE_EXAMPLES)
@click.argument("folder", type=USER_PATH, required=False)
@click.option("--filter", "condition", metavar="FILTER", help="only the runs that fit, in MLflow's filter syntax")
@click.option("--columns", metavar="NAMES", help=COLUMNS_HELP)
@click.option("--sort", default=table.NEWEST_FIRST, metavar="NAMES", help=SORT_HELP)
@click.option("--limit", default=str(table.LIMIT), metavar="NUMBER", help=LIMIT_HELP)
@click.option("--format", "form", default="text", metavar="FORMAT", help=FORMAT_HELP)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=STORE_HELP)
@click.option(*spellings("experiment_name"), "experiment_name", metavar="NAME", help=EXPERIMENT_HELP)
@click.pass_context
def table_command(
    context: click.Context,
    folder: str | None,
    condition: str | None,
    columns: str | None,
    sort: str,
    limit: str,
    form: str,
    tracking_uri: str | None,
    experiment_name: str | None,
) -> None:
    """Print one line for each local record, or for each run in an MLflow store.

    The records are those in FOLDER (default: ./ttt_runs), whatever MLFLOW_TRACKING_URI says. A store is read with
    --tracking-uri or --experiment-name. Runs of other
    programs are left out, and sweeps and comparisons too, unless the filter names tags.ttt.kind. Micro-benchmarks have
    a table of their own, unless columns are given. CSV and JSON have names and values for programs.
    """
    asked = table.Asked(folder, tracking_uri, experiment_name, condition, columns, sort, limit, form)
    context.exit(table.print_table(asked))


@click.command("views", epilog=VIEWS_EXAMPLES)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
@click.option(*spellings("experiment_name"), "experiment_name", metavar="NAME", help=VIEWS_EXPERIMENT_HELP)
@click.option(
    *spellings("update_runs"),
    "update_runs",
    is_flag=True,
    help="also add to runs of version 0.1 the tags, numbers and colors that the views use",
)
def views_command(tracking_uri: str | None, experiment_name: str | None, update_runs: bool) -> None:
    """Write the saved views of an experiment in the MLflow UI again, and print their links.

    The first run in an experiment does this by itself. What a person changed, a view or the description, is kept.
    """
    guard_output()
    views.write_views(tracking_uri, experiment_name, update_runs)


COMMANDS = (sync_command, models_command, profile_diff_command, table_command, views_command)
