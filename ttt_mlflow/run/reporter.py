"""Shows the progress of a run, and times its phases."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ttt_mlflow.errors import end_if_asked
from ttt_mlflow.names import Artifact, Metric, Metrics
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.report.text import printable

Show = Callable[[float, str], None]  # the completed fraction, and the next action
log = logging.getLogger(__name__)


class Reporter:
    """Prints to ``console`` and to the run's log.

    phases: the seconds of each completed phase. left_out: the artifacts that the disk did not take, in order.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phases: Metrics = {}
        self.left_out: list[Artifact] = []

    def say(self, text: str) -> None:
        log.info("%s", text)
        self._print(text)

    def warn(self, text: str) -> None:
        log.warning("%s", text)
        self._print(f"Note: {text}")

    def leave_out(self, artifact: Artifact, why: str) -> None:
        """Say that ``artifact`` is not recorded, or not completely."""
        if artifact not in self.left_out:
            self.left_out.append(artifact)
            self.warn(f"{artifact.path} is left out: {why}")

    def status(self, text: str) -> AbstractContextManager[object]:
        """Show ``text`` until the block ends."""
        return self.console.status(Text(_shown(text)))

    @contextmanager
    def phase(self, metric: Metric, text: str) -> Iterator[Callable[[str], None]]:
        """Time and show a phase that is not measured. The block gets a function that shows what it does."""
        began = time.perf_counter()
        with self.console.status(Text(_shown(text))) as status:
            yield lambda what: status.update(Text(_shown(f"{text}, {what}")))
        self.phases[metric] = time.perf_counter() - began
        self._print(f"{text}: {self.phases[metric]:.1f} s")
        log.info("%s: %.3f s", text, self.phases[metric])

    @contextmanager
    def progress(self, label: str) -> Iterator[Show]:
        """A progress bar that is redrawn only on request, so that nothing is drawn while a pass is timed."""
        title, description = (TextColumn(text, markup=False) for text in (_literal(label), "{task.description}"))
        columns = (title, BarColumn(), description, TimeElapsedColumn())
        with Progress(*columns, console=self.console, auto_refresh=False, redirect_stdout=False) as bar:
            task = bar.add_task("", total=1.0)

            def show(fraction: float, text: str) -> None:
                end_if_asked()
                log.info("%s", text)
                bar.update(task, completed=fraction, description=text, refresh=True)

            yield show

    def _print(self, text: str) -> None:
        self.console.print(_shown(text), markup=False, highlight=False, soft_wrap=True)


def _shown(text: str) -> str:
    return printable(without_secrets(text), "\n")


def _literal(text: str) -> str:
    """``text`` for a column of rich, which fills in what is in braces."""
    return _shown(text).replace("{", "{{").replace("}", "}}")
