"""The commands that measure: run, micro, doctor."""

import click

from ttt_mlflow.app import arguments, job, listings
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.cli.options import TAKES_ANYTHING, config_options, publish_options, record_options, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR, MicroConfig, RunConfig

RUN_EXAMPLES = """\b
Examples:
  ttt-mlflow run --model-name ttt-1b --batch 1024 --genlen 256 --inner-net mlp_2_dual_triton
  ttt-mlflow run --model-name ttt-125m --batch 2 --genlen 16 --device cpu
  ttt-mlflow run --model-name state-spaces/mamba-1.4b --batch 128 --logdir ./exp/mamba
  ttt-mlflow run --model-name ttt-profile --batch 32 --genlen 4 --inner_net mlp_2_dual --no_cg --profile

\b
Exit code: 0 measured and recorded, 1 failed, 2 bad input, 3 out of memory,
4 measured but not published, 70 a fault of this program while nothing was being measured,
130 and 143 stopped by Ctrl-C and by SIGTERM. A terminal that goes away ends nothing.
"""

MICRO_EXAMPLES = """\b
Examples:
  ttt-mlflow micro --list
  ttt-mlflow micro --check my-kernel
  ttt-mlflow micro
  ttt-mlflow micro --kernels mlp_1_dual_triton,mlp_1_accumulate_triton,mlp_1_dual_compiled --batches 128,512,1024
  ttt-mlflow micro --kernels mlp_2_dual_triton --batches 128 --dtype bfloat16 --profile nsys
  ttt-mlflow micro --kernels mlp_1_prefill_triton,mlp_2_prefill_triton --prompt-batches 16,64 --promptlen 2048
  ttt-mlflow micro --kernels layer --batches 1,16,128
  ttt-mlflow micro --device cpu --heads 4 --batches 1,2 --seconds 0.2

\b
Exit code: 0 measured and recorded, 1 a kernel failed or gave wrong results, 2 bad input, 3 out of memory,
4 measured but not published, 70 a fault of this program while nothing was being measured,
130 and 143 stopped by Ctrl-C and by SIGTERM. A terminal that goes away ends nothing.
"""

DOCTOR_EXAMPLES = """\b
Examples:
  ttt-mlflow doctor
  ttt-mlflow doctor --json --tracking-uri http://mlflow.example:5000
  ttt-mlflow doctor --measure
  ttt-mlflow doctor --neighbors

\b
Exit code: 0 nothing is missing, 1 something is missing for full measurements but the rest works,
2 a run could not be recorded as requested, or --measure found no GPU.
With --neighbors: 0 measured, whatever was found, 1 a run failed, 2 bad input, 4 measured but not published,
130 and 143 stopped by Ctrl-C and by SIGTERM.
"""


@click.command("run", epilog=RUN_EXAMPLES, context_settings=TAKES_ANYTHING)
@config_options(RunConfig)
@click.option(
    *spellings("no_cg"),
    "no_cg",
    metavar="",  # a flag; true and false are accepted too
    is_flag=False,
    flag_value="true",
    help="same as --cuda-graph false",
)
@publish_options
@record_options
@click.pass_context
def run_command(
    context: click.Context,
    no_cg: str | None,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    publish_patience: str | None,
    publish_seconds: str | None,
    **options: str | None,
) -> None:
    """Measure one configuration, decode or prefill, and record it as one MLflow run."""
    place = (logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    destination = Destination(*place, publish_patience, publish_seconds)
    context.exit(job.execute(lambda: arguments.parse_run(options, no_cg, context.args), destination))


@click.command("micro", epilog=MICRO_EXAMPLES, context_settings=TAKES_ANYTHING)
@config_options(MicroConfig)
@click.option("--list", "listing", is_flag=True, help="list the kernels and groups that can be timed, and exit")
@click.option("--check", metavar="NAME", help="try a kernel of this name, or all of a plugin of this name, and exit")
@publish_options
@record_options
@click.pass_context
def micro_command(
    context: click.Context,
    listing: bool,
    check: str | None,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    publish_patience: str | None,
    publish_seconds: str | None,
    **options: str | None,
) -> None:
    """Time decode and prefill kernels alone, each with every batch, and record them as one MLflow run."""
    if listing:
        listings.print_kernels()
        return
    if check is not None:
        context.exit(listings.check_kernels(check))
    place = (logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    destination = Destination(*place, publish_patience, publish_seconds)
    context.exit(job.execute(lambda: arguments.parse(MicroConfig, options, context.args), destination))


@click.command("doctor", epilog=DOCTOR_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="print the findings as JSON")
@click.option("--measure", is_flag=True, help="first measure the ceilings of each visible GPU, and keep them")
@click.option("--neighbors", is_flag=True, help="measure on each GPU alone and on all at once, and compare; minutes")
@record_options
@click.pass_context
def doctor_command(
    context: click.Context,
    as_json: bool,
    measure: bool,
    neighbors: bool,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
) -> None:
    """Check within ten seconds whether this machine can measure, and what is missing."""
    from ttt_mlflow.app.doctor.command import run_doctor

    destination = Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(run_doctor(destination, as_json=as_json, measure=measure, neighbors=neighbors))


COMMANDS = (run_command, micro_command, doctor_command)
