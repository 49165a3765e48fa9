"""The command line. Arguments are parsed only here.

The options of ``run`` and ``micro`` are the fields of :class:`~ttt_mlflow.config.RunConfig` and ``MicroConfig``. These
classes receive the values as text, validate them and write the messages. torch and mlflow are imported inside the
commands, so that help and messages about bad input appear at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ttt_mlflow.app import arguments, job, listings, records
from ttt_mlflow.app.output import print_error, show_error
from ttt_mlflow.config import DEFAULT_LOGDIR, Configuration, MicroConfig, RunConfig, as_text
from ttt_mlflow.errors import Killed, TTTError

DEFAULT_DIFF = "./profile_diff"
# the value of an option that is given without one, as with the legacy flags
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
4 measured but not published, 130 and 143 stopped by Ctrl-C and SIGTERM.
"""
MICRO_EXAMPLES = """\b
Examples:
  ttt-mlflow micro --list
  ttt-mlflow micro
  ttt-mlflow micro --kernels mlp_1_dual_triton,mlp_1_accumulate_triton,mlp_1_dual_compiled --batches 128,512,1024
  ttt-mlflow micro --kernels mlp_2_dual_triton --batches 128 --dtype bfloat16 --profile nsys
  ttt-mlflow micro --device cpu --heads 4 --batches 1,2 --seconds 0.2

\b
Exit code: 0 measured and recorded, 1 a kernel failed or gave wrong results, 2 bad input, 3 out of memory,
4 measured but not published, 130 and 143 stopped by Ctrl-C and SIGTERM.
"""

DOCTOR_EXAMPLES = """\b
Examples:
  ttt-mlflow doctor
  ttt-mlflow doctor --json --tracking-uri http://mlflow.example:5000
  ttt-mlflow doctor --measure

\b
Exit code: 0 nothing is missing, 1 something is missing for full measurements but the rest works,
2 a run could not be recorded as requested, or --measure found no GPU.
"""

DIFF_EXAMPLES = """\b
Examples:
  ttt-mlflow profile-diff ./ttt_runs/20261123-101500-1a2b3c4d ./ttt_runs/20261130-101500-5e6f7a8b
  ttt-mlflow profile-diff 3f0c5d9e8b7a46b1a2c3d4e5f6071829 20261130-101500-5e6f7a8b --out ./last_week
"""


class _Commands(click.Group):
    """Shows expected failures as short messages, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except TTTError as error:
            show_error(error)
            context.exit(error.exit_code)
        except Killed as killed:
            print_error(f"Stopped by {killed} before anything was measured.")
            context.exit(killed.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measure how fast a model decodes; each configuration is one MLflow run."""


def main() -> None:
    cli(prog_name="ttt-mlflow")


def _config_options(kind: type[Configuration]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One option for each field of ``kind``, accepted with dashes and with underscores."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(kind.model_fields.items()):
            bare: dict[str, Any] = {"is_flag": False, "flag_value": BARE[kind][name]} if name in BARE[kind] else {}
            text = f"{field.description}  [default: {as_text(field.default)}]"
            command = click.option(*_spellings(name), name, metavar=name.upper(), help=text, **bare)(command)
        return command

    return decorate


def _record_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the location of the record."""
    options = (
        ("experiment_name", "NAME", "MLflow experiment  [default: $MLFLOW_EXPERIMENT_NAME, else Default]"),
        ("tracking_uri", "URI", TRACKING_URI_HELP),
        ("logdir", "LOGDIR", f"folder for the record on disk  [default: {DEFAULT_LOGDIR}]"),
    )
    for name, metavar, text in options:
        command = click.option(*_spellings(name), name, metavar=metavar, help=text)(command)
    return command


def _spellings(name: str) -> Sequence[str]:
    """``--inner-net`` and ``--inner_net``. `mlflow run -P` uses the second spelling."""
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


# unknown options are accepted by click and rejected by this package, so that the message names them with their values
TAKES_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


@cli.command("run", epilog=RUN_EXAMPLES, context_settings=TAKES_ANYTHING)
@_config_options(RunConfig)
@click.option(
    *_spellings("no_cg"),
    "no_cg",
    metavar="NO_CG",
    is_flag=False,
    flag_value="true",
    help="same as --cuda-graph false",
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
    destination = job.Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(job.execute(lambda: arguments.parse_run(options, no_cg, context.args), destination))


@cli.command("micro", epilog=MICRO_EXAMPLES, context_settings=TAKES_ANYTHING)
@_config_options(MicroConfig)
@click.option("--list", "listing", is_flag=True, help="list the kernels that can be timed, and exit")
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
        listings.print_kernels()
        return
    destination = job.Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(job.execute(lambda: arguments.parse(MicroConfig, options, context.args), destination))


@cli.command("sync")
@click.argument("path", default=DEFAULT_LOGDIR)
@click.option(*_spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
@click.pass_context
def sync_command(context: click.Context, path: str, tracking_uri: str | None) -> None:
    """Publish the records that MLflow does not have yet.

    PATH is one record or a folder of records (default: ./ttt_runs). Publishing a record twice changes nothing. The exit
    code is 4 if a record could not be sent.
    """
    context.exit(records.sync_records(path, tracking_uri))


@cli.command("doctor", epilog=DOCTOR_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="print the findings as JSON")
@click.option("--measure", is_flag=True, help="first measure the ceilings of each visible GPU, and keep them")
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
    """Check within ten seconds whether this machine can measure, and what is missing."""
    from ttt_mlflow.app.doctor.command import run_doctor

    destination = job.Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(run_doctor(destination, as_json=as_json, measure=measure))


@cli.command("models")
def models_command() -> None:
    """List the models that can be measured, with their inner nets."""
    listings.print_models()


@cli.command("profile-diff", epilog=DIFF_EXAMPLES)
@click.argument("run_a")
@click.argument("run_b")
@click.option("--out", default=DEFAULT_DIFF, metavar="FOLDER", help=f"output folder  [default: {DEFAULT_DIFF}]")
@click.option(*_spellings("logdir"), "logdir", metavar="LOGDIR", help=f"folder of records  [default: {DEFAULT_LOGDIR}]")
@click.option(*_spellings("tracking_uri"), "tracking_uri", metavar="URI", help=TRACKING_URI_HELP)
def profile_diff_command(run_a: str, run_b: str, out: str, logdir: str | None, tracking_uri: str | None) -> None:
    """Show which kernels explain the change from RUN_A to RUN_B. Both must have been measured with profile=torch.

    A run is given as the folder of its record, the id of its record in LOGDIR, or the id of its MLflow run. The command
    writes diff.csv, diff.md and diff.png.
    """
    records.profile_difference(run_a, run_b, Path(out), Path(logdir or DEFAULT_LOGDIR), tracking_uri)


@cli.command("table")
@click.argument("logdir", default=DEFAULT_LOGDIR)
def table_command(logdir: str) -> None:
    """Print one line for each record in the folder LOGDIR (default: ./ttt_runs)."""
    records.print_table(logdir)
