"""Turns the words of a command line into a configuration."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

from ttt_mlflow.config import FALSE_WORDS, TRUE_WORDS, Configuration, RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.numerals import fraction

Asked = TypeVar("Asked", bound=Configuration)
AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Options = Mapping[str, str | None]  # by parameter name; None: not given


def parse_run(options: Options, no_cg: str | None, rest: Sequence[str]) -> RunConfig:
    """The configuration, with the legacy flag ``--no_cg`` applied. Raises BadInput as :func:`parse` does."""
    if no_cg is not None and no_cg.lower() not in TRUE_WORDS + FALSE_WORDS:
        asked = parse(RunConfig, options, rest, [f"no_cg={no_cg}: not allowed; no_cg takes true or false"])
    else:
        asked = parse(RunConfig, options, rest)
    if no_cg is None or no_cg.lower() in FALSE_WORDS:
        return asked
    if asked.cuda_graph:
        raise BadInput("no_cg=true: it contradicts cuda_graph=true; give one of the two")
    return asked.model_copy(update={"cuda_graph": False})


def parse(kind: type[Asked], options: Options, rest: Sequence[str], faults: Sequence[str] = ()) -> Asked:
    """The configuration that ``options`` describe. Raises BadInput with one line for each fault, all faults at once.

    rest: the words that are not options of ``kind``.
    """
    faults = [*_explain_rest(kind, rest), *faults]
    try:
        asked = kind.parse({name: value for name, value in options.items() if value is not None})
    except BadInput as error:
        raise BadInput("\n".join([*faults, str(error)])) from None
    if faults:
        raise BadInput("\n".join(faults))
    return asked


def words(name: str, text: str | None) -> tuple[str, ...]:
    """The words of ``text``, divided as a shell does. Raises BadInput for an open quotation."""
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as error:
        raise BadInput(f"{name}={text}: not allowed ({error}); {name} takes options in one quoted text") from None


def number(name: str, text: str, what: str, allow_zero: bool = False) -> float:
    """``text`` as a number above 0; ``2%`` is 2. Raises BadInput. what: what ``name`` takes, for the message."""
    try:
        value = fraction(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if value < 0 or (value == 0 and not allow_zero):
        raise BadInput(f"{name}={text}: not allowed; {name} takes {what}")
    return value


def age(name: str, text: str) -> timedelta:
    """``30m``, ``24h`` or ``7d`` as a time. Raises BadInput for anything else."""
    value, unit = text[:-1], text[-1:]
    if not (value.isascii() and value.isdecimal() and unit in AGES) or len(value) > 6:
        raise BadInput(f"{name}={text}: not allowed; {name} takes a number and s, m, h or d, for example 24h or 7d")
    return timedelta(**{AGES[unit]: int(value)})


def _explain_rest(kind: type[Configuration], words: Sequence[str]) -> list[str]:
    """One line for each argument that is not an option, such as ``--foo 1``, ``--foo=1`` or ``batch=1``."""
    faults = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            faults.append(f"{word}: not an option; give a parameter as --name value")
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and waiting and not waiting[0].startswith("-"):
            value = waiting.pop(0)
        name = name.replace("-", "_")
        faults.append(kind.no_such_parameter(f"{name}={value}" if equals or value else name))
    return faults
