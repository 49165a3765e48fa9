"""``ttt-mlflow sweep`` as a whole: what is measured, resumed, published, and how it ends."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.app.sweep.conftest import BROKEN, Stored, Sweep
from tests.proxies import Answer, proxy
from ttt_mlflow.app.sweep import board, command
from ttt_mlflow.models.entry import ModelEntry
from ttt_mlflow.record.finding import find_journals
from ttt_mlflow.record.sweep_file import SweepFile

TOO_LARGE = str(2**31 - 1)  # with prompts of 64 tokens, which alone would be 1.1 TB
FOUR = ("--batch=1,2", "--inner-net=mlp_1_dual,mlp_2_dual")
NAMES = [f"ttt-tiny mlp_{net}_dual b{batch} g3 cpu" for net in (1, 2) for batch in (1, 2)]


def test_one_parent_with_nested_children_that_a_second_command_leaves_alone(store: str, sweep: Sweep) -> None:
    first = sweep(*FOUR)
    assert first.exit_code == 0, first.output
    stored = Stored(store)
    assert stored.names() == NAMES
    parent = stored.parent
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "sweep ttt-tiny b1,2"
    assert parent.data.params["batch"] == "1,2"
    assert "| ttt-tiny mlp_2_dual |" in parent.data.tags["mlflow.note.content"]
    assert "ttt.series" not in parent.data.tags, "it has no model, and so no color"
    assert "4 runs: 4 measured" in parent.data.tags["mlflow.note.content"]
    ids = {run.data.tags["ttt.sweep_id"] for run in stored.runs}
    assert len(ids) == 1
    assert len({run.data.tags["ttt.cell"] for run in stored.children}) == 4

    pages = {one.path for one in stored.client.list_artifacts(parent.info.run_id, "results")}
    assert {"results/results.html", "results/results.csv", "results/table.png", "results/charts.svg"} <= pages
    path = stored.client.download_artifacts(parent.info.run_id, "sweep.json")
    cells = SweepFile.parse(Path(path).read_bytes(), "sweep.json").cells
    assert [cell.state for cell in cells] == ["done"] * 4
    assert {cell.run_id for cell in cells} == {run.info.run_id for run in stored.children}
    assert all(cell.config["model_name"] == "ttt-tiny" and Path(cell.record or "").is_dir() for cell in cells)

    before = [(run.info.run_id, run.info.end_time) for run in stored.runs]
    second = sweep("--inner-net=mlp_2_dual,mlp_1_dual", "--batch=2,1")  # the same grid in other words
    assert second.exit_code == 0
    assert "All runs of this sweep are there" in second.stdout
    assert [(run.info.run_id, run.info.end_time) for run in stored.runs] == before

    elsewhere = sweep(*FOUR, "--logdir=elsewhere")  # as on another host: the store has all
    assert "All runs of this sweep are there" in elsewhere.stdout
    again = sweep(*FOUR, "--redo=all", "--logdir=elsewhere")
    assert again.exit_code == 0, again.output
    assert stored.names() == sorted(NAMES * 2)
    assert len(find_journals("elsewhere").journals) == 5
    assert all(journal.faults() == [] for journal in find_journals("elsewhere").journals)
    assert stored.parent.info.status == "FINISHED"


def test_a_run_that_was_deleted_on_the_server_is_measured_again(store: str, sweep: Sweep) -> None:
    sweep("--batch=1,2")
    stored = Stored(store)
    stored.client.delete_run(stored.children[0].info.run_id)
    assert sweep("--batch=1,2").exit_code == 0
    assert stored.names() == NAMES[:2]


def test_other_code_another_card_and_another_method_are_measured_again(
    store: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("--batch=1")
    stored = Stored(store)
    for name, value in (("code_id", lambda: "edited"), ("METHOD", 99)):
        with monkeypatch.context() as changed:
            changed.setattr(board, name, value)
            assert sweep("--batch=1").exit_code == 0
    assert len(stored.children) == 3
    stored.client.set_tag(stored.children[-1].info.run_id, "ttt.gpu_name", "another")
    shutil.rmtree("ttt_runs")
    for run in stored.children[:-1]:
        stored.client.delete_run(run.info.run_id)
    sweep("--batch=1")
    assert len(stored.children) == 2


def test_redo_invalid_measures_those_again(store: str, sweep: Sweep) -> None:
    strict = "--thresholds=half_width_pct=1e-9"
    sweep("--batch=1,2", strict)
    stored = Stored(store)
    assert {run.data.tags["ttt.verdict"] for run in stored.children} == {"invalid"}
    assert "All runs of this sweep are there" in sweep("--batch=1,2", strict).stdout
    assert sweep("--batch=1,2", strict, "--redo=invalid").exit_code == 0
    assert stored.names() == sorted(NAMES[:2] * 2)


def test_what_does_not_fit_is_a_result_and_what_fails_is_tried_again(
    store: str, sweep: Sweep, broken: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"--model-name=ttt-tiny,{BROKEN}", f"--batch=1,{TOO_LARGE}", "--promptlen=64")
    first = sweep(*words)
    assert first.exit_code == 1, first.output
    stored = Stored(store)
    assert stored.parent.info.status == "FAILED"
    assert stored.parent.data.tags["ttt.message"].startswith("1 of 4 runs failed")
    assert len(stored.names("oom")) == 2
    assert len(stored.names("error")) == 1
    assert "it does not build" in first.stdout
    monkeypatch.setenv("REPAIRED", "1")
    second = sweep(*words)
    assert second.exit_code == 0, second.output
    assert len(stored.children) == 5, "what was measured and what did not fit is not tried again"
    assert stored.parent.info.status == "FINISHED"
    assert "ttt.message" not in stored.parent.data.tags


def test_the_same_grid_in_another_experiment_is_another_sweep(store: str, sweep: Sweep) -> None:
    sweep("--batch=1")
    assert sweep("--batch=1", "--experiment-name=other").exit_code == 0
    one, other = Stored(store), Stored(store, "other")
    assert one.parent.info.run_id != other.parent.info.run_id
    assert one.names() == other.names() == NAMES[:1]


@pytest.mark.long
def test_a_server_that_is_lost_costs_nothing_and_the_same_command_publishes(server_uri: str, sweep: Sweep) -> None:
    """Lost from the beginning, back before the second command."""
    with proxy(lambda method, path: Answer(503), server_uri) as lost:
        words = ("--batch=1,2", f"--tracking-uri={lost.uri}", "--experiment-name=lost at first")
        first = sweep(*words)
        assert first.exit_code == 4, first.output
        assert "3 records are not published; publish later with: ttt-mlflow sync" in first.stderr
        kept = find_journals("ttt_runs").journals
        assert [journal.status["status"] for journal in kept] == ["ok"] * 3
        lost.decide = lambda method, path: None
        second = sweep(*words)
        assert second.exit_code == 0, second.output
    assert len(find_journals("ttt_runs").journals) == 3, "nothing was measured again"
    stored = Stored(server_uri, "lost at first")
    assert stored.names() == NAMES[:2]
    assert stored.parent.info.status == "FINISHED"


@pytest.mark.long
def test_a_server_that_comes_back_while_the_sweep_goes_on(server_uri: str, sweep: Sweep) -> None:
    """Lost from the beginning until the first run has ended; then the parent is made before its children."""
    with proxy(lambda method, path: Answer(503), server_uri) as lost:
        measured = command.Measured.of_record

        def back(record: object) -> object:
            lost.decide = lambda method, path: None
            return measured(record)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command.Measured, "of_record", back)
            done = sweep("--batch=1,2", f"--tracking-uri={lost.uri}", "--experiment-name=back")
    assert done.exit_code == 0, done.output
    assert Stored(server_uri, "back").names() == NAMES[:2]


@pytest.mark.long
def test_sync_publishes_the_runs_of_a_lost_sweep_below_their_parent(server_uri: str, sweep: Sweep) -> None:
    from click.testing import CliRunner

    from ttt_mlflow.cli import cli

    with proxy(lambda method, path: Answer(503), server_uri) as lost:
        sweep("--batch=1,2", f"--tracking-uri={lost.uri}", "--experiment-name=synced")
    assert CliRunner().invoke(cli, ["sync", "ttt_runs", f"--tracking-uri={server_uri}"]).exit_code == 0
    stored = Stored(server_uri, "synced")
    assert stored.names() == NAMES[:2]
    assert len(stored.parent.data.tags["ttt.sweep_id"]) == 16


@pytest.mark.long
def test_two_hosts_that_lost_the_server_have_one_parent(server_uri: str, sweep: Sweep) -> None:
    """The first that reaches it makes the parent; what the other measured becomes the same parent's."""
    with proxy(lambda method, path: Answer(503), server_uri) as lost:
        words = (f"--tracking-uri={lost.uri}", "--experiment-name=two hosts", "--batch=1,2")
        sweep(*words, "--logdir=here")
        lost.decide = lambda method, path: None
        sweep(*words, "--logdir=there")
        again = sweep(*words, "--logdir=here")
    assert again.exit_code == 0, again.output
    stored = Stored(server_uri, "two hosts")
    assert stored.names() == sorted(NAMES[:2] * 2), "both were measured before either knew"
    assert stored.parent.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch=1,1"], "batch=1: given twice; give each value once"),
        (["--batch=1,x"], "batch=x: not allowed; batch takes a whole number of at least 1"),
        (["--batch=1,,2"], "batch=1,,2: not allowed; batch takes values, comma-separated, none of them empty"),
        (["--inner-net=mlp_1_dual,mlp_3_dual", "--batch=1,2,3"], "inner_net=mlp_3_dual: no such inner net; ttt-tiny"),
        (["--model-name=ttt-tiny,ttt-tniy", "--batch=1,2"], "model_name=ttt-tniy: no such model; the models are"),
        (["--device=cuda"], "device=cuda: PyTorch finds no GPU on this machine"),
        (["--executor=process", "--gpus=0"], "gpus=0: no such GPU as 0; this host has none that CUDA can use"),
        (["--gpus=0"], "gpus=0: executor=inline chooses its GPU itself; omit gpus"),
        (["--address=auto:1"], "address=auto:1: executor=inline uses no Ray cluster; omit address"),
        (["--exclusive"], "exclusive=true: executor=inline measures one run at a time; omit exclusive"),
        (["--exclusive=maybe"], "exclusive=maybe: not allowed; exclusive takes true or false"),
        (["--any-gpu=3"], "any_gpu=3: not allowed; any_gpu takes true or false"),
        (["--executor=ray", "--any-gpu"], "any_gpu=true: executor=ray chooses the GPUs of the cluster itself; omit"),
        (["--redo=some"], "redo=some: not allowed; redo takes none, invalid or all"),
        (["--preset=decode-3k"], "preset=decode-3k: not allowed; preset takes auto, or decode-2k or"),
        (["--batch=max"], "batch=max: ttt-tiny would be measured on a CPU; give a number there"),
        (["--foo=1"], "foo=1: no such parameter; the parameters are preset, grid, model_name"),
        (["--preset=decode-2k", "--grid=x.yaml"], "grid=x.yaml: preset=decode-2k is given too, which is another grid"),
        (["--grid=missing.yaml"], "grid=missing.yaml: cannot be read (No such file or directory); give a YAML file"),
        (["--dry-run=maybe"], "dry_run=maybe: not allowed; dry_run takes true or false"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(sweep: Sweep, words: list[str], message: str) -> None:
    result = sweep(*words)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {message}")
    assert os.listdir() == []


def test_a_model_that_is_not_installed_is_told_or_left_out(store: str, sweep: Sweep) -> None:
    words = ("--model-name=state-spaces/mamba-130m,ttt-tiny", "--batch=1,2")
    refused = sweep(*words)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert "mamba-ssm" in line
    assert "skip_missing" in line
    assert not Path("ttt_runs").exists()
    left_out = sweep(*words, "--skip-missing")
    assert left_out.exit_code == 0, left_out.output
    stored = Stored(store)
    assert stored.names() == NAMES[:2]
    path = stored.client.download_artifacts(stored.parent.info.run_id, "sweep.json")
    states = [cell["state"] for cell in json.loads(Path(path).read_text())["cells"]]
    assert states == ["skipped", "skipped", "done", "done"]


def test_dry_run_lists_the_runs_and_leaves_nothing(sweep: Sweep) -> None:
    result = sweep(*FOUR, "--dry-run")
    assert result.exit_code == 0
    assert [line.split()[:4] for line in result.stdout.splitlines()[2:6]] == [
        ["1", "ttt-tiny", "mlp_1_dual", "b1"],
        ["2", "ttt-tiny", "mlp_2_dual", "b1"],
        ["3", "ttt-tiny", "mlp_2_dual", "b2"],
        ["4", "ttt-tiny", "mlp_1_dual", "b2"],
    ]
    assert os.listdir() == []


def test_a_dry_run_shows_what_is_measured_alone(sweep: Sweep) -> None:
    words = ("--executor=process", "--batch=1,16,17,64", "--dry-run")
    shown = sweep(*words, "--exclusive").stdout.splitlines()[2:6]
    assert [line.split()[0:3] for line in shown] == [
        ["1", "ttt-tiny", "b17"],
        ["2", "ttt-tiny", "b64"],
        ["3", "ttt-tiny", "b1"],
        ["4", "ttt-tiny", "b16"],
    ]
    assert [line.partition("alone on the host: ")[2] for line in shown] == [
        "",
        "",
        "1 token in a step, at most 16",
        "16 tokens in a step, at most 16",
    ]
    assert "alone on the host" not in sweep(*words).stdout


def test_what_is_predicted_not_to_fit_is_marked_and_not_tried(
    store: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttt_mlflow.app.sweep import check
    from ttt_mlflow.run.prediction import Prediction

    def predicted(plan: object, total_bytes: int | None) -> Prediction:
        batch = plan.used.batch  # type: ignore[attr-defined]
        return Prediction(peak_bytes=batch * 10**9, fits=batch < 2, seconds=5.0)

    monkeypatch.setattr(check, "predict", predicted)
    shown = sweep("--batch=1,2", "--dry-run")
    assert "2 GB" in shown.stdout
    assert "predicted not to fit: predicted to need 2.0 GB" in shown.stdout
    assert sweep("--batch=1,2").exit_code == 0
    stored = Stored(store)
    assert stored.names() == NAMES[:1]
    assert "predicted not to fit" in stored.parent.data.tags["mlflow.note.content"]
    assert sweep("--batch=1,2", "--try-all").exit_code == 0
    assert stored.names() == NAMES[:2]
