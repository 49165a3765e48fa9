"""Carries out ``ttt-mlflow rerun``: measures a recorded configuration again, and compares with the recorded run."""

import contextlib
from collections.abc import Iterator

from ttt_mlflow.app import job
from ttt_mlflow.app.compare import gate_of, options_of, report_of
from ttt_mlflow.app.output import print_error, print_text
from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.app.sides import open_finder
from ttt_mlflow.config import CONFIGURATIONS, CompareConfig, Configuration
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.finding import Damaged
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun
from ttt_mlflow.report.comparison_text import comparison_text

STOPPED = "killed"


def rerun(run: str, destination: Destination, config: CompareConfig) -> int:
    """Measure the configuration of ``run`` again, record and publish it, print the comparison, return the exit code.

    Raises BadInput for an unknown run and for a configuration that is not possible here, before anything is measured.
    """
    damaged: list[Damaged] = []
    with recorded(run, destination, damaged) as old:
        asked, old_id = configuration_of(old), old.id
        print_text(f"Measuring {asked.run_name} again, as run {old_id} of {old.started_at:%Y-%m-%d} did.")
    result, exit_code = job.execute_recorded(lambda: asked, destination, time_imports=False)
    if result.status == STOPPED or (result.failure and config.fail_above is None):
        return exit_code
    new = LocalRun(result.record)
    with recorded(old_id, destination, []) as old:
        sides: list[tuple[str, list[RecordedRun]]] = [
            (f"{run}, run {old_id}", [old]),
            (f"the same again, record {new.id}", [new]),
        ]
        report = report_of(sides, options_of(config), gate_of(config))
    print_text(f"\n{comparison_text(report)}")
    assert report.decision
    code = report.decision.exit_code
    # with a gate, a run that failed decides by the comparison, because 1 means slower and nothing else
    code = code if result.failure else code or exit_code
    return code or (DamagedRecord.exit_code if damaged else 0)


def configuration_of(run: RecordedRun) -> Configuration:
    """What ``run`` measured, with the values it used."""
    kind = CONFIGURATIONS.get(run.entry_point)
    if kind is None:
        raise BadInput(f"{run.id}: a run of {run.entry_point}; this version measures {', '.join(CONFIGURATIONS)}")
    return kind.parse({name: value for name, value in run.settings.items() if name in kind.model_fields})


@contextlib.contextmanager
def recorded(run: str, destination: Destination, aside: list[Damaged]) -> Iterator[RecordedRun]:
    """The run that ``run`` names, as a side of ``compare`` would. Downloaded files stay until the block ends.

    aside: gets the damaged records that were set aside while looking; they are named on standard error. Raises BadInput
    if there is no such run, or if several fit, and DamagedRecord if its record is damaged.
    """
    with open_finder(destination) as finder:
        found = finder.side("run", [run])
        aside += finder.damaged
        for one in finder.damaged:
            print_error(f"Error: {one}; it was set aside")
        if len(found.runs) > 1:
            listed = ", ".join(f"{one.id} ({one.name})" for one in found.runs)
            raise BadInput(f"run={run}: {found.text}; one run can be measured again, so give the id of one: {listed}")
        yield found.runs[0]
