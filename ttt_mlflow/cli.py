"""The command line: the only place that parses arguments.

The options of ``run`` and ``micro`` are the fields of :class:`~ttt_mlflow.config.RunConfig` and ``MicroConfig``; values
reach those as text and they make the messages. torch and mlflow are imported inside the commands, so that help and bad
input are quick.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ttt_mlflow.app.job import _Destination, _execute
from ttt_mlflow.app.measure import _decode_job, _micro_job, _process_age_s
from ttt_mlflow.app.output import _show_error
from ttt_mlflow.config import FALSE_WORDS, TRUE_WORDS, Configuration, MicroConfig, RunConfig, as_text
from ttt_mlflow.errors import BadInput, Killed, PublishFailed, TTTError

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


def _list_kernels() -> None:
    from ttt_mlflow.micro.registry import registered

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
    from ttt_mlflow.app.doctor import diagnosis, finding, gpu
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    seconds = max(diagnosis.LEAST_SECONDS, diagnosis.SECONDS - _process_age_s())  # --measure takes its own time
    # with --json the ceilings are in the JSON, and the lines for people elsewhere
    measured = gpu.measure_cards(lambda text: click.echo(text, err=as_json)) if measure else None
    asked = finding.Asked(Path(logdir or DEFAULT_LOGDIR), resolve_tracking_uri(tracking_uri), experiment_name)
    findings = diagnosis.diagnose(asked, seconds)
    click.echo(diagnosis.findings_json(findings, measured) if as_json else diagnosis.findings_text(findings))
    context.exit(diagnosis.exit_code(findings))


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
    from ttt_mlflow.tracking.store import resolve_tracking_uri

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
    from ttt_mlflow.record.journal import find_journals
    from ttt_mlflow.report.table import table_text

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
