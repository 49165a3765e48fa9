"""The record of one run on disk. It is written first and published to MLflow afterwards.

A journal is a folder ``<root>/<journal_id>/``::

    config.json       {"entry_point", "asked": {...}, "used": {...}}    the configuration as given, and as used
    status.json       {"status", "message", "started_at", "ended_at", "exit_code", "process"}
    params.json  metrics.json  tags.json                 {name: value}
    series.json       {metric: [[timestamp in ms, step, value], ...]}
    description.md    the MLflow run's description
    target.json       where the run is to be published (see :meth:`Journal.set_target`)
    uploaded.json     {"run_id", "files": {path: sha256}}     the artifacts that are there already
    published.json    where it was published, written once it is published completely
    artifacts/...     files to upload
    passes.jsonl      the passes of a measurement that goes on (see :mod:`ttt_mlflow.record.pass_log`)
    checksums.jsonl   what each file held when it was complete (see :mod:`ttt_mlflow.record.checksums`)

Each file is replaced as a whole. A process that is killed at any moment leaves either the old file or the new one.
No link in a record is followed. What is read back is checked: DamagedRecord says what is not as it was written.
"""

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ttt_mlflow.config import RunConfig, as_text
from ttt_mlflow.errors import BadInput, DamagedRecord, PublishFailed, Uninterrupted, on_one_line
from ttt_mlflow.names import ARTIFACT_PASSES, TAG_MESSAGE, TAG_STATUS, Artifact, KernelMetric, Metrics, Series, Tags
from ttt_mlflow.record.checksums import LINES_TO_PUBLISH, Checksums
from ttt_mlflow.record.files import obstacle, open_inside, walk
from ttt_mlflow.record.journal_reader import JournalReader
from ttt_mlflow.record.json_files import CONFIG, STATUSES
from ttt_mlflow.record.locks import locked
from ttt_mlflow.record.pass_log import SoFar, read_so_far
from ttt_mlflow.record.process import has_ended, this_process
from ttt_mlflow.record.register import Register
from ttt_mlflow.record.room import NO_SPACE, TO_PUBLISH, Room, write_whole
from ttt_mlflow.record.rounding import rounded, shortened
from ttt_mlflow.record.verify import ARTIFACTS, DESCRIPTION
from ttt_mlflow.redaction import redacted, without_secrets
from ttt_mlflow.telemetry.clock import SteadyClock

NO_RECORD_OF_THE_END = "the process ended without recording its end"
# How long a journal must be unchanged before a process that is not visible from here counts as ended.
UNSEEN_FOR = timedelta(days=1)

PUBLISHED = "published.json"
LOCK = ".lock"  # held by the process that publishes the record
JOURNAL_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


class Journal(JournalReader):
    """The folder of one run. :meth:`create` makes it, :meth:`open` reads it again."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._before_end: list[Callable[[], None]] = []
        self._clock: SteadyClock | None = None  # of the process that made the journal
        self._register = Register(path)

    @classmethod
    def create(cls, root: Path, asked: Mapping[str, Any], entry_point: str = RunConfig.entry_point) -> "Journal":
        """Start a journal in ``root`` for the configuration ``asked`` of ``entry_point``, with status ``running``.

        Raises :class:`BadInput` if ``root`` is not writable.
        """
        clock = SteadyClock()
        now = _time_of(clock)
        journal = cls(Path(root).absolute() / f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}")
        journal._clock = clock
        try:
            journal.artifacts.mkdir(parents=True)
            journal._register.create()
            journal._write_json(CONFIG, {"entry_point": entry_point, "asked": dict(asked), "used": {}})
            # written last, because a folder with a status is a journal
            journal._write_json(
                "status.json",
                {
                    "status": "running",
                    "message": None,
                    "started_at": now.isoformat(),
                    "ended_at": None,
                    "exit_code": None,
                    "process": this_process(),
                    "checksums": True,
                },
            )
        except OSError as error:
            shutil.rmtree(journal.path, ignore_errors=True)  # nothing is recorded
            todo = "free some space there" if error.errno in NO_SPACE else "choose a folder that you may write to"
            raise BadInput(f"logdir={on_one_line(root)}: not writable ({error.strerror}); {todo}") from None
        except ValueError as error:  # a NUL
            raise BadInput(f"logdir={on_one_line(root)}: no path ({error}); choose another folder") from None
        return journal

    @property
    def room(self) -> Room:
        """The space that is reserved for the record's own files and for ``reserved`` artifacts."""
        return Room(self.path)

    # Writing

    def set_used(self, used: Mapping[str, Any]) -> None:
        """Store the configuration as used, without any ``auto``."""
        self._write_json(CONFIG, {**self.config, "used": dict(used)})

    def set_status(self, status: str, message: str | None = None, exit_code: int | None = None) -> None:
        """Record what happened. The first status other than ``running`` sets the end time.

        A status other than ``running`` is to be the last that a run writes: the log is closed, and all is sealed.
        """
        ended_at = None if status == "running" else self._now().isoformat()
        if status != "running":
            while self._before_end:
                self._before_end.pop()()
            self.seal()
        self._set_status(status, message, exit_code, ended_at)

    def reopen(self) -> None:
        """Let this process go on with a record that has ended, or whose process has: it is running again."""
        self._write_json(
            "status.json",
            {
                **self.status,
                **{"status": "running", "message": None, "ended_at": None, "exit_code": None},
                "process": this_process(),
            },
        )
        (self.path / PUBLISHED).unlink(missing_ok=True)  # what comes now is not there
        of_an_end = (TAG_STATUS.name, TAG_MESSAGE.name)
        self._write_json("tags.json", {name: text for name, text in self.tags.items() if name not in of_an_end})

    def before_end(self, action: Callable[[], None]) -> None:
        """Call ``action`` once before the final status is written, so that its file is complete then."""
        self._before_end.append(action)

    def update_params(self, params: Mapping[str, object]) -> None:
        self._update("params.json", {name: as_text(value) for name, value in params.items()})

    def update_metrics(self, metrics: Metrics) -> None:
        """Add measured values, rounded (:mod:`ttt_mlflow.record.rounding`).

        A value that is not finite is an error of the caller: ``ValueError``.
        """
        for metric, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"{metric.name}={value}: not finite; a metric that was not measured must be left out")
        self._update("metrics.json", {metric.name: float(value) for metric, value in rounded(metrics).items()})

    def update_tags(self, tags: Tags) -> None:
        self._update("tags.json", {tag.name: str(value) for tag, value in tags.items()})

    def set_series(self, series: Series, reserved: bool = True) -> None:
        """Replace the series: rows of (timestamp in ms, step, value), all finite. ``reserved``: see `write_artifact`.

        Samples and passes are kept as they are. A kernel's number is a statistic, so it is rounded as a metric is.
        """
        stored = {
            metric.name: [
                [int(when), int(step), float(shortened(metric, value) if isinstance(metric, KernelMetric) else value)]
                for when, step, value in rows
            ]
            for metric, rows in series.items()
        }
        self._write_json("series.json", stored, reserved)

    def set_description(self, markdown: str) -> None:
        self._write(self.path / DESCRIPTION, without_secrets(markdown).encode(errors="backslashreplace"))

    def set_target(
        self,
        tracking_uri: str,
        run_id: str | None = None,
        experiment_name: str | None = None,
        experiment_id: str | None = None,
    ) -> None:
        """Store where to publish, so that a later ``sync`` completes the same MLflow run there."""
        target = {
            "tracking_uri": tracking_uri,
            "run_id": run_id,
            "experiment_name": experiment_name,
            "experiment_id": experiment_id,
        }
        self._write_json("target.json", target)

    def set_published(self, tracking_uri: str, run_id: str, experiment_id: str) -> None:
        """Mark the journal as published completely."""
        place = {"tracking_uri": tracking_uri, "run_id": run_id, "experiment_id": experiment_id}
        self._write_json(PUBLISHED, {**place, "at": datetime.now().astimezone().isoformat()})
        self._register.end()
        self.room.release()

    def set_uploaded(self, run_id: str, files: Mapping[str, str]) -> None:
        """Store which artifacts the run ``run_id`` has, with their checksums."""
        self._write_json("uploaded.json", {"run_id": run_id, "files": dict(files)})

    def artifact_path(self, artifact: Artifact) -> Path:
        """The path of ``artifact``. Its folder is created."""
        path = self.artifacts / artifact.path
        if ".." in path.parts or not path.is_relative_to(self.artifacts) or path == self.artifacts:
            raise ValueError(f"{artifact.path}: an artifact must be inside the journal")
        self._refuse_obstacle(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_artifact(self, artifact: Artifact, data: bytes | str, reserved: bool = False) -> Path:
        """Write ``artifact`` as a whole. Text is UTF-8, and without secrets.

        reserved: on a full disk, in the space that is reserved.
        """
        path = self.artifact_path(artifact)
        self._write(
            path, without_secrets(data).encode(errors="backslashreplace") if isinstance(data, str) else data, reserved
        )
        return path

    def complete(self, path: Path) -> None:
        """Enter the checksum of an artifact that is complete and that others wrote."""
        self._register.enter([path.relative_to(self.path).as_posix()])

    def seal(self) -> None:
        """Enter the checksums of all artifacts that have none yet."""
        self._register.seal(ARTIFACTS)

    # Runs in progress, and runs whose process has ended

    @property
    def abandoned(self) -> bool:
        """Whether the status is still ``running`` although the process has ended.

        A process of another host or container is not visible from here. It counts as ended if nothing in the journal
        was written for :data:`UNSEEN_FOR`.
        """
        status = self.status
        if status["status"] != "running":
            return False
        ended = has_ended(status["process"])
        return datetime.now(UTC) - self._last_write() > UNSEEN_FOR if ended is None else ended

    def close_abandoned(self) -> None:
        """Record the end of an abandoned journal: killed, at the time of its last write.

        That time is the same in every copy of the record, because it stands in the record: in its last line of
        checksums, and in those that are added here. A record of version 0.1 has only the times of its files.
        """
        if self.abandoned:
            ended_at = Checksums.read(self.path).ended_at or self._last_write()
            # not its passes, if the run had recorded them itself
            so_far = None if self.artifact_file(ARTIFACT_PASSES.path) else read_so_far(self.path)
            if so_far:
                ended_at = max(ended_at, so_far.last_write)
            ended_at = max(ended_at, datetime.fromisoformat(self.status["started_at"]))  # a clock that was set back
            at = ended_at.isoformat()
            self.room.release(keep=TO_PUBLISH)
            if so_far:
                self._record_passes(so_far, at)
            self._register.seal(ARTIFACTS, at, killed=True)
            first = f"**killed: {NO_RECORD_OF_THE_END}**\n\n"
            if (text := self.description) and not text.startswith(first):
                self._write(self.path / DESCRIPTION, f"{first}{text}".encode(), at=at)
            self._set_status("killed", NO_RECORD_OF_THE_END, None, ended_at.astimezone().isoformat(), at)

    def _record_passes(self, so_far: SoFar, at: str) -> None:
        """Record what a killed run had measured. The passes come last: a process that is killed here does it again."""
        metrics = {metric.name: value for metric, value in rounded(so_far.metrics).items()}
        tags = {tag.name: value for tag, value in so_far.measurement.stop_tags().items()}
        series = {metric.name: points for metric, points in so_far.series.items()}
        for name, values in (("metrics.json", metrics), ("tags.json", tags), ("series.json", series)):
            if values:
                self._write_json(name, {**values, **self._read_json(name)}, at=at)
        for artifact, text in reversed(so_far.artifacts.items()):
            self._write(self.artifact_path(artifact), text.encode(), at=at)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Lock the journal for one publisher. Raises :class:`PublishFailed` if another process is publishing it."""
        # not truncated: what stands in its place may be a file that somebody needs
        with open(open_inside(self.path, LOCK, os.O_RDWR | os.O_CREAT), "rb") as lock, ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / LOCK, lock.fileno(), wait=False))
            except BlockingIOError:
                raise PublishFailed(f"{self.path}: another process is publishing it; wait for that process") from None
            yield

    def _now(self) -> datetime:
        """By a clock that nobody sets, if this object made the journal: the time since its start is a duration."""
        return _time_of(self._clock) if self._clock else datetime.now().astimezone()

    def _last_write(self) -> datetime:
        newest = self.path.stat().st_mtime
        with os.scandir(self.path) as top:
            entries = [*top, *(entry for _, entry in walk(self.path, ARTIFACTS))]
        for entry in entries:
            with suppress(FileNotFoundError):  # a temporary file of a process that is still writing
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
        return datetime.fromtimestamp(newest, UTC)

    def _set_status(
        self, status: str, message: str | None, exit_code: int | None, ended_at: str | None, at: str | None = None
    ) -> None:
        if status not in STATUSES:
            raise ValueError(f"{status}: not a status; the statuses are {', '.join(STATUSES)}")
        old = self.status
        new = {"status": status, "message": message, "exit_code": exit_code}
        # Metrics use the end time, and publishing twice must give the same points. So the end time never changes.
        self._write_json("status.json", {**old, **new, "ended_at": old["ended_at"] or ended_at}, at=at)
        if status != "running":
            self._register.end(keep=LINES_TO_PUBLISH)

    def _update(self, name: str, values: Mapping[str, Any]) -> None:
        self._write_json(name, {**self._read_json(name), **values})

    def _write_json(self, name: str, value: Any, reserved: bool = True, at: str | None = None) -> None:
        # whatever came into the record, from a message of a driver to an option: no secret leaves the process with it
        text = json.dumps(redacted(value), indent=1, allow_nan=False)
        self._write(self.path / name, text.encode(), reserved, at)

    def _write(self, path: Path, data: bytes, reserved: bool = True, at: str | None = None) -> None:
        """Replace the content of ``path`` with ``data`` atomically. Its checksum is entered right before.

        reserved: see :meth:`write_artifact`.
        """
        self._refuse_obstacle(path)
        name = path.relative_to(self.path).as_posix()
        announced = False

        def announce() -> None:
            nonlocal announced
            announced = True  # before it is: a line may be written by a call that fails
            self._register.announce(name, data, at)

        with Uninterrupted():
            try:
                try:
                    # not in artifacts/, because everything there is uploaded
                    write_whole(path, data, self.path, announce)
                except OSError as error:
                    if not reserved or error.errno not in NO_SPACE or not self.room.write(path, data, announce):
                        raise
            except BaseException:  # raised again: whatever ended the write, the announced line may be wrong
                if announced:
                    self._register.doubt(name)
                raise

    def _refuse_obstacle(self, path: Path) -> None:
        """Raise DamagedRecord for a link or a folder where ``path`` is to be written, or a link above it."""
        if found := obstacle(self.path, path.relative_to(self.path).as_posix()):
            raise DamagedRecord(f"{path}: {found}")


def _time_of(clock: SteadyClock) -> datetime:
    return datetime.fromtimestamp(clock.now_ns() / 1e9, UTC).astimezone()
