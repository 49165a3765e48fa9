"""benchmarks/peers.sh with a python that only pretends, and the grids that it measures."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ttt_mlflow.app.sweep.grid import cells_of, yardstick_of
from ttt_mlflow.config import RunConfig, SweepConfig
from ttt_mlflow.config.presets import GATED_DELTA, MAMBA_2, PEERS, RWKV_7, TRANSFORMER, TRANSFORMER_GQA

SCRIPT = Path(__file__).parents[2] / "benchmarks/peers.sh"
GRIDS = SCRIPT.parent / "peers"
STAGES = ["decode", "prefill", "crossing", "context", "long", "prefill-fla"]
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *" sweep "*) [ -n "$SWEEP_S" ] && exec sleep "$SWEEP_S"; exit "${SWEEP_CODE:-0}" ;; esac
echo "a table"
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), **environment}
        command = [str(SCRIPT), str(tmp_path / "out"), *arguments]
        return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=60)

    return run


def stages_called(folder: Path) -> list[str]:
    calls = (folder / "calls").read_text().splitlines()
    return [Path(call.split(" --grid ")[1].split()[0]).stem for call in calls if " sweep " in call]


def test_each_stage_is_a_sweep_and_the_table_has_all(run: Run, tmp_path: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert stages_called(tmp_path) == STAGES
    first, *_, last = (tmp_path / "calls").read_text().splitlines()
    assert f"--logdir {tmp_path / 'out/runs'} --experiment-name peers" in first
    assert last.startswith(f"-m ttt_mlflow table {tmp_path / 'out/runs'} ")
    assert (tmp_path / "out/table.txt").read_text() == "a table\n"


def test_stages_by_name_and_one_that_fails(run: Run, tmp_path: Path) -> None:
    done = run("600", "long", "context", SWEEP_CODE="1")
    assert done.returncode == 1
    assert stages_called(tmp_path) == ["long", "context"], "the next stage is measured all the same"
    assert "long: exit code 1" in done.stdout


def test_it_ends_in_time_and_says_what_was_not_begun(run: Run, tmp_path: Path) -> None:
    done = run("5", "long", "context", ENDING="1", LEAST="2", SWEEP_S="30")
    assert done.returncode == 1
    assert "long: exit code 124 after" in done.stdout
    assert stages_called(tmp_path) == ["long"]
    assert (tmp_path / "out/table.txt").exists(), "what was measured is shown"
    assert "long: not begun, " in run("3", "long", ENDING="1", LEAST="2").stdout
    assert stages_called(tmp_path) == ["long"]


@pytest.mark.parametrize("code", ["130", "143"])
def test_a_sweep_that_was_stopped_is_the_last(code: str, run: Run, tmp_path: Path) -> None:
    assert run("600", "long", "context", SWEEP_CODE=code).returncode == 1
    assert stages_called(tmp_path) == ["long"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["600", "nothing"], "no stage nothing: benchmarks/peers has no nothing.yaml"),
        (["0"], "SECONDS: 0 is no number"),
    ],
)
def test_what_cannot_be_begun(arguments: list[str], message: str, run: Run, tmp_path: Path) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "calls").exists()


def test_no_folder() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: benchmarks/peers.sh OUTPUT_FOLDER")


# The grids


def cells(stage: str) -> list[RunConfig]:
    return [cell.config for cell in cells_of(SweepConfig.parse({"grid": str(GRIDS / f"{stage}.yaml")}))]


def test_every_grid_is_a_stage() -> None:
    assert {path.stem for path in GRIDS.iterdir()} == set(STAGES)
    for stage in STAGES:
        assert cells(stage)


def test_decode_has_every_peer_at_every_batch() -> None:
    yardstick = yardstick_of(SweepConfig.parse({"grid": str(GRIDS / "decode.yaml")}))
    assert yardstick is not None
    asked = cells("decode")
    measured = [(one.model_name, one.inner_net, one.batch) for one in [*asked, yardstick.config]]
    models = ("ttt-1b", MAMBA_2, TRANSFORMER, TRANSFORMER_GQA, GATED_DELTA, RWKV_7)
    assert {name.partition(":")[0] for name in PEERS} - set(models) == {"state-spaces/mamba-1.4b"}
    sides = [(name, None) for name in models[1:]] + [
        ("ttt-1b", net) for net in ("mlp_1_dual_triton", "mlp_2_dual_triton")
    ]
    assert sorted(measured, key=str) == sorted(
        ((*side, batch) for side in sides for batch in (1, 16, 128, 1024)), key=str
    )


def test_the_transformers_have_the_contexts_that_are_reported() -> None:
    def contexts(stage: str) -> set[tuple[str, float]]:
        """Of each transformer: the mean number of tokens that a step attends to, its own among them."""
        chosen = [one for one in cells(stage) if one.model_name in (TRANSFORMER, TRANSFORMER_GQA)]
        return {(one.model_name, one.promptlen + (one.genlen + 1) / 2) for one in chosen}

    both = (TRANSFORMER, TRANSFORMER_GQA)
    assert contexts("decode") == {(name, 129.5) for name in both}
    assert contexts("context") == {(name, context) for name in both for context in (2048.5, 8192.5)}
    assert contexts("long") == {(name, 32768.5) for name in both}
    assert all(one.promptlen == 1 for one in cells("decode")), "a prompt before a short pass leaves clocks on the move"


def test_both_sides_of_a_crossing_are_measured_from_the_first_context_to_the_last() -> None:
    """Beside the other stages: what lies between two contexts is interpolated, what lies beyond them is not said."""
    found: dict[tuple[str, int], set[float]] = {}
    yardstick = yardstick_of(SweepConfig.parse({"grid": str(GRIDS / "decode.yaml")}))
    assert yardstick is not None
    for one in [yardstick.config, *cells("decode"), *cells("crossing"), *cells("context")]:
        if one.inner_net in (None, "mlp_1_dual_triton"):
            found.setdefault((one.model_name, one.batch), set()).add(one.promptlen + (one.genlen + 1) / 2)
    for model in (TRANSFORMER, TRANSFORMER_GQA):
        for batch in (1, 16, 128, 1024):
            assert len(found[model, batch]) >= 2
            assert min(found["ttt-1b", batch]) == min(found[model, batch]) == 17.5
            assert max(found["ttt-1b", batch]) >= max(found[model, batch])
