"""Carries out ``ttt-mlflow rerun``: measures a recorded configuration again, and compares with the recorded run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ttt_mlflow.app import job
from ttt_mlflow.app.ab.answer import Question, answer
from ttt_mlflow.app.output import print_text
from ttt_mlflow.config import CONFIGURATIONS, Configuration
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import JOURNAL_ID
from ttt_mlflow.record.recorded_run import LocalRun, RecordedRun

SHOWN = 10  # runs of one name that are listed
STOPPED = "killed"


def rerun(run: str, destination: job.Destination, question: Question) -> int:
    """Measure the configuration of ``run`` again, record and publish it, print the comparison, return the exit code.

    Raises BadInput for an unknown run and for a configuration that is not possible here, before anything is measured.
    """
    with recorded(run, destination) as old:
        config = configuration_of(old)
        print_text(f"Measuring {config.run_name} again, as run {old.id} of {old.started_at:%Y-%m-%d} did.")
    result, exit_code = job.execute_recorded(lambda: config, destination, time_imports=False)
    if result.status == STOPPED or (result.failure and question.fail_above_pct is None):
        return exit_code
    with recorded(run, destination) as old:
        again = LocalRun(result.record)
        found = answer([old], [again], question, (f"{old.id}, {old.name}", f"{again.id}, measured again"))
    print_text(f"\n{found.text}")
    # with a gate, a run that failed decides by the comparison, because 1 means slower and nothing else
    return found.exit_code if result.failure else found.exit_code or exit_code


def configuration_of(run: RecordedRun) -> Configuration:
    """What ``run`` measured, with the values it used. Raises BadInput for a run that measured nothing itself."""
    kind = CONFIGURATIONS.get(run.entry_point)
    if kind is None:
        raise BadInput(f"{run.id}: a run of {run.entry_point}, which measures nothing itself; name one of its runs")
    return kind.parse({name: value for name, value in run.settings.items() if name in kind.model_fields})


@contextlib.contextmanager
def recorded(run: str, destination: job.Destination) -> Iterator[RecordedRun]:
    """The run that ``run`` names: a record's folder or id, or the id or the name of a run in the store.

    Raises BadInput if there is none, and for a name that several runs have, with these runs.
    """
    from ttt_mlflow.tracking.find_run import MLFLOW_RUN_ID, found_run
    from ttt_mlflow.tracking.query import open_store
    from ttt_mlflow.tracking.store import resolve_tracking_uri

    uri, logdir = resolve_tracking_uri(destination.tracking_uri), Path(destination.logdir)
    if MLFLOW_RUN_ID.fullmatch(run) or JOURNAL_ID.fullmatch(run) or Path(run).is_dir():
        with found_run(run, logdir, uri) as found:
            yield found
        return
    quote = '"' if "'" in run else "'"
    with open_store(uri) as store:
        named = store.search(f"attributes.run_name = {quote}{run}{quote}", destination.experiment_name, limit=SHOWN)
        if not named:
            raise BadInput(
                f"{run}: no such run; {logdir} has no record of that id, and {store.place} no run of that id or name"
            )
        if len(named) > 1:
            listed = ", ".join(f"{one.id} ({one.started_at:%Y-%m-%d %H:%M}, {one.commit or '-'})" for one in named)
            raise BadInput(f"{run}: {len(named)} runs have that name; give the id of one: {listed}")
        yield named[0]
