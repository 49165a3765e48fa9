"""The commands that measure many configurations: sweep."""

import click

from ttt_mlflow.app import arguments
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.cli.options import (
    SWITCH,
    TAKES_ANYTHING,
    config_options,
    publish_options,
    record_options,
    spellings,
)
from ttt_mlflow.config import DEFAULT_LOGDIR, FALSE_WORDS, TRUE_WORDS, SweepConfig
from ttt_mlflow.errors import BadInput

SWEEP_EXAMPLES = """\b
Examples:
  ttt-mlflow sweep --preset decode-2k --dry-run
  ttt-mlflow sweep --preset decode-2k --genlen 64
  ttt-mlflow sweep --model-name ttt-1b --inner-net mlp_1_dual_triton,mlp_2_dual_triton --batch 128,256,max
  ttt-mlflow sweep --grid grid.yaml --gpus 0,1 --logdir ./exp/grid
  ttt-mlflow sweep --model-name ttt-tiny --batch 1,2,4 --genlen 16 --device cpu --redo invalid

\b
The same command goes on where an earlier one was stopped, and measures only what is missing.

\b
Exit code: 0 all measured or out of memory, whatever the verdicts, 1 a run failed, 2 bad input,
4 measured but not all published, 70 a fault of this program,
130 and 143 stopped by Ctrl-C and by SIGTERM. A terminal that goes away ends nothing.
"""


@click.command("sweep", epilog=SWEEP_EXAMPLES, context_settings=TAKES_ANYTHING)
@config_options(SweepConfig)
@click.option(
    *spellings("dry_run"),
    "dry_run",
    metavar=SWITCH,
    is_flag=False,
    flag_value="true",
    help="print the runs with their predicted memory and time, and measure nothing",
)
@publish_options
@record_options
@click.pass_context
def sweep_command(
    context: click.Context,
    dry_run: str | None,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    publish_patience: str | None,
    publish_seconds: str | None,
    **options: str | None,
) -> None:
    """Measure many configurations, each in a process of its own, as the child runs of one MLflow run.

    Each parameter of `ttt-mlflow run` may have several values, comma-separated; all combinations are measured. An
    inner net applies to the models that have one.
    """
    from ttt_mlflow.app.sweep.start import AskedSweep, run_sweep

    place = (logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    destination = Destination(*place, publish_patience, publish_seconds)

    def parse() -> AskedSweep:
        if dry_run is not None and dry_run.lower() not in TRUE_WORDS + FALSE_WORDS:
            raise BadInput(f"dry_run={dry_run}: not allowed; dry_run takes true or false")
        config = arguments.parse(SweepConfig, options, context.args)
        return AskedSweep(config, dry_run is not None and dry_run.lower() in TRUE_WORDS)

    context.exit(run_sweep(parse, destination))


COMMANDS = (sweep_command,)
