"""The wheel in an environment that other packages rule: with the lowest and with the newest versions, on a CPU.

Each environment takes several GB, most of it torch with its CUDA libraries, and is deleted at the end.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.project import QUICK, copy_project, environment
from tests.requirements import dependencies, lower_bound
from ttt_mlflow.measurement.statistics import BOOTSTRAP_LEAST

pytestmark = pytest.mark.long
# enough passes for the bootstrap, and a profile: both go deep into SciPy, pandas and Matplotlib
RUN = {**QUICK, "repeats": str(BOOTSTRAP_LEAST), "profile": "torch"}
MICRO = ["--device", "cpu", "--heads", "2", "--head_dim", "16", "--batches", "1", "--seconds", "0.05"]
VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({each.metadata["Name"]: each.version for each in distributions()}))
"""
# asked there: another MLflow might want to migrate the store first
RUNS = """
import json
from mlflow import MlflowClient
client = MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("ttt-mlflow").experiment_id])
print(json.dumps([{"status": run.info.status, "tags": run.data.tags, "metrics": run.data.metrics} for run in runs]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: what an earlier build left in the checkout would be packed too."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    done([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(copy_project(source))])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Path]:
    """The Python of an empty environment."""
    folder = tmp_path / "environment"
    done([sys.executable, "-m", "venv", str(folder)])
    yield folder / "bin" / "python"
    shutil.rmtree(folder)


def done(command: list[str], cwd: Path | None = None, **settings: str) -> str:
    """What the command prints; it may take as long as its downloads do."""
    env = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(command, env=env | settings, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_the_wheel_measures(
    which: str, wheel: Path, python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constraints = tmp_path / "constraints.txt"
    lowest = {canonicalize_name(each.name): lower_bound(each) for each in dependencies()}
    pins = [f"{name}=={version}\n" for name, version in lowest.items()] if which == "lowest" else []
    constraints.write_text("".join(pins))
    done([str(python), "-m", "pip", "install", "--constraint", str(constraints), str(wheel)])

    found = json.loads(done([str(python), "-c", VERSIONS]))
    tried = {canonicalize_name(name): version for name, version in found.items() if canonicalize_name(name) in lowest}
    with capsys.disabled():
        print(f"\n{which} on Python {sys.version.split()[0]}:", *(f"{name} {tried[name]}" for name in lowest))
    if which == "lowest":
        assert {name: Version(version) for name, version in lowest.items()} == {
            name: Version(Version(version).public) for name, version in tried.items()
        }
    else:
        assert any(Version(tried[name]) > Version(version) for name, version in lowest.items())

    here = tmp_path / "here"  # not the checkout, whose package Python would import
    here.mkdir()
    where = done([str(python), "-c", "import ttt_mlflow; print(ttt_mlflow.__file__)"], here)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    uri = f"sqlite:///{here}/mlflow.db"
    settings = {"MLFLOW_TRACKING_URI": uri, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [str(python), "-m", "ttt_mlflow"]
    done([*command, "run", *(f"--{name}={value}" for name, value in RUN.items())], here, **settings)
    done([*command, "micro", *MICRO], here, **settings)

    (micro, decode) = json.loads(done([str(python), "-c", RUNS], here, **settings))
    assert (decode["status"], decode["tags"]["ttt.status"]) == ("FINISHED", "ok")
    assert 0 < decode["metrics"]["decode_tokens_per_s_ci_low"] <= decode["metrics"]["decode_tokens_per_s"]
    assert (micro["status"], micro["tags"]["ttt.status"]) == ("FINISHED", "ok")
