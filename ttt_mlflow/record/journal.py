"""The record of one run on disk. It is written first and published to MLflow afterwards.

A journal is a folder ``<root>/<journal_id>/``::

    config.json       {"entry_point", "asked": {...}, "used": {...}}    the configuration as given, and as used
    status.json       {"status", "message", "started_at", "ended_at", "exit_code", "process"}
    params.json  metrics.json  tags.json                 {name: value}
    series.json       {metric: [[timestamp in ms, step, value], ...]}
    description.md    the MLflow run's description
    target.json       where the run is to be published (see :meth:`Journal.set_target`)
    published.json    where it was published, written once it is published completely
    artifacts/...     files to upload

Each file is replaced as a whole. A process that is killed at any moment leaves either the old file or the new one.
"""

import fcntl
import json
import math
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ttt_mlflow.config import CONFIGURATIONS, RunConfig, as_text
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.names import Artifact, KernelMetric, Metrics, Point, Series, Tags
from ttt_mlflow.record.rounding import rounded, shortened

STATUSES = ("running", "ok", "oom", "error", "killed")
NO_RECORD_OF_THE_END = "the process ended without recording its end"
# How long a journal must be unchanged before a process that is not visible from here counts as ended.
UNSEEN_FOR = timedelta(days=1)

JOURNAL_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


class Journal:
    """The folder of one run. :meth:`create` makes it, :meth:`open` reads it again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, root: Path, asked: Mapping[str, Any], entry_point: str = RunConfig.entry_point) -> "Journal":
        """Start a journal in ``root`` for the configuration ``asked`` of ``entry_point``, with status ``running``.

        Raises :class:`BadInput` if ``root`` is not writable.
        """
        now = datetime.now().astimezone()
        journal = cls(Path(root).absolute() / f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}")
        try:
            journal.artifacts.mkdir(parents=True)
            journal._write_json("config.json", {"entry_point": entry_point, "asked": dict(asked), "used": {}})
            # written last, because a folder with a status is a journal
            journal._write_json(
                "status.json",
                {
                    "status": "running",
                    "message": None,
                    "started_at": now.isoformat(),
                    "ended_at": None,
                    "exit_code": None,
                    "process": _this_process(),
                },
            )
        except OSError as error:
            raise BadInput(
                f"logdir={root}: not writable ({error.strerror}); choose a folder that you may write to"
            ) from None
        return journal

    @classmethod
    def open(cls, path: Path | str) -> "Journal":
        """The journal in the folder ``path``. Raises :class:`BadInput` if it is not a journal."""
        journal = cls(Path(path).absolute())
        if not (journal.path / "status.json").is_file():
            raise BadInput(f"{path}: not the record of a run (it has no status.json)")
        if journal.status.get("status") not in STATUSES:
            raise BadInput(f"{path}: not the record of a run (its status.json has no known status)")
        return journal

    @property
    def journal_id(self) -> str:
        return self.path.name

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    # Reading

    @property
    def status(self) -> dict[str, Any]:
        return self._read_json("status.json", {})

    @property
    def config(self) -> dict[str, Any]:
        """``entry_point``, ``asked`` and ``used``. ``used`` is empty until the run has chosen all values."""
        return {"entry_point": RunConfig.entry_point, "asked": {}, "used": {}} | self._read_json("config.json", {})

    @property
    def entry_point(self) -> str:
        """What was measured: ``main`` (a decode or prefill configuration) or ``micro`` (kernels)."""
        return str(self.config["entry_point"])

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as used, or as given if the run ended before it chose all values."""
        config = self.config
        return {**config["asked"], **config["used"]}

    @property
    def run_name(self) -> str:
        """For example ``ttt-1b mlp_2_dual_triton b1024 g2048``."""
        kind = CONFIGURATIONS.get(self.entry_point)
        if kind is None:
            known = ", ".join(CONFIGURATIONS)
            raise BadInput(f"{self.path}: a record of {self.entry_point}; this version reads {known}")
        settings = {name: value for name, value in self.settings.items() if name in kind.model_fields}
        return kind.parse(settings).run_name

    @property
    def params(self) -> dict[str, str]:
        return self._read_json("params.json", {})

    @property
    def metrics(self) -> dict[str, float]:
        return self._read_json("metrics.json", {})

    @property
    def tags(self) -> dict[str, str]:
        return self._read_json("tags.json", {})

    @property
    def series(self) -> dict[str, list[Point]]:
        """Metric name -> rows of (timestamp in ms, step, value)."""
        stored = self._read_json("series.json", {})
        return {name: [(when, step, value) for when, step, value in rows] for name, rows in stored.items()}

    @property
    def description(self) -> str:
        path = self.path / "description.md"
        return path.read_bytes().decode() if path.exists() else ""

    @property
    def target(self) -> dict[str, str | None]:
        """Where the run is to be published; empty if no target was noted."""
        return self._read_json("target.json", {})

    @property
    def published(self) -> dict[str, str]:
        """Where the run was published completely; empty if it was not."""
        return self._read_json("published.json", {})

    # Writing

    def set_used(self, used: Mapping[str, Any]) -> None:
        """Store the configuration as used, without any ``auto``."""
        self._write_json("config.json", {**self.config, "used": dict(used)})

    def set_status(self, status: str, message: str | None = None, exit_code: int | None = None) -> None:
        """Record what happened. The first status other than ``running`` sets the end time."""
        ended_at = None if status == "running" else datetime.now().astimezone().isoformat()
        self._set_status(status, message, exit_code, ended_at)

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

    def set_series(self, series: Series) -> None:
        """Replace the series: rows of (timestamp in ms, step, value), all finite.

        Samples and passes are kept as they are. A kernel's number is a statistic, so it is rounded as a metric is.
        """
        stored = {
            metric.name: [
                [int(when), int(step), float(shortened(metric, value) if isinstance(metric, KernelMetric) else value)]
                for when, step, value in rows
            ]
            for metric, rows in series.items()
        }
        self._write_json("series.json", stored)

    def set_description(self, markdown: str) -> None:
        self._write(self.path / "description.md", markdown.encode(errors="backslashreplace"))

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
        self._write_json("published.json", {**place, "at": datetime.now().astimezone().isoformat()})

    def artifact_path(self, artifact: Artifact) -> Path:
        """The path of ``artifact``. Its folder is created."""
        path = self.artifacts / artifact.path
        if not path.resolve().is_relative_to(self.artifacts.resolve()) or path == self.artifacts:
            raise ValueError(f"{artifact.path}: an artifact must be inside the journal")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_artifact(self, artifact: Artifact, data: bytes | str) -> Path:
        """Write ``artifact`` as a whole. Text is UTF-8."""
        path = self.artifact_path(artifact)
        self._write(path, data.encode(errors="backslashreplace") if isinstance(data, str) else data)
        return path

    def faults(self) -> list[str]:
        """How the record on disk differs from what was written, one line each; empty if it is whole."""
        return []

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
        ended = _has_ended(status["process"])
        return datetime.now(UTC) - self._last_write() > UNSEEN_FOR if ended is None else ended

    def close_abandoned(self) -> None:
        """Record the end of an abandoned journal: killed, at the time of its last write."""
        if self.abandoned:
            ended_at = self._last_write().astimezone().isoformat()
            self._set_status("killed", NO_RECORD_OF_THE_END, None, ended_at)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Lock the journal for one publisher. Raises :class:`PublishFailed` if another process is publishing it."""
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PublishFailed(f"{self.path}: another process is publishing it; wait for that process") from None
            yield

    def _last_write(self) -> datetime:
        newest = self.path.stat().st_mtime
        for path in self.path.rglob("*"):
            with suppress(FileNotFoundError):  # a temporary file of a process that is still writing
                newest = max(newest, path.stat().st_mtime)
        return datetime.fromtimestamp(newest, UTC)

    def _set_status(self, status: str, message: str | None, exit_code: int | None, ended_at: str | None) -> None:
        if status not in STATUSES:
            raise ValueError(f"{status}: not a status; the statuses are {', '.join(STATUSES)}")
        old = self.status
        new = {"status": status, "message": message, "exit_code": exit_code}
        # Metrics use the end time, and publishing twice must give the same points. So the end time never changes.
        self._write_json("status.json", {**old, **new, "ended_at": old["ended_at"] or ended_at})

    def _update(self, name: str, values: Mapping[str, Any]) -> None:
        self._write_json(name, {**self._read_json(name, {}), **values})

    def _read_json(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        path = self.path / name
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: cannot be read ({error})") from None
        if not isinstance(value, dict):
            raise BadInput(f"{path}: not a file of a run's record")
        return value

    def _write_json(self, name: str, value: Any) -> None:
        self._write(self.path / name, json.dumps(value, indent=1, allow_nan=False).encode())

    def _write(self, path: Path, data: bytes) -> None:
        """Replace the content of ``path`` with ``data`` atomically."""
        # on the same file system, but not in artifacts/, because everything there is uploaded
        unfinished = self.path / f".{uuid.uuid4().hex}.tmp"
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:  # raised again after the temporary file is removed
            unfinished.unlink(missing_ok=True)
            raise


def find_journals(root: Path | str) -> list[Journal]:
    """The journals directly in ``root``, or ``root`` itself if it is a journal. The oldest is first."""
    root = Path(root)
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder")
    if (root / "status.json").exists():
        return [Journal.open(root)]
    found = [Journal(path.absolute()) for path in root.iterdir() if JOURNAL_ID.fullmatch(path.name)]
    # a folder without a status: its process ended before it wrote one
    found = [journal for journal in found if (journal.path / "status.json").exists()]
    return sorted(found, key=lambda journal: datetime.fromisoformat(journal.status["started_at"]))


def _this_process() -> dict[str, Any]:
    """Facts that identify this process uniquely, also after a restart of the machine."""
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "start_ticks": _start_ticks(os.getpid()),
    }


def _has_ended(process: Mapping[str, Any]) -> bool | None:
    """Whether ``process`` of :func:`_this_process` has ended; ``None`` if it is not visible from here."""
    if process["boot_id"] == _boot_id():
        if process["pid_namespace"] == _pid_namespace():
            return bool(_start_ticks(process["pid"]) != process["start_ticks"])
        return None
    return True if process["host"] == socket.gethostname() else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _start_ticks(pid: int) -> int | None:
    """The start time of the process, in clock ticks since boot. It distinguishes processes that had the same pid.

    ``None`` if there is no such process, or if it is a zombie that its parent has not waited for.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # proc(5): the name is in parentheses and may contain anything
    return None if state == "Z" else int(fields[18])
