"""Reserves disk space for the numbers of a run: before anything is built, and ahead of the passes that are measured."""

import errno
import os
import shutil
from collections.abc import Mapping

from ttt_mlflow import names
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput, on_one_line
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.room import UNWRITABLE
from ttt_mlflow.run.reporter import Reporter

SMALL, SMALL_FILES = 16 << 10, 40  # the record's own files are a few KB; each is written several times
LARGE, LARGE_FILES = 64 << 10, 8  # those with long lists: the description, the checksums, the packages
PASSES, STEPS, SERIES = "passes", "steps", "series"
# what one pass or step takes at most in timing/passes.json, timing/steps.csv and series.json
PASS_BYTES, STEP_BYTES, POINT_BYTES = 128, 48, 96
FIXED_BYTES = 4 << 10  # of each of these files
PASSES_AT_START, STEPS_AT_START = 512, 1 << 14

# artifacts that are written in reserved space
MEASURED = (names.ARTIFACT_PASSES, names.ARTIFACT_VERDICT, names.ARTIFACT_MICRO_SAMPLES, names.ARTIFACT_HOST)

Sizes = Mapping[str, int]  # bytes by name of the reserved file


def reserve(record: Journal, sizes: Sizes) -> None:
    """Reserve ``sizes`` for a run that is about to begin. Raises BadInput, and leaves no record, if they do not fit."""
    try:
        if sum(sizes.values()) > shutil.disk_usage(record.path).free:  # to fill the disk first would disturb others
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for artifact in MEASURED:
            record.artifact_path(artifact)  # a new folder takes space too
        for name, size in sizes.items():
            record.room.reserve(name, size)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        shutil.rmtree(record.path, ignore_errors=True)
        place = on_one_line(record.path.parent)
        raise BadInput(
            f"logdir={place}: no room for the numbers of a run ({error.strerror}); it reserves "
            f"{sum(sizes.values()) / 1e6:.1f} MB before it builds anything; free some space there, or choose another "
            "logdir"
        ) from None


def own_files(large: int = LARGE) -> dict[str, int]:
    """The sizes for the files that each record has. ``large``: the size of the largest one."""
    small = {f"small-{index}": SMALL for index in range(SMALL_FILES)}
    return small | {f"large-{index}": max(LARGE, large) for index in range(LARGE_FILES)}


def sizes_at_start(used: RunConfig) -> dict[str, int]:
    """What a decode or prefill run reserves before it builds the model: room for many passes, and for two in any case.

    :class:`RoomForPasses` reserves more if there are more passes.
    """
    steps = steps_per_pass(used)
    return own_files() | _sizes(PASSES_AT_START, max(steps * min(used.repeats or 2, 2), STEPS_AT_START))


def steps_per_pass(used: RunConfig) -> int:
    return used.genlen if used.mode == "decode" else 1


def _sizes(passes: int, steps: int) -> dict[str, int]:
    each = {PASSES: passes * PASS_BYTES, STEPS: steps * STEP_BYTES, SERIES: passes * POINT_BYTES}
    return {name: FIXED_BYTES + size for name, size in each.items()}


class RoomForPasses:
    """Keeps enough space reserved for the passes of a measurement, of which nobody knows how many there will be."""

    def __init__(self, record: Journal, reporter: Reporter, used: RunConfig) -> None:
        self._record, self._reporter = record, reporter
        self._steps = steps_per_pass(used)
        self._held = sizes_at_start(used)
        self._full = False

    def keep_ahead(self, warmup: int, timed: int) -> None:
        """Reserve space for one more pass than the ``warmup`` and ``timed`` ones so far. Called between passes.

        It is doubled where it is too small, so this happens rarely.
        """
        if self._full:
            return
        try:
            for name, size in _sizes(warmup + timed + 1, (timed + 1) * self._steps).items():
                if size > self._held[name]:
                    self._record.room.reserve(name, 2 * size)
                    self._held[name] = 2 * size
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            self._full = True
            self._reporter.warn(
                f"no more room can be reserved in {self._record.path.parent} ({error.strerror}); the metrics are safe, "
                f"but the list of the {timed} passes may be left out; free some space there"
            )
