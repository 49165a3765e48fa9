"""Measure how fast TTT, Mamba and other constant-state models decode; each configuration is one MLflow run.

    import ttt_mlflow
    result = ttt_mlflow.measure(ttt_mlflow.RunConfig(model_name="ttt-tiny", batch=8))
    ttt_mlflow.publish(result)

torch and MLflow are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt_mlflow.app.measure import Result, measure, publish
    from ttt_mlflow.config import MicroConfig, RunConfig

__all__ = ["MicroConfig", "Result", "RunConfig", "measure", "publish"]

_ROOMS = {
    "MicroConfig": "ttt_mlflow.config",
    "RunConfig": "ttt_mlflow.config",
    "Result": "ttt_mlflow.app.measure",
    "measure": "ttt_mlflow.app.measure",
    "publish": "ttt_mlflow.app.measure",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
