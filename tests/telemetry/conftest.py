import sys

import pytest

from tests.telemetry.fake_nvml import FakeNvml
from ttt_mlflow.telemetry import processes


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(processes, "_own_numbers", {})  # what this process knows from other tests
    return fake
