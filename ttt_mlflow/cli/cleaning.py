"""The commands that clean up: janitor."""

import click

from ttt_mlflow.app import janitor
from ttt_mlflow.app.output import guard_output
from ttt_mlflow.cli.options import TRACKING_URI_HELP, USER_PATH, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR

JANITOR_EXAMPLES = """\b
Examples:
  ttt-mlflow janitor --dry-run
  ttt-mlflow janitor --tracking-uri http://mlflow.example:5000 --older-than 7d
  ttt-mlflow janitor --experiment-name decode --logdir /data/ttt_runs
  ttt-mlflow janitor --all-experiments --dry-run

\b
Exit code: 0 done, or nothing to do, 2 bad input, no such experiment, or a store that does not answer,
4 the store does not allow it for a run, which is named on standard error.
"""
EXPERIMENT_HELP = (
    "look in this MLflow experiment  "
    "[default: $MLFLOW_EXPERIMENT_NAME, else $MLFLOW_EXPERIMENT_ID, else ttt-mlflow and Default]"
)
OLDER_THAN_HELP = (
    "age from which a run counts that `mlflow run` made and that never began: a number and s, m, h or d  "
    f"[default: {janitor.OLDER_THAN}]"
)
LOGDIR_HELP = f"folder of records; a run whose record is in it is left to sync  [default: {DEFAULT_LOGDIR}]"


@click.command("janitor", epilog=JANITOR_EXAMPLES)
@click.option(*spellings("dry_run"), "dry_run", is_flag=True, help="only list what would be ended")
@click.option(*spellings("older_than"), "older_than", default=janitor.OLDER_THAN, metavar="TIME", help=OLDER_THAN_HELP)
@click.option(*spellings("all_experiments"), "everywhere", is_flag=True, help="look in all experiments")
@click.option(*spellings("experiment_name"), "experiment_name", metavar="NAME", help=EXPERIMENT_HELP)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
@click.option(
    *spellings("logdir"), "logdir", type=USER_PATH, default=DEFAULT_LOGDIR, metavar="LOGDIR", help=LOGDIR_HELP
)
@click.pass_context
def janitor_command(
    context: click.Context,
    dry_run: bool,
    older_than: str,
    everywhere: bool,
    experiment_name: str | None,
    tracking_uri: str | None,
    logdir: str,
) -> None:
    """End the runs that MLflow shows as running although nobody works on them any more.

    A run is ended as killed, with the reason, in three cases. Its process on this host is gone. It is more than an hour
    past the time that it may take. Or `mlflow run` made it and was killed before anything began. Other programs' runs,
    and runs that live, are left as they are. The record of an ended run can still be published with sync.
    """
    guard_output()
    context.exit(janitor.clean(janitor.Asked(tracking_uri, experiment_name, logdir, older_than, everywhere, dry_run)))


COMMANDS = (janitor_command,)
