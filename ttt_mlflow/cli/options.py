"""Options that several commands share.

The options of ``run`` and ``micro`` are the fields of :class:`~ttt_mlflow.config.RunConfig` and ``MicroConfig``. These
classes receive the values as text, validate them and write the messages.
"""

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click

from ttt_mlflow.config import (
    DEFAULT_LOGDIR,
    FALSE_WORDS,
    TRUE_WORDS,
    Configuration,
    MicroConfig,
    RunConfig,
    SweepConfig,
    as_text,
)
from ttt_mlflow.config.seed_spellings import PARAMETERS
from ttt_mlflow.errors import BadInput, on_one_line
from ttt_mlflow.tracking.publisher import MOST_S, PATIENCE_S

# the value of an option that is given without one, as with the legacy flags
BARE: dict[type[Configuration], dict[str, str]] = {
    RunConfig: {"use_compile": "true", "cuda_graph": "true", "profile": "torch"},
    MicroConfig: {"profile": "nsys"},
    SweepConfig: {
        **{"use_compile": "true", "cuda_graph": "true", "profile": "torch"},
        **{"try_all": "true", "skip_missing": "true", "any_gpu": "true", "exclusive": "true"},
    },
}
TRACKING_URI_HELP = "MLflow store or server  [default: $MLFLOW_TRACKING_URI, else the SQLite file ./mlflow.db]"

RECORDS_HELP = f"folder of records  [default: {DEFAULT_LOGDIR}]"
EXPERIMENT_HELP = "MLflow experiment  [default: $MLFLOW_EXPERIMENT_NAME, else $MLFLOW_EXPERIMENT_ID, else ttt-mlflow]"

SWITCH = "[true|false]"  # what a switch takes in the help; without a value it is true


class UserPath(click.ParamType):
    """A path in which ``~`` is a home folder: the shell leaves the one in ``--logdir=~/runs`` as it is."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = os.path.expanduser(value)
        if path.startswith("~"):
            user, option = path.split("/")[0], param.name if param else "path"
            told = f"{option}={value}: {user} is nobody's home here; write ./{path} for a folder of this name"
            raise BadInput(on_one_line(told))
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            pass  # each command says what it needs
        except (OSError, ValueError) as error:  # too long a name, a folder that may not be entered, a circle of links
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise BadInput(on_one_line(f"{param.name if param else 'path'}={value}: no usable path ({why})")) from None
        return path


USER_PATH = UserPath()


class SwitchCommand(click.Command):
    """A command whose switches can stand before its arguments: in ``--strict A B``, A is no value of ``--strict``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_values(args, switches_of(self)))


def switches_of(command: click.Command) -> set[str]:
    """The spellings of the options that may be given with true or false, or without a value."""
    options = (param for param in command.params if isinstance(param, click.Option) and param.metavar == SWITCH)
    return {spelling for option in options for spelling in option.opts}


def with_values(words: Sequence[str], switches: Collection[str]) -> list[str]:
    """``words`` with the value of each switch that has none. Nothing after ``--`` is changed."""
    end = words.index("--") if "--" in words else len(words)
    done: list[str] = []
    for place, word in enumerate(words):
        follows = words[place + 1] if place + 1 < end else ""
        bare = place < end and word in switches and follows.lower() not in TRUE_WORDS + FALSE_WORDS
        done.append(f"{word}=true" if bare else word)
    return done


def config_options(kind: type[Configuration]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option for each field of ``kind``, accepted with dashes and with underscores."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(kind.model_fields.items()):
            bare = BARE[kind].get(name)
            choices = kind.takes.get(name, "")
            takes = f"takes {choices}; " if choices and choices not in str(field.description) else ""
            without = f"without a value: {bare}; " if bare else ""
            text = f"{field.description}  [{takes}{without}default: {as_text(field.default)}]"
            flag: dict[str, Any] = {"is_flag": False, "flag_value": bare} if bare else {}
            metavar = SWITCH if bare == "true" else f"[{name.upper()}]" if bare else name.upper()
            command = click.option(*spellings(name), name, metavar=metavar, help=text, **flag)(command)
        for name in PARAMETERS if kind is RunConfig else ():  # not in the help: docs/running.md has them
            command = click.option(*spellings(name), name, hidden=True)(command)
        return command

    return decorate


def record_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the location of the record."""
    options = (
        ("experiment_name", "NAME", EXPERIMENT_HELP),
        ("tracking_uri", "URI", TRACKING_URI_HELP),
        ("logdir", "LOGDIR", f"folder for the record on disk  [default: {DEFAULT_LOGDIR}]"),
    )
    for name, metavar, text in options:
        kind = USER_PATH if name == "logdir" else click.STRING
        command = click.option(*spellings(name), name, type=kind, metavar=metavar, help=text)(command)
    return command


def publish_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the time that publishing may take."""
    options = (
        ("publish_seconds", MOST_S, "time at the end for an upload that moves; the rest waits for `ttt-mlflow sync`"),
        ("publish_patience", PATIENCE_S, "time in all without an answer and without a byte that moves"),
    )
    for name, default, text in options:
        help_text = f"{text}  [default: {default:g}]"
        command = click.option(*spellings(name), name, metavar="SECONDS", help=help_text)(command)
    return command


def spellings(name: str) -> Sequence[str]:
    """``--inner-net`` and ``--inner_net``. `mlflow run -P` uses the second spelling."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


# unknown options are accepted by click and rejected by this package, so that the message names them with their values
TAKES_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}
