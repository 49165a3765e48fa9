"""The commands about records on disk: record list, show, verify, prune."""

from collections.abc import Sequence

import click

from ttt_mlflow.app import prune, record_commands
from ttt_mlflow.app.output import guard_output
from ttt_mlflow.cli.options import RECORDS_HELP, TRACKING_URI_HELP, USER_PATH, spellings

GROUP_EXAMPLES = """\b
Examples:
  ttt-mlflow record list
  ttt-mlflow record show 20261123-101500-1a2b3c4d
  ttt-mlflow record verify ./ttt_runs /mnt/archive/ttt_runs
  ttt-mlflow record prune --older-than 90d --dry-run
"""

LIST_EXAMPLES = """\b
Examples:
  ttt-mlflow record list
  ttt-mlflow record list ./exp/mamba

\b
Exit code: 0 all records are whole, 2 no such folder, 4 a record is damaged and named on standard error.
"""

SHOW_EXAMPLES = """\b
Examples:
  ttt-mlflow record show 20261123-101500-1a2b3c4d
  ttt-mlflow record show ./exp/mamba/20261123-101500-1a2b3c4d

\b
Exit code: 0 the record is whole, 2 no such record, 4 it is damaged.
"""

VERIFY_EXAMPLES = """\b
Examples:
  ttt-mlflow record verify
  ttt-mlflow record verify ./ttt_runs/20261123-101500-1a2b3c4d
  ttt-mlflow record verify ./ttt_runs /mnt/archive/ttt_runs

\b
Exit code: 0 all records are whole, 2 no such folder, 4 a record is damaged; each fault is a line on standard error.
"""

PRUNE_EXAMPLES = """\b
Examples:
  ttt-mlflow record prune --dry-run
  ttt-mlflow record prune ./exp/mamba --older-than 7d --tracking-uri http://mlflow.example:5000
  ttt-mlflow record prune --older-than 90d --unpublished

\b
Exit code: 0 what was to go is gone, 2 bad input, 4 a record is kept because it is damaged, or because MLflow does not
have all of it or does not answer.
"""

OLDER_THAN_HELP = f"only what began longer ago: a number and s, m, h or d  [default: {prune.OLDER_THAN}]"


@click.group("record", epilog=GROUP_EXAMPLES)
def record_group() -> None:
    """List, show, verify and remove the records on this disk."""


@record_group.command("list", epilog=LIST_EXAMPLES)
@click.argument("folder", type=USER_PATH, required=False)
@click.pass_context
def list_command(context: click.Context, folder: str | None) -> None:
    """Print one line for each record: whether and where it was published, whether it is whole, its size.

    FOLDER is a folder of records (default: ./ttt_runs). Of artifacts only the sizes are compared; `verify` reads all.
    """
    context.exit(record_commands.list_records(folder))


@record_group.command("show", epilog=SHOW_EXAMPLES)
@click.argument("record", type=USER_PATH)
@click.option(*spellings("logdir"), "logdir", type=USER_PATH, metavar="LOGDIR", help=RECORDS_HELP)
@click.pass_context
def show_command(context: click.Context, record: str, logdir: str | None) -> None:
    """Print what is known of one record, and how it differs from what was written.

    RECORD is the folder of a record, or the id of one in LOGDIR.
    """
    context.exit(record_commands.show_record(record, logdir))


@record_group.command("verify", epilog=VERIFY_EXAMPLES)
@click.argument("paths", type=USER_PATH, nargs=-1, metavar="[PATH]...")
@click.pass_context
def verify_command(context: click.Context, paths: Sequence[str]) -> None:
    """Read records as a whole, and say for each file whether it is what was written.

    PATH is a record or a folder of records (default: ./ttt_runs). A record of version 0.1 has no checksums: then only
    its kinds of files and its JSON are checked.
    """
    context.exit(record_commands.verify_records(paths))


@record_group.command("prune", epilog=PRUNE_EXAMPLES)
@click.argument("folder", type=USER_PATH, required=False)
@click.option(*spellings("older_than"), "older_than", default=prune.OLDER_THAN, metavar="TIME", help=OLDER_THAN_HELP)
@click.option(*spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
@click.option(*spellings("dry_run"), "dry_run", is_flag=True, help="remove nothing, say what would be removed")
@click.option("--unpublished", is_flag=True, help="also remove what was never published: those numbers are lost")
@click.option("--damaged", is_flag=True, help="also remove damaged records, published or not")
@click.pass_context
def prune_command(
    context: click.Context,
    folder: str | None,
    older_than: str,
    tracking_uri: str | None,
    dry_run: bool,
    unpublished: bool,
    damaged: bool,
) -> None:
    """Remove the records that MLflow has, after asking it whether it has all of them.

    FOLDER is a folder of records (default: ./ttt_runs). A server is asked only if --tracking-uri or
    MLFLOW_TRACKING_URI names it; an SQLite file is found by the record. What runs is never removed.
    """
    asked = prune.Asked(folder, older_than, tracking_uri, unpublished, damaged, dry_run)
    guard_output()
    context.exit(prune.prune(asked))


COMMANDS = (record_group,)
