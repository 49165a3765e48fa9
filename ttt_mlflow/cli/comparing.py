"""The commands that compare: compare."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.cli.options import SWITCH, SwitchCommand, record_options, spellings
from ttt_mlflow.config import DEFAULT_LOGDIR, CompareConfig, as_text
from ttt_mlflow.errors import BadInput

COMPARE_EXAMPLES = """\b
Examples:
  ttt-mlflow compare latest~1 latest
  ttt-mlflow compare 3f0c5d9e8b7a46b1a2c3d4e5f6071829 "ttt-1b mlp_1_dual_triton b128"
  ttt-mlflow compare v1.0 HEAD --fail-above 2% --format markdown
  ttt-mlflow compare "tags.release = '1.2'" main --tracking-uri http://mlflow.example:5000 --strict
  ttt-mlflow compare ./ttt_runs/20261123-101500-1a2b3c4d latest --record
  ttt-mlflow compare --baseline latest~3 --baseline latest~2 --candidate latest~1 --candidate latest

\b
Exit code: 0 the comparison was made, 2 bad input or a store that does not answer, 4 not recorded, or a damaged record
was set aside, 70 a fault of this program. With --fail-above: 0 nothing is slower by more, 1 something is, 5 cannot
tell. With --strict alone: 5 where a condition decided.
"""


def compare_options(*without: str) -> Callable[[Any], Any]:
    """One option for each field but the sides and ``without``; a switch may be given without a value."""

    def decorate(command: Any) -> Any:
        for name, field in reversed(CompareConfig.model_fields.items()):
            if name in ("baseline", "candidate", *without):
                continue
            switch: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if isinstance(field.default, bool) else {}
            text = f"{field.description}  [default: {'none' if field.default is None else as_text(field.default)}]"
            metavar = SWITCH if switch else name.upper()
            command = click.option(*spellings(name), name, metavar=metavar, help=text, **switch)(command)
        return command

    return decorate


@click.command("compare", cls=SwitchCommand, epilog=COMPARE_EXAMPLES)
@click.argument("sides", nargs=-1, metavar="[BASELINE CANDIDATE]")
@click.option("--baseline", "baseline", multiple=True, metavar="RUN", help="a run of the baseline; may be repeated")
@click.option("--candidate", "candidate", multiple=True, metavar="RUN", help="a run of the candidate; may be repeated")
@compare_options()
@click.option("--record", is_flag=True, help="keep the comparison as an MLflow run, with its page as an artifact")
@record_options
@click.pass_context
def compare_command(
    context: click.Context,
    sides: Sequence[str],
    baseline: Sequence[str],
    candidate: Sequence[str],
    record: bool,
    logdir: str | None,
    tracking_uri: str | None,
    experiment_name: str | None,
    **options: str | None,
) -> None:
    """Say whether CANDIDATE is faster than BASELINE, and how sure that is.

    A side is a run id, a run name, a local record, a parent run, a git commit or tag, or an MLflow filter, or latest,
    latest~1 and so on. The first kind that fits counts. A parent, a commit and a filter mean all runs that fit.
    """
    from ttt_mlflow.app import compare

    def parse() -> CompareConfig:
        left, right = _sides(sides, baseline, candidate)
        given = {name: value for name, value in options.items() if value is not None}
        return CompareConfig.parse({"baseline": left, "candidate": right, **given})

    destination = Destination(logdir or DEFAULT_LOGDIR, tracking_uri, experiment_name)
    context.exit(compare.execute(parse, destination, record))


def _sides(
    sides: Sequence[str], baseline: Sequence[str], candidate: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both sides, each from its place on the command line or from its option."""
    waiting = list(sides)
    found = [tuple(given) if given else (waiting.pop(0),) if waiting else () for given in (baseline, candidate)]
    if waiting:
        raise BadInput(f"{' '.join(waiting)}: two sides are compared; give several runs of one with --baseline RUN")
    for name, side in zip(("baseline", "candidate"), found, strict=True):
        if not side:
            raise BadInput(f"the {name} is missing; give two sides: ttt-mlflow compare BASELINE CANDIDATE")
    return found[0], found[1]


COMMANDS = (compare_command,)
