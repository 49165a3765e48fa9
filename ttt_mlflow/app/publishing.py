"""Publishes what a command records: begins its MLflow run before anything is built, and completes it at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from ttt_mlflow.app.arguments import number
from ttt_mlflow.app.output import print_error
from ttt_mlflow.app.signals import ParentRun, SignalHandler
from ttt_mlflow.errors import NOTHING_MEASURED, BadInput, DamagedRecord, Killed, PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking.later import sync_command
from ttt_mlflow.tracking.publisher import MOST_S, PATIENCE_S, Limits, NoAnswer, NoProgress, Progress, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttt_mlflow.tracking.publish import PublishedRun

# Of the patience, what a run may use before it measures. The rest is for the end, when the server may be there again.
SHARE_BEFORE = 2 / 3
SILENCE_SHOWN_S = 2.0


@dataclass(frozen=True)
class Destination:
    """The requested destination of a record. How long to publish to it: texts, as they were given."""

    logdir: str
    tracking_uri: str | None
    experiment_name: str | None
    publish_patience: str | None = None
    publish_seconds: str | None = None

    def limits(self) -> Limits:
        """How long to publish. Raises BadInput for a text that is no number of seconds."""
        takes = "a number of seconds above 0"
        return Limits(
            number("publish_patience", self.publish_patience or f"{PATIENCE_S:g}", takes),
            number("publish_seconds", self.publish_seconds or f"{MOST_S:g}", takes),
        )


class Publishing:
    """The publication of one record to ``destination``. It is a context, at whose end the process with MLflow ends.

    parent: the run that MLFLOW_RUN_ID names, or None. Whether it is for this process is found out before it is used.
    refuses: a destination that is given although `mlflow run` has chosen one is refused, else ignored.
    """

    def __init__(self, destination: Destination, parent: ParentRun | None, refuses: bool = True) -> None:
        self._destination, self._parent, self._refuses = destination, parent, refuses
        self._experiment_name = destination.experiment_name
        self._limits = Limits()
        self._publisher: Publisher | None = None
        self._begun = False
        self.uri = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._publisher:
            self._publisher.close()

    @property
    def taken_over(self) -> bool:
        """Whether the record's run is the one that `mlflow run` made for this process."""
        return self._begun and self._parent is not None

    def prepare(self) -> None:
        """Start the process that publishes, so that it imports MLflow meanwhile. Raises BadInput for other limits."""
        self._limits = self._destination.limits()
        self._process()

    def start(self) -> None:
        """Start the process that publishes, unless it has been. Raises BadInput for an impossible destination."""
        from ttt_mlflow.tracking.store import check_place, resolve_destination, resolve_tracking_uri

        self._limits = self._destination.limits()
        asked = self._destination.tracking_uri or self._experiment_name
        self.uri = resolve_tracking_uri(None if self._parent else self._destination.tracking_uri)
        if self._parent and asked:
            self._choose_destination(self._parent)
        resolve_destination(self.uri)
        if check_place(self.uri) is None:
            self._process()

    def begin(self, record: Journal, alive_s: float) -> None:
        """Make the MLflow run of ``record``, or take over the parent. alive_s: seconds that the run may take.

        A server that does not answer is only told: the run is made later. Raises BadInput if the server refuses, or if
        the experiment cannot take runs.
        """
        from ttt_mlflow.tracking.publish import note_target
        from ttt_mlflow.tracking.store import check_place

        note_target(record, self.uri, None, self._experiment_name)
        try:
            if reason := check_place(self.uri):
                raise PublishFailed(reason)
            before = Limits(SHARE_BEFORE * self._limits.patience_s, self._limits.most_s)
            candidate = asdict(self._parent.candidate) if self._parent else None
            begun = self._ask("begin", before, record, candidate=candidate, alive_s=alive_s)
        except PublishFailed as error:
            if isinstance(error, NoProgress):  # the patience is for the whole run
                self._limits = Limits((1 - SHARE_BEFORE) * self._limits.patience_s, self._limits.most_s)
            place = without_secrets(self.uri)
            print_error(f"Warning: tracking_uri={place}: cannot be reached ({error})")
            print_error(
                f"Warning: the measurement is kept in {record.path}; `{self._later(record)}` publishes it later"
            )
            return
        self._begun = True
        if begun["taken_over"]:
            assert self._parent
            self._parent.follow()
        else:
            self._parent = None
        if begun["note"]:
            print_error(f"Note: {begun['note']}")

    def publish_so_far(self, record: Journal) -> None:
        """Let the process publish what is complete, while this one goes on. What fails is published at the end."""
        if self._begun and self._publisher:
            self._publisher.send("publish_so_far", record=str(record.path), uri=self.uri)

    def publish(self, record: Journal) -> "PublishedRun":
        """Publish all that is missing. Raises PublishFailed, with the command that publishes it later."""
        from ttt_mlflow.tracking import publish
        from ttt_mlflow.tracking.store import check_place

        if check_place(self.uri):  # refused at once, without MLflow
            return publish.publish(record, self.uri, None, self._experiment_name)
        candidate = asdict(self._parent.candidate) if self._parent and not self._begun else None
        try:
            with _shown() as show:
                done = self._ask("publish", self._limits, record, show, candidate=candidate)
        except NoAnswer as error:
            raise PublishFailed(
                f"not published to {without_secrets(self.uri)}: {error}; the record is kept; publish it later with: "
                f"{self._later(record)}"
            ) from None
        if candidate and done["taken_over"]:
            self._begun = True
            if record.status["status"] == "killed":
                self.keep_killed()
        return publish.PublishedRun(**{**done["published"], "notes": tuple(done["published"]["notes"])})

    @contextmanager
    def telling(self, signals: SignalHandler) -> Iterator[None]:
        """Tell the parent what ended the block before anything was measured, BadInput or Killed, and raise it again."""
        try:
            yield
        except (BadInput, Killed) as error:
            signals.stopping = True  # from here on, a signal does not interrupt the telling
            if isinstance(error, Killed):
                error.during = error.during or NOTHING_MEASURED
            self.reject(error)
            raise

    def reject(self, error: BadInput | DamagedRecord | Killed) -> None:
        """Tell the parent, if it is for this process, why nothing was measured."""
        from ttt_mlflow.tracking.store import resolve_tracking_uri

        if self._parent is None or not self._parent.candidate.possible:
            return
        killed = isinstance(error, Killed)
        asked: dict[str, Any] = {
            "candidate": asdict(self._parent.candidate),
            "message": f"stopped by {error}" if killed else str(error),
            "status": "killed" if killed else "error",
        }
        try:
            left_as_it_is = self._process().ask("reject", self._limits, uri=resolve_tracking_uri(None), **asked)
        except (BadInput, PublishFailed) as failed:  # bad input: the server refuses, or its address is none
            print_error(f"Error: the run {self._parent.candidate.run_id} could not be told: {failed}")
            return
        if killed and not left_as_it_is:
            self._parent.keep_killed()

    def confirm_parent(self) -> bool:
        """Whether the parent is for this process. If it is not known to be, it is not used."""
        if self._parent and self._why_not(self._parent):
            self._parent = None
        return self._parent is not None

    def keep_killed(self) -> None:
        """Let the parent stay KILLED, although `mlflow run` marks it FAILED at its end."""
        if self.taken_over and self._parent:
            self._parent.keep_killed()

    def _choose_destination(self, parent: ParentRun) -> None:
        """Refuse a destination inside `mlflow run`: its run is in a store and an experiment already.

        A run that is not for this process leaves the choice.
        """
        from ttt_mlflow.tracking.begin import left_text
        from ttt_mlflow.tracking.store import resolve_tracking_uri

        asked, reason = self._destination, self._why_not(parent)
        if reason is None and self._refuses:
            if asked.tracking_uri:
                raise BadInput(
                    f"tracking_uri={without_secrets(asked.tracking_uri)}: `mlflow run` has already chosen the store; "
                    "set MLFLOW_TRACKING_URI before `mlflow run` instead"
                )
            raise BadInput(
                f"experiment_name={asked.experiment_name}: `mlflow run` has already chosen the experiment; "
                "use `mlflow run --experiment-name` instead"
            )
        if reason is None:
            self._experiment_name = None
            return
        self._parent = None
        self.uri = resolve_tracking_uri(asked.tracking_uri)
        print_error(f"Note: {left_text(parent.candidate, reason)}")

    def _why_not(self, parent: ParentRun) -> str | None:
        """Why the parent is not for this process, or is not known to be; None if it is."""
        from ttt_mlflow.tracking.store import check_place, resolve_tracking_uri

        if not parent.candidate.possible:
            return "`mlflow run` did not start this command"
        uri = resolve_tracking_uri(None)
        if reason := check_place(uri):
            return reason
        try:
            reason = self._process().ask("check", self._limits, uri=uri, candidate=asdict(parent.candidate))
        except PublishFailed as error:
            return str(error)
        return None if reason is None else str(reason)

    def _ask(
        self,
        do: str,
        limits: Limits,
        record: Journal,
        show: "Callable[[Progress], None] | None" = None,
        **asked: Any,
    ) -> Any:
        try:
            place = {"record": str(record.path), "uri": self.uri, "experiment_name": self._experiment_name}
            return self._process().ask(do, limits, show, **place, **asked)
        except NoAnswer:
            self._publisher = None  # it has ended; the next request starts another
            raise

    def _process(self) -> Publisher:
        if self._publisher is None:
            self._publisher = Publisher(self._limits)
        return self._publisher

    def _later(self, record: Journal) -> str:
        return sync_command(record.path, self.uri)


@contextmanager
def _shown() -> "Iterator[Callable[[Progress], None]]":
    """Show the progress of a publication on a terminal's standard error, until the block ends."""
    from rich.console import Console

    with Console(stderr=True).status("publishing") as status:
        yield lambda progress: status.update(progress_text(progress))


def progress_text(progress: Progress) -> str:
    """For example ``publishing: 12.3 MB sent, 2.1 MB/s, 40.2 MB left``."""
    parts = []
    if progress.sent:
        parts.append(f"{progress.sent / 1e6:,.1f} MB sent")
        parts.append(f"{progress.sent / 1e6 / max(progress.seconds, 0.1):,.1f} MB/s")
    if progress.left:
        parts.append(f"{progress.left / 1e6:,.1f} MB left")
    if progress.silent_s > SILENCE_SHOWN_S:
        parts.append(f"no answer for {progress.silent_s:.0f} s")
    return ": ".join(filter(None, ["publishing", ", ".join(parts)]))
