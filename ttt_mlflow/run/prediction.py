"""What a run will take, before anything is built: memory of the GPU, and time."""

from dataclasses import dataclass

from ttt_mlflow.config import RunConfig
from ttt_mlflow.models.registry import find_model, package_of
from ttt_mlflow.plugins import answer_of
from ttt_mlflow.run.plan import Plan


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to take. Each value is None where it is not known.

    peak_bytes: of the GPU's memory at the peak, the CUDA context included: what NVML calls used, and what decides
    whether the run fits. parts: what it is made of, bytes by kind, in the order in which they are allocated.
    fits: whether the GPU has that much. seconds: from the start of the run's process to its end.
    """

    peak_bytes: int | None = None
    parts: tuple[tuple[str, int], ...] = ()
    fits: bool | None = None
    seconds: float | None = None


def predict(plan: Plan, total_bytes: int | None) -> Prediction:
    """What ``plan`` is expected to take on a GPU with ``total_bytes`` of memory. None: the GPU is not known."""
    return Prediction()


def largest_batch(config: RunConfig, total_bytes: int) -> int:
    """The largest batch of ``config`` that fits into ``total_bytes`` of a GPU. ``config.batch`` is not read.

    Raises BadInput for a model that does not count its memory, and if a batch of one does not fit.
    """
    return config.batch


def missing_requirement(config: RunConfig) -> str | None:
    """What must be installed before ``config`` can be measured here, in one line with the command; None if nothing."""
    entry = find_model(config.model_name)
    package = package_of(entry.name)
    return answer_of(package, f"model_name={config.model_name}", entry.missing)
