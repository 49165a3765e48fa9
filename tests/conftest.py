"""For all tests."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
