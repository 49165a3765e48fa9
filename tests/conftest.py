"""For all tests."""

import os

from hypothesis import settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")
