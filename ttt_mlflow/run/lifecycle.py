"""The lifecycle of every run: open the record, measure, record, profile, and close the record."""

import json
import logging
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from ttt_mlflow import names
from ttt_mlflow.config import Configuration, RunConfig
from ttt_mlflow.errors import Killed, OutOfMemory, RunFailed, TTTError
from ttt_mlflow.measurement.method import METHOD
from ttt_mlflow.models.checkpoint_id import checkpoint_id
from ttt_mlflow.names import Metrics, Tags
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.log import run_log
from ttt_mlflow.record.room import NO_SPACE, TO_PUBLISH, UNWRITABLE
from ttt_mlflow.run.out_of_memory import failure_of
from ttt_mlflow.run.recording import record_optional
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry import host
from ttt_mlflow.telemetry.nvml import TelemetryUnavailable
from ttt_mlflow.telemetry.sampler import NvmlSampler

HOST_TAGS = {
    names.TAG_HOST: "hostname",
    names.TAG_GPU_NAME: "gpu_name",
    names.TAG_GPU_UUID: "gpu_uuid",
    names.TAG_DRIVER: "driver",
    names.TAG_TORCH: "torch",
    names.TAG_TRITON: "triton",
    names.TAG_CODE_ID: "code_id",
    names.TAG_GIT_DIRTY: "git_dirty",
    names.TAG_GIT_COMMIT: "git_commit",
    names.TAG_GIT_BRANCH: "git_branch",
    names.TAG_GIT_REPO_URL: "git_repo_url",
}
# configuration fields that are recorded as parameters only if they have a value
OPTIONAL = ("inner_net", "decode_path", "attn_impl", "nsys_args", "checkpoint")
Describe = Callable[[Journal, Mapping[str, Any]], str]  # of a record and the status that it is about to have
log = logging.getLogger(__name__)


class Planned(Protocol):
    """The common attributes of all plans."""

    @property
    def used(self) -> Configuration: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def notices(self) -> list[str]: ...
    @property
    def package(self) -> str | None: ...


class Run(Protocol):
    """The parts that differ between kinds of runs. :func:`conduct` calls the methods once, in this order."""

    @property
    def plan(self) -> Planned: ...

    def measure(self, sampler: NvmlSampler | None) -> None:
        """Prepare and measure while ``sampler`` reads the GPU. None on a CPU and without NVML."""

    def record_measured(self) -> None:
        """Record what was measured so far, complete or not. Called regardless of how ``measure`` ended."""

    def profile(self) -> None:
        """Run the profiling passes. Called after a complete measurement."""

    def failure(self) -> TTTError | None:
        """What failed although the run continued to its end."""


def conduct(
    run: Run, record: Journal, reporter: Reporter, describe: Describe, measured: Callable[[], None] | None = None
) -> TTTError | None:
    """Carry out ``run`` and set the status of ``record``, however the run ends. Returns why it failed, or None.

    ``describe`` makes the description of the MLflow run. ``measured`` is called when the measurement is complete and
    recorded, before the profiling passes. Killed and KeyboardInterrupt are raised after they are recorded.
    """
    end = _End(record, reporter, describe)
    try:
        with end.killed_is_recorded():
            with end.log_is_recorded():
                failure = _carry_through(run, record, reporter, measured)
            status = "ok" if failure is None else "oom" if isinstance(failure, OutOfMemory) else "error"
            message, exit_code = (str(failure), failure.exit_code) if failure else (None, 0)
            not_recorded = end.set(status, message, exit_code)
    finally:
        record.room.release(keep=TO_PUBLISH)
    # returned instead of raised here: the context of an exception would keep the model's memory
    return failure or not_recorded


def _carry_through(
    run: Run, record: Journal, reporter: Reporter, measured: Callable[[], None] | None
) -> TTTError | None:
    """Everything but the end of the record. Returns why the run failed, or None."""
    try:
        _record_plan(record, run.plan, reporter)
        sampler = open_sampler(run.plan.device, reporter)
        try:
            with sampler or nullcontext():
                run.measure(sampler)
        finally:
            run.record_measured()
        if measured:
            measured()
        run.profile()
        return run.failure()
    except (Killed, KeyboardInterrupt):
        raise
    except BaseException as error:
        # as text: a handler that keeps log records would keep the traceback, and with it the model's memory
        log.error("the run ended early\n%s", traceback.format_exc())
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            if error.filename and not Path(error.filename).is_relative_to(record.path.parent):
                return RunFailed(f"{error.filename}: {error.strerror}; free some space there, or set TMPDIR")
            return _unwritable(record, "the run cannot be recorded", error)
        failure = failure_of(error, run.plan.used.run_name, run.plan.device)
        is_theirs = run.plan.package and type(failure) is RunFailed
        return RunFailed(f"{run.plan.package}: {failure}") if is_theirs else failure


class _End:
    """The end of a record: everything that is still to be written, and the status last of all.

    So a process that is killed at any moment leaves either a status with all that belongs to it, or no status.
    """

    def __init__(self, record: Journal, reporter: Reporter, describe: Describe) -> None:
        self.record, self.reporter, self.describe = record, reporter, describe

    def set(self, status: str, message: str | None, exit_code: int) -> TTTError | None:
        """Write the end. Returns why that is not possible, or None."""
        record = self.record
        try:
            _record_load_at_the_end(record, self.reporter)
            tags: Tags = {names.TAG_STATUS: status} | ({names.TAG_MESSAGE: message} if message else {})
            if left_out := self.reporter.left_out:
                tags[names.TAG_LEFT_OUT] = ", ".join(artifact.path for artifact in left_out)
            record.update_tags(tags)
            record.set_description(self.describe(record, {"status": status, "message": message}))
            record.set_status(status, message, exit_code)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            return _unwritable(record, "the end of the run cannot be recorded", error)
        return None

    @contextmanager
    def log_is_recorded(self) -> Iterator[None]:
        """Keep the log of the block, and close it: the record's files are complete before the status says so."""
        with run_log(self.record) as kept:
            try:
                yield
            finally:
                if kept.problem:
                    self.reporter.leave_out(names.ARTIFACT_LOG, f"{kept.problem}; some of its lines are missing")

    @contextmanager
    def killed_is_recorded(self) -> Iterator[None]:
        """Record the status ``killed`` if a signal ends the block, even while the end of the run is being recorded.

        Otherwise the record would remain ``running``. A KeyboardInterrupt counts as killed too. It is the result of
        SIGINT where no handler is installed, for example in a notebook.
        """
        try:
            yield
        except (Killed, KeyboardInterrupt) as interruption:
            killed = interruption if isinstance(interruption, Killed) else Killed(signal.SIGINT)
            if not_recorded := self.set("killed", f"stopped by {killed}", killed.exit_code):
                self.reporter.warn(str(not_recorded))
            raise


def _unwritable(record: Journal, what: str, error: OSError) -> RunFailed:
    todo = f"free some space in {record.path.parent}" if error.errno in NO_SPACE else "check the disk"
    return RunFailed(f"{record.path}: {what} ({error.strerror}); what was recorded before is kept; {todo}")


def _record_plan(record: Journal, plan: Planned, reporter: Reporter) -> None:
    """Record the configuration as used, and the host's facts."""
    used = plan.used
    record.set_used(used.model_dump(mode="json"))
    # values that the model does not have, or that were not given, are absent; other fields may remain auto
    absent = {name for name in OPTIONAL if getattr(used, name, None) is None}
    record.update_params(used.model_dump(exclude=absent))
    _record_environment(record, used, plan.device, reporter)
    _record_identity(record, used, reporter)
    record.update_metrics(_as_numbers(used) | reporter.phases)
    log.info("measuring %s with %s", used.run_name, used.as_params())
    for notice in plan.notices:
        reporter.say(f"Note: {notice}")


def _as_numbers(used: Configuration) -> Metrics:
    """The parameters of a decode or prefill run that are numbers, because MLflow sorts parameters as text."""
    if not isinstance(used, RunConfig):
        return {}
    numbers: Metrics = {names.BATCH: used.batch, names.PROMPTLEN: used.promptlen}
    return numbers | ({names.GENLEN: used.genlen} if used.mode == "decode" else {})


def _record_environment(record: Journal, used: Configuration, device: torch.device, reporter: Reporter) -> None:
    """Record the host's facts, its packages, and the tags from them and from the configuration."""
    facts = host.host_facts(device)
    tags: Tags = {tag: _text(facts[fact]) for tag, fact in HOST_TAGS.items() if fact in facts}
    tags[names.TAG_JOURNAL_ID] = record.journal_id
    tags[names.TAG_ENTRY_POINT] = used.entry_point
    record.update_tags(tags)
    record_optional(record, reporter, names.ARTIFACT_HOST, lambda: json.dumps(facts, indent=1), reserved=True)
    record_optional(record, reporter, names.ARTIFACT_PACKAGES, host.package_list)


def _record_identity(record: Journal, used: Configuration, reporter: Reporter) -> None:
    """Record what the run is, and by what it is compared with others."""
    tags: Tags = {names.TAG_KIND: used.kind, names.TAG_METHOD: str(METHOD)}
    weights = None
    if checkpoint := getattr(used, "checkpoint", None):
        with reporter.status("reading the checkpoint"):
            weights = checkpoint_id(checkpoint)
        tags[names.TAG_CHECKPOINT_ID] = weights
    record.update_tags(tags | {names.TAG_CONFIG_ID: used.config_id(weights)})


def open_sampler(device: torch.device, reporter: Reporter) -> NvmlSampler | None:
    """The NVML sampler of a GPU. None on a CPU, and without NVML, with a warning."""
    if device.type != "cuda":
        return None
    try:
        return NvmlSampler.open(host.device_uuid(device))
    except TelemetryUnavailable as error:
        reporter.warn(str(error))
        return None


def _record_load_at_the_end(record: Journal, reporter: Reporter) -> None:
    """Record the host's load again. The same file has the load at the start, if the run got that far."""
    path, load = record.artifacts / names.ARTIFACT_HOST.path, host.cpu_load_1min()
    if path.exists() and load is not None:
        facts = json.loads(path.read_text()) | {"cpu_load_1min_end": load}
        record_optional(record, reporter, names.ARTIFACT_HOST, lambda: json.dumps(facts, indent=1), reserved=True)


def _text(fact: object) -> str:
    return str(fact).lower() if isinstance(fact, bool) else str(fact)
