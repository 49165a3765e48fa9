"""The commands that measure and compare at once: ab, rerun."""

from collections.abc import Sequence

import click

from ttt_mlflow.app.arguments import number, parse_run, words
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.cli.comparing import compare_options
from ttt_mlflow.cli.measuring import run_command
from ttt_mlflow.cli.options import USER_PATH, SwitchCommand, publish_options, record_options, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR, CompareConfig, RunConfig
from ttt_mlflow.errors import BadInput

DEFAULT_AB_MINUTES = "10"
AB_EXAMPLES = """\b
Examples:
  ttt-mlflow ab HEAD~1 . -- --model-name ttt-1b --batch 1024 --genlen 128
  ttt-mlflow ab HEAD~1 HEAD --fail-above 2% -- --batch 128 --inner-net mlp_2_dual_triton
  ttt-mlflow ab main ../other-checkout --max-minutes 20 --resolution 0.5% -- --batch 128
  ttt-mlflow ab . . --baseline-options "--dtype float16" --candidate-options "--dtype bfloat16" -- --batch 128

\b
Exit code: 0 compared and, with --fail-above, not slower by more; 1 slower by more; 2 bad input, or a side that does
not run; 4 compared but not published; 5 cannot tell (with --fail-above); 70 a fault of this program; 130 and 143
stopped by Ctrl-C and by SIGTERM.
"""

RERUN_EXAMPLES = """\b
Examples:
  ttt-mlflow rerun ./ttt_runs/20261123-101500-1a2b3c4d
  ttt-mlflow rerun 3f0c5d9e8b7a46b1a2c3d4e5f6071829 --tracking-uri http://mlflow.example:5000 --fail-above 2%

\b
Exit code: as `ttt-mlflow run`. With --fail-above: 0 not slower by more, 1 slower by more, 2 bad input,
4 measured but not published, 5 cannot tell, also if the run failed, 70 a fault of this program.
"""


@click.command("ab", cls=SwitchCommand, epilog=AB_EXAMPLES)
@click.argument("baseline", type=USER_PATH)
@click.argument("candidate", type=USER_PATH)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option(*spellings("baseline_options"), "baseline_options", metavar="WORDS", help="options of the baseline alone")
@click.option(*spellings("candidate_options"), "candidate_options", metavar="WORDS", help="those of the candidate")
@compare_options("allow_missing")
@click.option(
    *spellings("max_minutes"),
    "max_minutes",
    metavar="MIN",
    help=f"time for the rounds; two are always made  [default: {DEFAULT_AB_MINUTES}]",
)
@record_options
@publish_options
@click.pass_context
def ab_command(
    context: click.Context,
    baseline: str,
    candidate: str,
    options: tuple[str, ...],
    baseline_options: str | None,
    candidate_options: str | None,
    max_minutes: str | None,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    publish_patience: str | None,
    publish_seconds: str | None,
    **gate: str | None,
) -> None:
    """Compare two versions of the code on this machine: BASELINE and CANDIDATE, each measured in turns.

    A side is a git ref, `.` for the working tree with its uncommitted changes, or the folder of a checkout. OPTIONS,
    after `--`, are those of `ttt-mlflow run`. Each side runs from a folder of its own. Both are warmed once. Then short
    runs alternate until the confidence interval is narrow enough or the time is used up. The comparison becomes one
    MLflow run, and the measured runs become its children.
    """
    from ttt_mlflow.app.ab.command import AskedAb, run_ab

    def asked() -> AskedAb:
        return AskedAb(
            _config({"baseline": baseline, "candidate": candidate}, gate),
            options,
            {
                "baseline": words("baseline_options", baseline_options),
                "candidate": words("candidate_options", candidate_options),
            },
            number("max_minutes", max_minutes or DEFAULT_AB_MINUTES, "a number of minutes above 0"),
            Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name, publish_patience, publish_seconds),
        )

    context.exit(run_ab(asked, _parse_run_words))


@click.command("rerun", cls=SwitchCommand, epilog=RERUN_EXAMPLES)
@click.argument("run", type=USER_PATH)
@compare_options("allow_missing", "format")
@record_options
@publish_options
@click.pass_context
def rerun_command(
    context: click.Context,
    run: str,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    publish_patience: str | None,
    publish_seconds: str | None,
    **gate: str | None,
) -> None:
    """Measure the configuration of the recorded run RUN again, and compare it with RUN.

    RUN is the folder of a record, the id of a record in LOGDIR, or the id or the name of an MLflow run. All parameters
    are those that RUN used, the random seed and the length of the measurement included.
    """
    from ttt_mlflow.app.rerun import rerun

    destination = Destination(
        logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name, publish_patience, publish_seconds
    )
    context.exit(rerun(run, destination, _config({"baseline": run}, gate)))


def _config(sides: dict[str, str], gate: dict[str, str | None]) -> CompareConfig:
    return CompareConfig.parse({**sides, **{name: value for name, value in gate.items() if value is not None}})


def _parse_run_words(given: Sequence[str]) -> RunConfig:
    """The configuration that ``ttt-mlflow run`` reads from the words ``given``. Raises BadInput as it does."""
    try:
        with run_command.make_context("run", list(given)) as context:
            options = dict(context.params)
            for common in ("logdir", "tracking_uri", "experiment_name", "publish_patience", "publish_seconds"):
                if (value := options.pop(common)) is not None:
                    raise BadInput(f"{common}={value}: it holds for both sides; give it before `--`")
            return parse_run(options, options.pop("no_cg"), context.args)
    except click.UsageError as error:
        raise BadInput(error.format_message()) from None


COMMANDS = (ab_command, rerun_command)
