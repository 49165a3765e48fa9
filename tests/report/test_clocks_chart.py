"""The picture of a run's clocks, whatever was sampled."""

from pathlib import Path

import pandas as pd
import pytest

from tests.telemetry.test_samples import frame, section
from ttt_mlflow.report.clocks_chart import plot_clocks


@pytest.mark.parametrize(
    "samples",
    [frame(), frame().drop(columns=["power_w", "power_instant_w"]), pd.DataFrame()],
    ids=["all", "no-power", "empty"],
)
def test_picture(tmp_path: Path, samples: pd.DataFrame) -> None:
    path = tmp_path / "clocks.png"
    plot_clocks(samples, [section(1, 2), section(2.1, 3)], path, title="NVIDIA H200")
    assert path.read_bytes().startswith(b"\x89PNG")
