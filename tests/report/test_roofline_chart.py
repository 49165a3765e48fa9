"""The roofline's table and picture."""

import struct

import pytest
from matplotlib.axes import Axes

from ttt_mlflow.measurement.roofline import PartWork
from ttt_mlflow.report.roofline_chart import parts_csv, roofline_png
from ttt_mlflow.workload import INNER, PROJECTIONS, SAMPLING

PARTS = [PartWork(PROJECTIONS, 2e9, 3e12, 1.5), PartWork(INNER, 8e9, 1e9, 2.0), PartWork(SAMPLING, 8.0, 0.0, 1e-6)]


def test_the_table() -> None:
    assert parts_csv(PARTS).splitlines() == [
        "part,bytes,flops,floor_ms",
        "projections,2000000000.0,3000000000000.0,1.5",
        "inner net state,8000000000.0,1000000000.0,2.0",
        "sampling,8.0,0.0,1e-06",
    ]
    assert parts_csv([PartWork(INNER, 8.0, 1.0, None)]).splitlines()[1] == "inner net state,8.0,1.0,"


def test_the_parts_of_the_floor_stand_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[int, float, float]] = []
    original = Axes.barh

    def note(self: Axes, y: int, width: float, left: float = 0.0, **look: object) -> object:
        bars.append((y, left, width))
        return original(self, y, width, left=left, **look)  # type: ignore[arg-type]

    titles: list[str] = []
    monkeypatch.setattr(Axes, "barh", note)
    monkeypatch.setattr(Axes, "set_title", lambda self, text: titles.append(text))
    picture = roofline_png(PARTS, 5.0, "a run")
    assert bars == [(0, 0.0, 1.5), (0, 1.5, 2.0), (0, 3.5, 1e-6), (1, 0.0, 5.0)]
    assert titles == ["a run: 70.0 % of the roofline"]
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 2 * height > 0
