"""The picture of a run's clocks, whatever was sampled."""

import pandas as pd
import pytest

from tests.telemetry.test_samples import frame, section
from ttt_mlflow.report.clocks_chart import clocks_png


@pytest.mark.parametrize(
    "samples",
    [frame(), frame().drop(columns=["power_w", "power_instant_w"]), pd.DataFrame()],
    ids=["all", "no-power", "empty"],
)
def test_picture(samples: pd.DataFrame) -> None:
    assert clocks_png(samples, [section(1, 2), section(2.1, 3)], title="NVIDIA H200").startswith(b"\x89PNG")
