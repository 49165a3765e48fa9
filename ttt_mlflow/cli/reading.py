"""The commands that read: models, table, profile-diff, sync."""

from pathlib import Path

import click

from ttt_mlflow.app import listings, records
from ttt_mlflow.cli.options import TRACKING_URI_HELP, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR

DEFAULT_DIFF = "./profile_diff"

DIFF_EXAMPLES = """\b
Examples:
  ttt-mlflow profile-diff ./ttt_runs/20261123-101500-1a2b3c4d ./ttt_runs/20261130-101500-5e6f7a8b
  ttt-mlflow profile-diff 3f0c5d9e8b7a46b1a2c3d4e5f6071829 20261130-101500-5e6f7a8b --out ./last_week
"""


@click.command("sync")
@click.argument("path", default=DEFAULT_LOGDIR)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
@click.pass_context
def sync_command(context: click.Context, path: str, tracking_uri: str | None) -> None:
    """Publish the records that MLflow does not have yet.

    PATH is one record or a folder of records (default: ./ttt_runs). Publishing a record twice changes nothing. The exit
    code is 4 if a record could not be sent.
    """
    context.exit(records.sync_records(path, tracking_uri))


@click.command("models")
def models_command() -> None:
    """List the models that can be measured, with their inner nets."""
    listings.print_models()


@click.command("profile-diff", epilog=DIFF_EXAMPLES)
@click.argument("run_a")
@click.argument("run_b")
@click.option("--out", default=DEFAULT_DIFF, metavar="FOLDER", help=f"output folder  [default: {DEFAULT_DIFF}]")
@click.option(*spellings("logdir"), "logdir", metavar="LOGDIR", help=f"folder of records  [default: {DEFAULT_LOGDIR}]")
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
def profile_diff_command(run_a: str, run_b: str, out: str, logdir: str | None, tracking_uri: str | None) -> None:
    """Show which kernels explain the change from RUN_A to RUN_B.

    Both must have been measured with profile=torch, or both with profile=nsys. A run is given as the folder of its
    record, the id of its record in LOGDIR, or the id of its MLflow run. The command writes diff.csv, diff.md and
    diff.png.
    """
    records.profile_difference(run_a, run_b, Path(out), Path(logdir or DEFAULT_LOGDIR), tracking_uri)


@click.command("table")
@click.argument("logdir", default=DEFAULT_LOGDIR)
def table_command(logdir: str) -> None:
    """Print one line for each record in the folder LOGDIR (default: ./ttt_runs)."""
    records.print_table(logdir)


COMMANDS = (sync_command, models_command, profile_diff_command, table_command)
