"""The command line. Arguments are parsed only here.

Each module of this folder has the commands of one purpose; :data:`cli` puts them together. torch and mlflow are
imported inside the commands, so that help and messages about bad input appear at once.
"""

from typing import Any

import click

from ttt_mlflow.app.output import print_error, show_error
from ttt_mlflow.cli import comparing, measuring, reading
from ttt_mlflow.errors import Killed, TTTError


class _Commands(click.Group):
    """Shows expected failures as short messages, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except TTTError as error:
            show_error(error)
            context.exit(error.exit_code)
        except Killed as killed:
            print_error(f"Stopped by {killed} before anything was measured.")
            context.exit(killed.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure how fast a model decodes; each configuration is one MLflow run."""


def main() -> None:
    cli(prog_name="ttt-mlflow")


for command in (*measuring.COMMANDS, *comparing.COMMANDS, *reading.COMMANDS):
    cli.add_command(command)
