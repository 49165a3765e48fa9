"""The command line: the only place that parses arguments.

The options of ``run`` and ``micro`` are the fields of :class:`~ttt_mlflow.config.RunConfig` and ``MicroConfig``; values
reach those as text and they make the messages. torch and mlflow are imported inside the commands, so that help and bad
input are quick.
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
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ttt_mlflow.config import FALSE_WORDS, TRUE_WORDS, Configuration, MicroConfig, RunConfig, as_text
from ttt_mlflow.errors import BadInput, Killed, PublishFailed, TTTError, ask_to_end

if TYPE_CHECKING:
    from rich.console import Console

    from ttt_mlflow.tracking.journal import Journal

Asked = TypeVar("Asked", bound=Configuration)

DEFAULT_LOGDIR = "./ttt_runs"
DEFAULT_DIFF = "./profile_diff"
# what an option means when it is given without a value, as the seed's flags were
BARE: dict[type[Configuration], dict[str, str]] = {
    RunConfig: {"use_compile": "true", "cuda_graph": "true", "profile": "torch"},
    MicroConfig: {"profile": "nsys"},
}
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
MICRO_EXAMPLES = """\b
Examples:
  ttt-mlflow micro --list
  ttt-mlflow micro
  ttt-mlflow micro --kernels mlp_1_dual_triton,mlp_1_accumulate_triton,mlp_1_dual_compiled --batches 128,512,1024
  ttt-mlflow micro --kernels mlp_2_dual_triton --batches 128 --dtype bfloat16 --profile nsys
  ttt-mlflow micro --device cpu --heads 4 --batches 1,2 --seconds 0.2

\b
Exit code: 0 measured and recorded, 1 a kernel failed or is wrong, 2 bad input, 3 out of memory,
4 measured but not published, 130 and 143 ended by Ctrl-C and SIGTERM.
"""

DOCTOR_EXAMPLES = """\b
Examples:
  ttt-mlflow doctor
  ttt-mlflow doctor --json --tracking-uri http://mlflow.example:5000
  ttt-mlflow doctor --measure

\b
Exit code: 0 everything is there, 1 something is missing for full measurements and the rest works,
2 a run could not be recorded as asked, or --measure found no GPU.
"""

DIFF_EXAMPLES = """\b
Examples:
  ttt-mlflow profile-diff ./ttt_runs/20261123-101500-1a2b3c4d ./ttt_runs/20261130-101500-5e6f7a8b
  ttt-mlflow profile-diff 3f0c5d9e8b7a46b1a2c3d4e5f6071829 20261130-101500-5e6f7a8b --out ./last_week
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


def _config_options(kind: type[Configuration]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option for each field of ``kind``, spelled with dashes and with underscores."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(kind.model_fields.items()):
            bare: dict[str, Any] = {"is_flag": False, "flag_value": BARE[kind][name]} if name in BARE[kind] else {}
            text = f"{field.description}  [default: {as_text(field.default)}]"
            command = click.option(*_spellings(name), name, metavar=name.upper(), help=text, **bare)(command)
        return command

    return decorate


def _record_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the record goes."""
    options = (
        ("experiment_name", "NAME", "MLflow experiment  [default: $MLFLOW_EXPERIMENT_NAME, else Default]"),
        ("tracking_uri", "URI", TRACKING_URI_HELP),
        ("logdir", "LOGDIR", f"keep the record on disk here  [default: {DEFAULT_LOGDIR}]"),
    )
    for name, metavar, text in options:
        command = click.option(*_spellings(name), name, metavar=metavar, help=text)(command)
    return command


def _spellings(name: str) -> Sequence[str]:
    """``--inner-net`` and ``--inner_net``; mlflow passes on ``-P`` in the second spelling."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


# taken in and refused by ourselves, so that a wrong parameter of `mlflow run -P` is named with its value
TAKES_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


@cli.command("run", epilog=RUN_EXAMPLES, context_settings=TAKES_ANYTHING)
@_config_options(RunConfig)
@click.option(
    *_spellings("no_cg"),
    "no_cg",
    metavar="NO_CG",
    is_flag=False,
    flag_value="true",
    help="as --cuda-graph false",
)
@_record_options
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
    destination = _Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(_execute(lambda: _decode_job(_parse_run(options, no_cg, context.args)), destination))


@cli.command("micro", epilog=MICRO_EXAMPLES, context_settings=TAKES_ANYTHING)
@_config_options(MicroConfig)
@click.option("--list", "listing", is_flag=True, help="name the kernels that can be timed, and exit")
@_record_options
@click.pass_context
def micro_command(
    context: click.Context,
    listing: bool,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    **options: str | None,
) -> None:
    """Time decode kernels alone, each with every batch, and record them as one MLflow run."""
    if listing:
        _list_kernels()
        return
    destination = _Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(_execute(lambda: _micro_job(_parse(MicroConfig, options, context.args)), destination))


@dataclass(frozen=True)
class _Destination:
    """Where a record goes, as it was asked for."""

    logdir: str
    tracking_uri: str | None
    experiment_name: str | None


@dataclass(frozen=True)
class _Job:
    """Something to measure, settled for this machine."""

    asked: Configuration
    notices: list[str]
    measure: "Callable[[Journal, Console], None]"
    summary: "Callable[[Journal, str], str]"


def _decode_job(asked: RunConfig) -> _Job:
    _survive_closed_output()
    from ttt_mlflow import runner
    from ttt_mlflow.report.summary import summary_text

    imports_s = _process_age_s()
    resolved = runner.resolve(asked)
    return _Job(
        asked,
        resolved.notices,
        lambda journal, console: runner.run(resolved, journal, console, imports_s),
        summary_text,
    )


def _micro_job(asked: MicroConfig) -> _Job:
    _survive_closed_output()
    from ttt_mlflow.micro import runner
    from ttt_mlflow.report.micro_table import micro_text

    imports_s = _process_age_s()
    resolved = runner.resolve(asked)
    return _Job(
        asked,
        resolved.notices,
        lambda journal, console: runner.run(resolved, journal, console, imports_s),
        micro_text,
    )


def _execute(prepare: Callable[[], _Job], destination: _Destination) -> int:
    """Prepare, measure and publish; return the exit code. Raise BadInput or Killed while nothing is measured yet."""
    mlflow_run = _MlflowRun.parent()
    with _Ending() as ending:
        try:
            job = prepare()
            if mlflow_run:
                _refuse_other_destination(destination)
            return _measure_and_publish(job, destination, mlflow_run, ending)
        except (BadInput, Killed) as error:
            if mlflow_run:
                _tell_mlflow(mlflow_run, error)
            raise


def _measure_and_publish(
    job: _Job, destination: _Destination, mlflow_run: "_MlflowRun | None", ending: "_Ending"
) -> int:
    from rich.console import Console

    from ttt_mlflow.tracking import keep_killed, publish
    from ttt_mlflow.tracking.journal import Journal

    uri = publish.resolve_tracking_uri(destination.tracking_uri)
    place, unreachable = publish.without_password(uri), publish.check_tracking(uri)
    asked = job.asked
    journal = Journal.create(Path(destination.logdir), asked.model_dump(mode="json"), asked.entry_point)
    run_id = mlflow_run.run_id if mlflow_run else None
    publish.settle_target(journal, uri, run_id, destination.experiment_name)
    for notice in job.notices:
        click.echo(f"Note: {notice}")
    if unreachable:
        later = f"`ttt-mlflow sync {shlex.quote(str(journal.path))}` sends it later"
        click.echo(f"Warning: tracking_uri={place}: cannot be reached ({unreachable})", err=True)
        click.echo(f"Warning: the measurement is kept in {journal.path}; {later}", err=True)

    exit_code = 0
    try:
        job.measure(journal, Console())
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
        published = publish.publish(journal, uri, run_id=run_id, experiment_name=destination.experiment_name)
        record_at += f", MLflow run {published.run_id} in {place}"
        ui = published.run_url or f"{_mlflow_command()} ui --backend-store-uri {shlex.quote(place)}"
    except PublishFailed as error:
        _show_error(error)
        exit_code = exit_code or error.exit_code
    click.echo(job.summary(journal, record_at))
    if ui:
        click.echo(f"MLflow UI: {ui}")
    return exit_code


def _list_kernels() -> None:
    from ttt_mlflow.micro.kernels import registered

    known = registered()
    width = max(len(name) for name in known.kernels)
    for name, entry in known.kernels.items():
        click.echo(f"{name:<{width}}  {entry.description}{' (needs a GPU)' if entry.needs_gpu else ''}")
    for reason in known.broken:
        click.echo(f"Not available: {reason}", err=True)


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


@cli.command("doctor", epilog=DOCTOR_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="print the findings as JSON")
@click.option("--measure", is_flag=True, help="measure the ceilings of each visible GPU first, and keep them")
@_record_options
@click.pass_context
def doctor_command(
    context: click.Context,
    as_json: bool,
    measure: bool,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
) -> None:
    """Say within ten seconds whether this machine can measure, and what is missing."""
    from ttt_mlflow import doctor
    from ttt_mlflow.tracking.publish import resolve_tracking_uri

    seconds = max(doctor.LEAST_SECONDS, doctor.SECONDS - _process_age_s())  # --measure takes its own time
    # with --json the ceilings are in the JSON, and the lines for people elsewhere
    measured = doctor.measure_cards(lambda text: click.echo(text, err=as_json)) if measure else None
    asked = doctor.Asked(Path(logdir or DEFAULT_LOGDIR), resolve_tracking_uri(tracking_uri), experiment_name)
    findings = doctor.diagnose(asked, seconds)
    click.echo(doctor.findings_json(findings, measured) if as_json else doctor.findings_text(findings))
    context.exit(doctor.exit_code(findings))


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


@cli.command("profile-diff", epilog=DIFF_EXAMPLES)
@click.argument("run_a")
@click.argument("run_b")
@click.option("--out", default=DEFAULT_DIFF, metavar="FOLDER", help=f"files go here  [default: {DEFAULT_DIFF}]")
@click.option(*_spellings("logdir"), "logdir", metavar="LOGDIR", help=f"records are here  [default: {DEFAULT_LOGDIR}]")
@click.option(*_spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
def profile_diff_command(run_a: str, run_b: str, out: str, logdir: str | None, tracking_uri: str | None) -> None:
    """Say which kernels explain what changed from RUN_A to RUN_B, both measured with profile=torch.

    A run is the folder of its record, the record's id in LOGDIR, or the id of its MLflow run. Writes diff.csv, diff.md
    and diff.png.
    """
    from ttt_mlflow.report import profile_diff as report
    from ttt_mlflow.tracking.find_run import found_run
    from ttt_mlflow.tracking.publish import resolve_tracking_uri

    def profile(run: str) -> report.ProfiledStep:
        place = Path(logdir or DEFAULT_LOGDIR), resolve_tracking_uri(tracking_uri)
        with found_run(run, *place, "profiles/torch") as found:
            return report.read_profile(found.folder, found.label)

    diff = report.profile_diff(profile(run_a), profile(run_b))
    click.echo(report.diff_text(diff))
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "diff.csv").write_text(report.diff_csv(diff))
        (folder / "diff.md").write_text(report.diff_markdown(diff))
        (folder / "diff.png").write_bytes(report.diff_png(diff))
    except OSError as error:
        raise BadInput(
            f"out={out}: cannot be written ({error.strerror}); name a folder that you may write to"
        ) from None
    click.echo(f"Written: {folder}/diff.csv, diff.md, diff.png")


@cli.command("table")
@click.argument("logdir", default=DEFAULT_LOGDIR)
def table_command(logdir: str) -> None:
    """Print one line for each record in the folder LOGDIR (./ttt_runs unless given)."""
    from ttt_mlflow.report.table import table_text
    from ttt_mlflow.tracking.journal import find_journals

    journals = find_journals(logdir)
    click.echo(table_text(journals) if journals else f"No records in {logdir}.")


def _parse_run(options: dict[str, str | None], no_cg: str | None, rest: Sequence[str]) -> RunConfig:
    """The configuration asked for, with the seed's ``--no_cg``."""
    if no_cg is not None and no_cg.lower() not in TRUE_WORDS + FALSE_WORDS:
        asked = _parse(RunConfig, options, rest, [f"no_cg={no_cg}: not allowed; no_cg takes true or false"])
    else:
        asked = _parse(RunConfig, options, rest)
    if no_cg is None or no_cg.lower() in FALSE_WORDS:
        return asked
    if asked.cuda_graph:
        raise BadInput("no_cg=true: contradicts cuda_graph=true; give one of the two")
    return asked.model_copy(update={"cuda_graph": False})


def _parse(kind: type[Asked], options: dict[str, str | None], rest: Sequence[str], faults: Sequence[str] = ()) -> Asked:
    """The configuration asked for; raise BadInput with one line for each fault, all faults at once."""
    faults = [*_explain_rest(kind, rest), *faults]
    try:
        asked = kind.parse({name: value for name, value in options.items() if value is not None})
    except BadInput as error:
        raise BadInput("\n".join([*faults, str(error)])) from None
    if faults:
        raise BadInput("\n".join(faults))
    return asked


def _explain_rest(kind: type[Configuration], words: Sequence[str]) -> list[str]:
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
        faults.append(kind.no_such_parameter(f"{name}={value}" if equals or value else name))
    return faults


def _refuse_other_destination(asked: _Destination) -> None:
    """The run that ``mlflow run`` made is in its own store and experiment; the record goes there."""
    if asked.tracking_uri:
        raise BadInput(
            f"tracking_uri={asked.tracking_uri}: `mlflow run` has already chosen the store; "
            "set MLFLOW_TRACKING_URI before it instead"
        )
    if asked.experiment_name:
        raise BadInput(
            f"experiment_name={asked.experiment_name}: `mlflow run` has already chosen the experiment; "
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
        ask_to_end(None)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.begun:
            # not print: the signal may have come in the middle of one
            os.write(2, b"already ending, recording what was measured\n")
            return
        self.begun = True
        killed = Killed(signum)
        ask_to_end(killed)
        raise killed


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
