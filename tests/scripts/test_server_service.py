"""scripts/server/ttt-mlflow-server.service is a unit that systemd takes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.scripts.server_script import SCRIPT

UNIT = ROOT / "scripts/server/ttt-mlflow-server.service"
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "fault", [None, ("TimeoutStopSec=60", "TimeoutStopSec=soon")], ids=["as it is", "with a fault"]
)
def test_systemd_takes_the_unit(fault: tuple[str, str] | None, tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/ttt_mlflow/", f"{ROOT}/").replace("=ttt-mlflow\n", "=root\n", 2)
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(*fault) if fault else text)
    done = subprocess.run([str(ANALYZE), "verify", str(unit)], capture_output=True, text=True)
    about_it = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert bool(about_it) == bool(fault), done.stderr
    assert fault or done.returncode == 0, done.stderr


def test_the_unit_starts_the_script_with_its_own_options() -> None:
    (start,) = (line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart="))
    program, *words = start.removeprefix("ExecStart=").split()
    assert program == "/opt/ttt_mlflow/scripts/server.sh"
    shown = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True, check=True).stdout
    options = [word for word in words if word.startswith("--")]
    assert options
    assert all(f"  {option} " in shown for option in options)
