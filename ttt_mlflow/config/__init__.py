"""What can be asked for: one configuration for each command that records, each defined once.

The command line, the MLproject file, the recorded parameters and the report columns are derived from these classes, or
are tested against them. A field that is ``None`` was not given (``auto``): the run chooses the value for this machine
and records it.
"""

from ttt_mlflow.config.base import CONFIG_ID_LENGTH, Configuration, as_text
from ttt_mlflow.config.compare import CompareConfig
from ttt_mlflow.config.micro import MicroConfig
from ttt_mlflow.config.run import RunConfig
from ttt_mlflow.config.sweep import SweepConfig
from ttt_mlflow.config.values import FALSE_WORDS, TRUE_WORDS

__all__ = [
    "CONFIGURATIONS",
    "CONFIG_ID_LENGTH",
    "DEFAULT_LOGDIR",
    "FALSE_WORDS",
    "TRUE_WORDS",
    "CompareConfig",
    "Configuration",
    "MicroConfig",
    "RunConfig",
    "SweepConfig",
    "as_text",
]

DEFAULT_LOGDIR = "./ttt_runs"  # the folder of the records
CONFIGURATIONS: dict[str, type[Configuration]] = {
    kind.entry_point: kind for kind in (RunConfig, MicroConfig, CompareConfig, SweepConfig)
}
