"""The command line: the only place that parses arguments.

The options of ``run`` are the fields of :class:`~ttt_mlflow.config.RunConfig`; values reach it as text and it
makes the messages. torch and mlflow are imported inside the commands, so that help and bad input are quick.
"""

import ctypes
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ttt_mlflow.config import FALSE_WORDS, TRUE_WORDS, RunConfig, as_text
from ttt_mlflow.errors import BadInput, Killed, PublishFailed, TTTError

DEFAULT_LOGDIR = "./ttt_runs"
# what an option means when it is given without a value, as the seed's flags were
BARE = {"use_compile": "true", "cuda_graph": "true", "profile": "torch"}
TRACKING_URI_HELP = "MLflow store or server  [default: $MLFLOW_TRACKING_URI, else the SQLite file ./mlflow.db]"

RUN_EXAMPLES = """\b
Examples:
  ttt-mlflow run --model-name ttt-1b --batch 1024 --genlen 256 --inner-net mlp_2_dual_triton
  ttt-mlflow run --model-name ttt-125m --batch 2 --genlen 16 --device cpu
  ttt-mlflow run --model-name state-spaces/mamba-1.4b --batch 128 --logdir ./exp/mamba
  ttt-mlflow run --model-name ttt-profile --batch 32 --genlen 4 --inner_net mlp_2_dual --no_cg --profile

\b
Exit code: 0 measured and recorded, 1 failed, 2 bad input, 3 out of memory,
4 measured but not published, 130 and 143 ended by Ctrl-C and SIGTERM.
"""


class _Commands(click.Group):
    """Shows expected failures as lines for the person, never as a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except TTTError as error:
            _show_error(error)
            context.exit(error.exit_code)
        except Killed as killed:
            click.echo(f"Ended by {killed} before anything was measured.", err=True)
            context.exit(killed.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure how fast a model decodes; each configuration is one MLflow run."""


def main() -> None:
    cli(prog_name="ttt-mlflow")


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each field of RunConfig, spelled with dashes and with underscores."""
    for name, field in reversed(RunConfig.model_fields.items()):
        bare: dict[str, Any] = {"is_flag": False, "flag_value": BARE[name]} if name in BARE else {}
        text = f"{field.description}  [default: {as_text(field.default)}]"
        command = click.option(*_spellings(name), name, metavar=name.upper(), help=text, **bare)(command)
    return command


def _spellings(name: str) -> Sequence[str]:
    """``--inner-net`` and ``--inner_net``; mlflow passes on ``-P`` in the second spelling."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


@cli.command(
    "run",
    epilog=RUN_EXAMPLES,
    # taken in and refused by ourselves, so that a wrong parameter of `mlflow run -P` is named with its value
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@_run_options
@click.option(
    *_spellings("no_cg"),
    "no_cg",
    metavar="NO_CG",
    is_flag=False,
    flag_value="true",
    help="as --cuda-graph false",
)
@click.option("--logdir", metavar="LOGDIR", help=f"keep the record on disk here  [default: {DEFAULT_LOGDIR}]")
@click.option(
    *_spellings("tracking_uri"),
    "tracking_uri",
    metavar="URI",
    help=TRACKING_URI_HELP,
)
@click.option(
    *_spellings("experiment_name"),
    "experiment_name",
    metavar="NAME",
    help="MLflow experiment  [default: $MLFLOW_EXPERIMENT_NAME, else Default]",
)
@click.pass_context
def run_command(
    context: click.Context,
    no_cg: str | None,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    **options: str | None,
) -> None:
    """Measure one decode configuration and record it as one MLflow run."""
    mlflow_run = _MlflowRun.parent()
    with _Ending() as ending:
        try:
            asked = _parse(options, no_cg, context.args)
            if mlflow_run:
                _refuse_other_destination(tracking_uri, experiment_name)
            exit_code = _run(asked, logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name, mlflow_run, ending)
        except (BadInput, Killed) as error:
            if mlflow_run:
                _tell_mlflow(mlflow_run, error)
            raise
    context.exit(exit_code)


def _run(
    asked: RunConfig,
    logdir: str,
    tracking_uri: str | None,
    experiment_name: str | None,
    mlflow_run: "_MlflowRun | None",
    ending: "_Ending",
) -> int:
    """Measure and publish; return the exit code. Raise BadInput or Killed while nothing is measured yet."""
    from rich.console import Console

    _survive_closed_output()
    from ttt_mlflow import runner
    from ttt_mlflow.report.summary import summary_text
    from ttt_mlflow.tracking import keep_killed, publish
    from ttt_mlflow.tracking.journal import Journal

    imports_s = _process_age_s()
    resolved = runner.resolve(asked)
    uri = publish.resolve_tracking_uri(tracking_uri)
    place, unreachable = publish.without_password(uri), publish.check_tracking(uri)
    journal = Journal.create(Path(logdir), asked.model_dump(mode="json"))
    run_id = mlflow_run.run_id if mlflow_run else None
    publish.settle_target(journal, uri, run_id, experiment_name)
    for notice in resolved.notices:
        click.echo(f"Note: {notice}")
    if unreachable:
        later = f"`ttt-mlflow sync {shlex.quote(str(journal.path))}` sends it later"
        click.echo(f"Warning: tracking_uri={place}: cannot be reached ({unreachable})", err=True)
        click.echo(f"Warning: the measurement is kept in {journal.path}; {later}", err=True)

    exit_code = 0
    try:
        runner.run(resolved, journal, Console(), imports_s)
    except TTTError as error:
        _show_error(error)
        exit_code = error.exit_code
    except Killed as killed:
        click.echo(f"Ended by {killed}; what was measured is recorded.", err=True)
        exit_code = killed.exit_code
        if mlflow_run:
            keep_killed.start(mlflow_run.run_id, mlflow_run.pid)
    ending.begun = True  # a signal from here on does not cut the publishing short

    record_at, ui = str(journal.path), None
    try:
        published = publish.publish(journal, uri, run_id=run_id, experiment_name=experiment_name)
        record_at += f", MLflow run {published.run_id} in {place}"
        ui = published.run_url or f"{_mlflow_command()} ui --backend-store-uri {shlex.quote(place)}"
    except PublishFailed as error:
        _show_error(error)
        exit_code = exit_code or error.exit_code
    click.echo(summary_text(journal, record_at))
    if ui:
        click.echo(f"MLflow UI: {ui}")
    return exit_code


@cli.command("sync")
@click.argument("path", default=DEFAULT_LOGDIR)
@click.option(*_spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
@click.pass_context
def sync_command(context: click.Context, path: str, tracking_uri: str | None) -> None:
    """Publish what MLflow does not have yet: the record PATH, or those in the folder PATH.

    PATH is ./ttt_runs unless given. Publishing twice changes nothing. Exit code 4 if some could not be sent.
    """
    from ttt_mlflow.tracking.sync import sync

    results = sync(path, tracking_uri)
    if not results:
        click.echo(f"No records in {path}.")
    for result in results:
        if result.outcome == "failed":
            click.echo(f"Error: {result.journal.journal_id}: {result.message}", err=True)
        else:
            click.echo(f"{result.journal.journal_id}: {result.outcome}")
    if any(result.outcome == "failed" for result in results):
        context.exit(PublishFailed.exit_code)


@cli.command("models")
def models_command() -> None:
    """List the models that can be measured, and their inner nets."""
    from ttt_mlflow.models.registry import models

    for name, entry in models().items():
        click.echo(f"{name}: {entry.description}")
        if entry.inner_nets:
            click.echo(f"    inner nets: {', '.join(entry.inner_nets)}")
        if missing := entry.missing():
            click.echo(f"    not available here: {missing}")


@cli.command("table")
@click.argument("logdir", default=DEFAULT_LOGDIR)
def table_command(logdir: str) -> None:
    """Print one line for each record in the folder LOGDIR (./ttt_runs unless given)."""
    from ttt_mlflow.report.table import table_text
    from ttt_mlflow.tracking.journal import find_journals

    journals = find_journals(logdir)
    click.echo(table_text(journals) if journals else f"No records in {logdir}.")


def _parse(options: dict[str, str | None], no_cg: str | None, rest: Sequence[str]) -> RunConfig:
    """The configuration asked for; raise BadInput with one line for each fault, all faults at once."""
    faults = list(_explain_rest(rest))
    if no_cg is not None and no_cg.lower() not in TRUE_WORDS + FALSE_WORDS:
        faults.append(f"no_cg={no_cg}: not allowed; no_cg takes true or false")
    try:
        asked = RunConfig.parse({name: value for name, value in options.items() if value is not None})
    except BadInput as error:
        faults += str(error).splitlines()
    if faults:
        raise BadInput("\n".join(faults))
    if no_cg is None or no_cg.lower() in FALSE_WORDS:
        return asked
    if asked.cuda_graph:
        raise BadInput("no_cg=true: contradicts cuda_graph=true; give one of the two")
    return asked.model_copy(update={"cuda_graph": False})


def _explain_rest(words: Sequence[str]) -> list[str]:
    """One line for each argument that is no option of ours: ``--foo 1``, ``--foo=1``, ``batch=1``."""
    faults = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            faults.append(f"{word}: not understood; a parameter is given as --name value")
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and waiting and not waiting[0].startswith("-"):
            value = waiting.pop(0)
        name = name.replace("-", "_")
        given = f"{name}={value}" if equals or value else name
        faults.append(f"{given}: no such parameter; there are {', '.join(RunConfig.model_fields)}")
    return faults


def _refuse_other_destination(tracking_uri: str | None, experiment_name: str | None) -> None:
    """The run that ``mlflow run`` made is in its own store and experiment; the record goes there."""
    if tracking_uri:
        raise BadInput(
            f"tracking_uri={tracking_uri}: `mlflow run` has already chosen the store; "
            "set MLFLOW_TRACKING_URI before it instead"
        )
    if experiment_name:
        raise BadInput(
            f"experiment_name={experiment_name}: `mlflow run` has already chosen the experiment; "
            "use `mlflow run --experiment-name` instead"
        )


def _tell_mlflow(mlflow_run: "_MlflowRun", error: BadInput | Killed) -> None:
    """Let the run that ``mlflow run`` made say why nothing was measured."""
    from ttt_mlflow.tracking import keep_killed, publish

    run_id, uri = mlflow_run.run_id, publish.resolve_tracking_uri(None)
    try:
        if isinstance(error, Killed):
            publish.reject_run(run_id, uri, f"ended by {error} before anything was measured", status="killed")
            keep_killed.start(mlflow_run.run_id, mlflow_run.pid)
        else:
            publish.reject_run(run_id, uri, str(error))
    except PublishFailed as failed:
        _show_error(failed)


@dataclass(frozen=True)
class _MlflowRun:
    """The ``mlflow run`` that started this process: the run that it made, and its process id."""

    run_id: str
    pid: int

    @classmethod
    def parent(cls) -> "_MlflowRun | None":
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if not run_id:
            return None
        if sys.platform == "linux":
            # `mlflow run` does not pass a SIGTERM on: have Linux send one here when it dies of it
            pr_set_pdeathsig = 1  # linux/prctl.h
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        return cls(run_id, os.getppid())


class _Ending:
    """Turns the first SIGINT or SIGTERM into Killed; a later one only says that the run is ending.

    A Ctrl-C on ``mlflow run`` arrives twice: as the terminal's SIGINT, then as mlflow's SIGTERM.
    """

    def __init__(self) -> None:
        self.begun = False

    def __enter__(self) -> "_Ending":
        self._before = {signum: signal.signal(signum, self._hear) for signum in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.begun:
            # not print: the signal may have come in the middle of one
            os.write(2, b"already ending, recording what was measured\n")
            return
        self.begun = True
        raise Killed(signum)


def _mlflow_command() -> str:
    """The mlflow of this environment, which need not be the shell's."""
    beside = Path(sys.executable).with_name("mlflow")
    return shlex.quote(str(beside)) if beside.exists() else "mlflow"


class _Survivor:
    """A text stream that goes silent, instead of raising, once nobody reads its other end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._unless_closed(self._stream.write, text) or 0)

    def flush(self) -> None:
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except BrokenPipeError:
            # also what the stream still holds, and what libraries write, goes nowhere from now on
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


def _survive_closed_output() -> None:
    """A terminal or a pipe that is closed meanwhile may not cost a measurement."""
    sys.stdout, sys.stderr = _Survivor(sys.stdout), _Survivor(sys.stderr)


def _process_age_s() -> float:
    import psutil

    return time.time() - psutil.Process().create_time()


def _show_error(error: TTTError) -> None:
    for line in str(error).splitlines():
        click.echo(f"Error: {line}", err=True)
