"""x"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttt_mlflow.app.output import _survive_closed_output
from ttt_mlflow.config import Configuration, MicroConfig, RunConfig

if TYPE_CHECKING:
    from rich.console import Console

    from ttt_mlflow.record.journal import Journal


@dataclass(frozen=True)
class _Job:
    """Something to measure, settled for this machine."""

    asked: Configuration
    notices: list[str]
    measure: "Callable[[Journal, Console], None]"
    summary: "Callable[[Journal, str], str]"


def _decode_job(asked: RunConfig) -> _Job:
    _survive_closed_output()
    from ttt_mlflow.report.summary import summary_text
    from ttt_mlflow.run import model_run

    imports_s = _process_age_s()
    resolved = model_run.resolve(asked)
    return _Job(
        asked,
        resolved.notices,
        lambda journal, console: model_run.run(resolved, journal, console, imports_s),
        summary_text,
    )


def _micro_job(asked: MicroConfig) -> _Job:
    _survive_closed_output()
    from ttt_mlflow.micro import micro_run
    from ttt_mlflow.report.micro_table import micro_text

    imports_s = _process_age_s()
    resolved = micro_run.resolve(asked)
    return _Job(
        asked,
        resolved.notices,
        lambda journal, console: micro_run.run(resolved, journal, console, imports_s),
        micro_text,
    )


def _process_age_s() -> float:
    import psutil

    return time.time() - psutil.Process().create_time()
