"""The passes of a measurement that goes on, written as each one ends: ``passes.jsonl`` in the record's folder.

A process that is killed at any moment leaves all passes that had ended, and perhaps the beginning of a line, which is
ignored. A run that ends by itself writes ``timing/passes.json`` and removes the file. Each line has a checksum of its
own: those of the record (:mod:`ttt_mlflow.record.checksums`) are of files that are complete.
"""

import json
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttt_mlflow import names
from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.names import Artifact, Metrics, Series
from ttt_mlflow.record.files import open_inside, read_inside
from ttt_mlflow.record.rounding import rounded

if TYPE_CHECKING:
    from ttt_mlflow.measurement.loop import Measurement
    from ttt_mlflow.measurement.timing import StepTimes
    from ttt_mlflow.workload import Workload

PASS_LOG = "passes.jsonl"


class PassLog:
    """Appends the passes of a measurement to the record ``folder``. Nothing waits for the disk.

    tell: called once, with the reason, if the disk does not take a line. The passes are then kept in memory alone.
    """

    def __init__(self, folder: Path, workload: "Workload", tell: Callable[[str], object]) -> None:
        self._folder, self._workload, self._tell = folder, workload, tell
        self._file: FileIO | None = None
        self._warmup = self._timed = 0  # passes that were written
        self._full = False

    def begin(self, measurement: "Measurement") -> None:
        """Start anew: ``measurement`` has no pass yet."""
        self.close()
        self._warmup = self._timed = 0
        head = {"workload": asdict(self._workload), "period": measurement.period, "cost_grows": measurement.cost_grows}
        self._append([{**head, "at_ms": _now_ms()}], os.O_TRUNC)

    def add(self, measurement: "Measurement") -> None:
        """Write the passes that were not written yet. Called between passes."""
        at_ms = _now_ms()
        lines: list[dict[str, Any]] = []
        for number, times in enumerate(measurement.warmup[self._warmup :], self._warmup):
            line = {"warmup_s": measurement.warmup_s, "total_ms": times.total_ms}
            lines.append({**line, **_prompt(measurement, number)})
        before = measurement.warmup_count
        for number, times in enumerate(measurement.repeats[self._timed :], self._timed):
            stop = {"warmup_stop_reason": measurement.warmup_stop_reason}
            watched = {"warmup_watched_clocks": measurement.warmup_watched_clocks}
            lines.append(_times(times) | _prompt(measurement, before + number) | stop | watched)
        self._warmup, self._timed = before, len(measurement.repeats)
        self._append([{**line, "at_ms": at_ms} for line in lines])

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file: what it has is in the record's own files now."""
        self.close()
        with suppress(OSError):  # what is left says nothing that is wrong
            (self._folder / PASS_LOG).unlink(missing_ok=True)

    def _append(self, lines: list[dict[str, Any]], flags: int = 0) -> None:
        if self._full:
            return
        data = b"".join(_line(line) for line in lines)
        try:
            if self._file is None:
                self._file = FileIO(
                    open_inside(self._folder, PASS_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags), "ab"
                )
            end, written = os.fstat(self._file.fileno()).st_size, 0
            try:
                while written < len(data):
                    written += self._file.write(data[written:])
            except OSError:
                os.ftruncate(self._file.fileno(), end)  # no half lines
                raise
        except OSError as error:  # whatever the reason: the measurement does not need the file
            self._full = True
            self._tell(error.strerror or type(error).__name__)


@dataclass(frozen=True)
class SoFar:
    """What a pass log has. measurement: interrupted. ended_ms: when each timed pass ended, in ms since 1970."""

    workload: "Workload"
    measurement: "Measurement"
    ended_ms: list[int]
    last_ms: int

    @property
    def last_write(self) -> datetime:
        return datetime.fromtimestamp(self.last_ms / 1e3, UTC)

    @property
    def metrics(self) -> Metrics:
        warmup: Metrics = {names.WARMUP_S: self.measurement.warmup_s} if self.measurement.warmup else {}
        return self.measurement.metrics(self.workload) | warmup

    @property
    def series(self) -> Series:
        """The throughput of each complete pass; steps count from 1."""
        timed = enumerate(zip(self.measurement.repeats, self.ended_ms, strict=True), start=1)
        tokens = 1e3 * self.workload.tokens_per_pass
        points = [(ended_ms, at, tokens / one.total_ms) for at, (one, ended_ms) in timed if one.complete]
        return {names.PASS_TOKENS_PER_S: points} if points else {}

    @property
    def artifacts(self) -> dict[Artifact, str]:
        """The passes, and their steps if there are any, as a run that ends by itself writes them."""
        passes = json.dumps(self.measurement.record(self.workload.tokens_per_pass), indent=1)
        steps = self.measurement.steps_frame()
        table = {} if steps.empty else {names.ARTIFACT_STEPS: str(steps.to_csv(index=False))}
        return {names.ARTIFACT_PASSES: passes} | table


def throughput_so_far(folder: Path) -> dict[str, float]:
    """The throughput of the pass log in ``folder`` and its interval, by name; empty without a complete timed pass.

    Without PyTorch, which takes seconds to load. Raises DamagedRecord if the file is not as it was written.
    """
    from ttt_mlflow.measurement.statistics import with_confidence_interval

    lines = _lines(folder)
    try:
        timed = [line["total_ms"] for line in lines[1:] if line.get("complete")]
        if not timed:
            return {}
        work = lines[0]["workload"]
        prefill = work["mode"] == "prefill"
        tokens = work["batch"] * work["promptlen" if prefill else "genlen"]
        metric = names.PREFILL_TOKENS_PER_S if prefill else names.DECODE_TOKENS_PER_S
        found = with_confidence_interval(metric, [1e3 * tokens / ms for ms in timed])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise _damaged(folder, error) from None
    return {one.name: value for one, value in rounded(found).items()}


def read_so_far(folder: Path) -> SoFar | None:
    """What the pass log in ``folder`` has; None without one. Raises DamagedRecord if it is not as it was written."""
    from ttt_mlflow.measurement.loop import Measurement  # PyTorch takes seconds to load
    from ttt_mlflow.measurement.timing import StepTimes
    from ttt_mlflow.workload import Workload

    lines = _lines(folder)
    if not lines:
        return None
    try:
        head, *passes = lines
        found = Measurement(period=head["period"], cost_grows=head["cost_grows"])
        found.interrupted, found.stop_reason = True, "interrupted"
        ended_ms = []
        for line in passes:
            if line["prefill_ms"] is not None:
                found.prefill_ms.append(line["prefill_ms"])
                found.first_token_ms.append(line["first_token_ms"])
            if "warmup_s" in line:
                found.warmup_s = line["warmup_s"]
                found.warmup.append(StepTimes(_array([]), line["total_ms"], line["total_ms"], True))
                continue
            step_ms, total_ms, wall_ms = _array(line["step_ms"]), line["total_ms"], line["wall_ms"]
            found.repeats.append(StepTimes(step_ms, total_ms, wall_ms, line["complete"]))
            found.warmup_stop_reason = line["warmup_stop_reason"]
            found.warmup_watched_clocks = line["warmup_watched_clocks"]
            ended_ms.append(line["at_ms"])
        found.ended_ms = ended_ms
        return SoFar(Workload(**head["workload"]), found, ended_ms, lines[-1]["at_ms"])
    except (KeyError, TypeError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> DamagedRecord:
    return DamagedRecord(f"{folder}/{PASS_LOG}: not the passes of a run ({type(error).__name__}: {error})")


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The lines; the beginning of a last one, which a process that was killed has left, is not one."""
    try:
        *lines, _ = read_inside(folder, PASS_LOG).split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, 1):
        checksum, _, text = line.partition(b" ")
        if checksum != _checksum(text):
            raise DamagedRecord(f"{folder}/{PASS_LOG}: line {number} is not what was written")
        found.append(json.loads(text))
    return found


def _line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value).encode()
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _times(times: "StepTimes") -> dict[str, Any]:
    return {
        "total_ms": times.total_ms,
        "wall_ms": times.wall_ms,
        "complete": times.complete,
        "step_ms": times.step_ms.tolist(),
    }


def _prompt(measurement: "Measurement", number: int) -> dict[str, float | None]:
    """Of the prompt before the pass ``number``; None where the pass is the prompt."""
    if number >= len(measurement.prefill_ms):
        return {"prefill_ms": None, "first_token_ms": None}
    return {"prefill_ms": measurement.prefill_ms[number], "first_token_ms": measurement.first_token_ms[number]}


def _array(values: list[float]) -> Any:
    import numpy as np

    return np.array(values, dtype=np.float64)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
