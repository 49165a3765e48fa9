"""Checks a cell before anything is measured: whether it is possible, and whether it will fit."""

from dataclasses import dataclass, field
from functools import cache

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.checkpoint_id import checkpoint_id
from ttt_mlflow.run.launch_bound import launch_bound
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prediction import Prediction, largest_batch, missing_requirement, predict


@dataclass(frozen=True)
class Checked:
    """What was found of a cell.

    config: as asked, with the batch that was found for the largest one. used: with all values chosen; None if it is not
    possible. fault: why not, one line for each fault. missing: what must be installed before, in one line. config_id:
    what the tag ``ttt.config_id`` of its run will be. launch_bound: why its steps wait for kernel launches; None if
    they do not. cost_grows: whether a step costs more with the context; None if that is not known.
    """

    config: RunConfig
    used: RunConfig | None = None
    fault: str | None = None
    missing: str | None = None
    prediction: Prediction = field(default_factory=Prediction)
    config_id: str | None = None
    launch_bound: str | None = None
    cost_grows: bool | None = None

    @property
    def too_large(self) -> str:
        """Of a run that is predicted not to fit: what it needs."""
        peak = self.prediction.peak_bytes
        return f"predicted to need {peak / 1e9:,.1f} GB" if peak else "predicted to need more memory than there is"


def check_run(config: RunConfig, asks_largest: bool, total_bytes: int | None) -> Checked:
    """Check one configuration on this machine. total_bytes: memory of the GPU; None on a CPU."""
    try:
        if missing := missing_requirement(config):
            return Checked(config, missing=missing)
        if asks_largest:
            if total_bytes is None:
                raise BadInput(f"batch=max: {config.model_name} would be measured on a CPU; give a number there")
            config = config.model_copy(update={"batch": largest_batch(config, total_bytes)})
        plan = make_plan(config)
        weights = _checkpoint_id(plan.used.checkpoint) if plan.used.checkpoint else None
        return Checked(
            config,
            plan.used,
            prediction=predict(plan, total_bytes),
            config_id=plan.used.config_id(weights),
            launch_bound=launch_bound(plan),
            cost_grows=plan.entry.cost_grows,
        )
    except BadInput as error:
        return Checked(config, fault=str(error))


@cache
def _checkpoint_id(path: str) -> str:
    """Once for all cells: it reads the whole checkpoint."""
    return checkpoint_id(path)
