"""The command line. Arguments are parsed only here.

Each module of this folder has the commands of one purpose; :data:`cli` puts them together. torch and mlflow are
imported inside the commands, so that help and messages about bad input appear at once.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from ttt_mlflow.app.fault import tell_unexpected
from ttt_mlflow.app.output import close_output, open_output, print_error, show_error
from ttt_mlflow.app.signals import stopped_by_signals
from ttt_mlflow.app.users_folder import enter_users_folder
from ttt_mlflow.cli import again, cleaning, comparing, keeping, measuring, reading, reporting, sweeping
from ttt_mlflow.errors import Killed, TTTError

EXAMPLES = """\b
Examples:
  ttt-mlflow doctor
  ttt-mlflow run --model-name ttt-125m --batch 2 --genlen 16 --device cpu
  ttt-mlflow sweep --preset decode-2k --dry-run
  ttt-mlflow table --sort -throughput
  ttt-mlflow compare latest~1 latest
  ttt-mlflow run --help
"""


class _Commands(click.Group):
    """Shows failures as short messages, without a traceback, and ends with their exit codes."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with stopped_by_signals():
                return super().invoke(context)
        except TTTError as error:
            show_error(error)
            context.exit(error.exit_code)
        except Killed as killed:
            print_error(f"Stopped by {killed}.")
            context.exit(killed.exit_code)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own ways to end a command
        except Exception as error:
            context.exit(tell_unexpected(error, f"ttt-mlflow {context.invoked_subcommand or ''}".strip()))


def _print_version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"ttt-mlflow {_version()}")
        context.exit()


def _version() -> str:
    try:
        return version("ttt-mlflow")
    except PackageNotFoundError:
        return "of this folder; the package is not installed"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.option(
    *("--version", "asked"),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Measure how fast a model decodes; each configuration is one MLflow run."""


def main() -> None:
    open_output()
    enter_users_folder()
    try:
        cli(prog_name="ttt-mlflow")
    except SystemExit as ended:
        lost = close_output()
        sys.exit(ended.code or lost)


for commands in (measuring, sweeping, comparing, again, reading, reporting, keeping, cleaning):
    for command in commands.COMMANDS:
        cli.add_command(command)
