"""What other installed packages add by entry points, and how it is tried. One that is broken harms no other."""

import io
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from ttt_mlflow.errors import BadInput, TTTError, one_line

BROKEN = (Exception, SystemExit)  # what the code of another package may raise; sys.exit() in it is no reason to end
SHOWN = 200  # characters of what it prints


class Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Plugin(Generic[Entry]):
    """One entry point. package: its name and version. entries: none if it is broken, with the ``fault`` in one line."""

    name: str
    package: str
    entries: tuple[Entry, ...] = ()
    fault: str | None = None


@dataclass(frozen=True)
class Known(Generic[Entry]):
    """All entries by name, those of this package and of plugins."""

    entries: dict[str, Entry]
    plugins: tuple[Plugin[Entry], ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """One line for each plugin that cannot be loaded."""
        return tuple(plugin.fault for plugin in self.plugins if plugin.fault)

    def package_of(self, name: str) -> str | None:
        """The package that has added ``name``, with its version; None for an entry of this package."""
        return next((one.package for one in self.plugins if any(entry.name == name for entry in one.entries)), None)


def load_plugins(group: str, what: str, kind: type[Entry], taken: Collection[str]) -> Iterator[Plugin[Entry]]:
    """The plugins of an entry-point group. what: what they add. taken: names of entries that exist already."""
    names = set(taken)
    for point in entry_points(group=group):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        try:
            with redirect_stdout(sys.stderr):  # what it prints while it is imported is no output of a command
                entries = _entries_of(point, kind)
            new = [entry.name for entry in entries]
            for name in new:
                if name in names or new.count(name) > 1:
                    raise ValueError(f"{what} {name!r} is registered already")
        except BROKEN as error:
            fault = (
                f"{package}: its {what}s ({group}: {point.name} = {point.value}) cannot be loaded "
                f"({one_line(error)}); repair or uninstall it"
            )
            yield Plugin(point.name, package, fault=fault)
        else:
            names |= set(new)
            yield Plugin(point.name, package, entries)


def _entries_of(point: EntryPoint, kind: type[Entry]) -> tuple[Entry, ...]:
    """An entry point names an entry, or a function that returns one or several."""
    found = point.load()
    found = found() if callable(found) and not isinstance(found, kind) else found
    entries = tuple(found) if isinstance(found, Iterable) else (found,)
    for entry in entries:
        if not isinstance(entry, kind):
            raise TypeError(f"{entry!r} is not a {kind.__name__}")
    return entries


def answer_of(package: str | None, question: str, action: Callable[[], Value]) -> Value:
    """The result of ``action``, which code of ``package`` has. Raises BadInput that names it if it cannot answer.

    package: None for this package, whose faults are not explained away.
    """
    if package is None:
        return action()
    try:
        return action()
    except TTTError:
        raise
    except BROKEN as error:
        raise BadInput(f"{question}: {package} cannot answer ({one_line(error)}); repair or uninstall it") from error


# Trying what a plugin adds


class Wrong(Exception):
    """A check found something that is not as it must be. The message says what was found."""


class Failed(Exception):
    """A check failed without which the later ones have no meaning."""


class Trial:
    """Checks, one after the other. ``tell`` gets one line for each."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.failures = 0

    def skip(self, what: str, why: str) -> None:
        self._tell(f"skipped  {what}: {why}")

    def fail(self, what: str, why: str) -> None:
        self.failures += 1
        self._tell(f"FAILED   {what}: {why}")

    def check(self, what: str, action: Callable[[], Value], may_print: bool = False) -> Value:
        """The result of ``action``. It raises :class:`Wrong` or anything else if the check fails; then Failed."""
        began, fault, printed = time.perf_counter(), None, io.StringIO()
        try:
            with redirect_stdout(printed):
                value = action()
        except BROKEN as error:
            fault = str(error) if isinstance(error, Wrong | TTTError) else one_line(error)
        said = " ".join(printed.getvalue().split())[:SHOWN]
        if said and not may_print and fault is None:
            fault = f"it prints: {said}"
        seconds = time.perf_counter() - began
        self._tell(f"{'FAILED ' if fault else 'ok     '}  {what}{f': {fault}' if fault else ''} ({seconds:.2f} s)")
        if fault:
            self.failures += 1
            raise Failed(what)
        return value


def demand(holds: bool, otherwise: str) -> None:
    """Raise :class:`Wrong` with ``otherwise`` unless it holds."""
    if not holds:
        raise Wrong(otherwise)
