"""Cells on a Ray cluster: three nodes on this machine, of which one dies; and what is refused before that."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.sweep.conftest import Stored, Sweep
from tests.project import QUICK, environment, started
from ttt_mlflow.app.sweep.executors.ray import _fault_of, _knock, _look_function
from ttt_mlflow.errors import BadInput
from ttt_mlflow.telemetry.code import code_id

CELLS = {"model_name": "ttt-tiny", "inner_net": "mlp_1_dual,mlp_2_dual", "batch": "1,2,3,4", "genlen": "3,4,5"}
NODES = 3
WITHIN_S = 1200


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "address=127.0.0.1:1: no Ray cluster answers there ("),
        (
            "somewhere",
            "address=somewhere: not the address of a Ray cluster; give host:port, or auto on one of its hosts",
        ),
        ("ray://host:port", "address=ray://host:port: not the address of a Ray cluster"),
    ],
)
def test_an_address_where_nothing_answers(address: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        _knock(address)
    assert str(refused.value).startswith(message)
    assert len(str(refused.value).splitlines()) == 1


def test_without_ray_its_installation_is_told(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = sweep("--batch=1", "--executor=ray")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert f"Ray is not installed; {sys.executable} -m pip install 'ttt-mlflow[ray]'" in line
    assert list(tmp_path.iterdir()) == []


def test_hosts_without_the_project_or_with_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _look_function()()
    assert answer == {"code": code_id(), "gpus": [], "totals": []}
    assert _fault_of("host", answer) is None
    assert "the host b has other code of the project (ttt.code_id x" in str(_fault_of("b", {**answer, "code": "x"}))
    monkeypatch.setitem(sys.modules, "ttt_mlflow.telemetry.code", None)
    lacking = _look_function()()
    assert str(_fault_of("b", lacking)).startswith("the host b lacks the project (")
    assert f"{sys.executable} -m pip install" in str(_fault_of("b", lacking))


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes with a GPU each that is none: the cells measure on the CPU."""
    utils = pytest.importorskip("ray.cluster_utils", reason="the extra ray is not installed")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    try:
        yield made
    finally:
        made.shutdown()


@pytest.mark.long
def test_a_node_dies_and_all_cells_are_there_once(cluster: Any, server_uri: str, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(NODES - 1)]
    quick = {name: value for name, value in QUICK.items() if name not in ("model_name", "batch", "genlen")}
    words = {**CELLS, **quick, "executor": "ray", "address": cluster.address, "logdir": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "ttt_mlflow", "sweep", *(f"--{name}={value}" for name, value in words.items())]
    command += ["--experiment-name", "ray"]
    with started(command, environment(server_uri)) as process:
        deadline = time.monotonic() + WITHIN_S
        while "3 of 24" not in process.output and process.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert process.process.poll() is None, process.output
        cluster.remove_node(nodes[0], allow_graceful=False)
        while process.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        assert process.process.poll() == 0, process.output
    assert "24 runs: 24 measured" in process.output
    assert "has left the cluster; Ray measures its runs on another one" in process.output
    assert "Traceback" not in process.output
    stored = Stored(server_uri, "ray")
    assert stored.parent.info.status == "FINISHED"
    assert len(stored.names("ok")) == len(stored.names()) == 24
    assert len({run.data.tags["ttt.cell"] for run in stored.children}) == 24
    kept = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    assert len(kept) == 25, "the records are here, whatever became of the node"
