"""For all tests."""

import gc
import os
import sys

from hypothesis import settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.register_profile("thorough", deadline=None, max_examples=2000)  # pytest --hypothesis-profile=thorough
settings.load_profile("untimed")
gc.disable()  # until all tests are collected: hundreds of thousands of objects are made then, and all of them stay
_imported = 0


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_runtest_setup() -> None:
    """Every run collects garbage, and in a process that has imported everything this would take 0.5 s each time."""
    global _imported
    if len(sys.modules) > _imported:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()  # later collections do not look at what was imported until now
