"""For all tests."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.register_profile("thorough", deadline=None, max_examples=2000)  # pytest --hypothesis-profile=thorough
settings.load_profile("untimed")


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """Every run collects garbage, and in a process that has imported everything this takes 0.5 s each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
