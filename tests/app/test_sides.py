"""What a side of a comparison may be, found in a real store and in a folder of records."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.compared import H200, passes_around, recorded
from tests.project import new_store
from ttt_mlflow.app.sides import Finder, Side
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.query import open_store


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return new_store(tmp_path)


@pytest.fixture
def finder(uri: str, tmp_path: Path) -> Iterator[Finder]:
    with open_store(uri) as store:
        yield Finder(store, tmp_path / "runs")


Published = Callable[..., tuple[LocalRun, str]]


@pytest.fixture
def published(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    # in MLflow's own experiment, where these tests make other runs too
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")

    def make(rate: float = 1000.0, tag: dict[str, str] | None = None, **given: object) -> tuple[LocalRun, str]:
        run = recorded(tmp_path / "runs", passes_around(rate), **given)  # type: ignore[arg-type]
        run_id = publish(run.journal, uri).run_id
        for name, value in (tag or {}).items():
            MlflowClient(uri).set_tag(run_id, name, value)
        return run, run_id

    return make


def ids(side: Side) -> set[str]:
    return {run.id for run in side.runs}


def refusal(finder: Finder, text: str) -> str:
    with pytest.raises(BadInput) as refused:
        finder.side("baseline", [text])
    return str(refused.value)


def test_an_id_the_beginning_of_one_and_a_name(finder: Finder, published: Published) -> None:
    run, run_id = published()
    for text in (run_id, run_id[:10], run.id, run.name, f" {run_id} "):
        assert ids(finder.side("baseline", [text])) == {run_id}


def test_what_fits_several_runs_is_refused_with_the_candidates(finder: Finder, published: Published) -> None:
    one, other = published(), published(tag={"mlflow.source.git.commit": "f" * 40})
    said = refusal(finder, one[0].name)
    assert "the name of several runs" in said
    assert one[1] in said
    assert f"{other[1]} ({other[0].name}, {other[0].started_at:%Y-%m-%d %H:%M}, commit {'f' * 12})" in said
    assert "the beginning of several" in refusal(finder, one[0].id[:8])


def test_several_runs_given_one_by_one_count_once(finder: Finder, published: Published) -> None:
    one, other = published()[1], published()[1]
    side = finder.side("baseline", [one, other, one])
    assert ids(side) == {one, other}
    assert "2 runs" in side.text


def test_a_local_record(finder: Finder, tmp_path: Path) -> None:
    run = recorded(tmp_path / "runs", passes_around(1))
    for text in (str(run.journal.path), run.id, run.id[:17]):
        (found,) = finder.side("baseline", [text]).runs
        assert isinstance(found, LocalRun)
        assert found.id == run.id


def test_a_parent_means_its_children(finder: Finder, published: Published, uri: str) -> None:
    client = MlflowClient(uri)
    parent = client.create_run("0", run_name="a sweep", tags={"ttt.kind": "sweep"}).info.run_id
    children = {published(tag={"mlflow.parentRunId": parent}, config={"batch": b})[1] for b in (1, 2)}
    # a child is looked for beside its parent
    for child in children:
        assert client.get_run(child).info.experiment_id == client.get_run(parent).info.experiment_id
    for text in (parent, "a sweep"):
        assert ids(finder.side("baseline", [text])) == children


def test_a_commit_a_tag_and_a_branch(finder: Finder, published: Published, tmp_path: Path, uri: str) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for arguments in (["init", "-q", "-b", "trunk"], ["commit", "-q", "--allow-empty", "-m", "one"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    of = {"mlflow.source.git.commit": commit}
    clean, dirty = published(tag=of)[1], published(tag={**of, "ttt.git_dirty": "true"})[1]
    for text in (commit, commit[:9], "v1", "trunk", "HEAD"):
        assert ids(finder.side("baseline", [text])) == {clean}
    MlflowClient(uri).delete_run(clean)
    side = finder.side("baseline", ["v1"])
    assert ids(side) == {dirty}
    assert "with uncommitted changes" in side.text
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "two"], check=True)
    assert "of which there is no run" in refusal(finder, "trunk")


def test_a_commit_of_local_records(tmp_path: Path) -> None:
    run = recorded(tmp_path / "runs", passes_around(1), host={**H200, "git_commit": "a" * 40})
    assert ids(Finder(None, tmp_path / "runs").side("baseline", ["a" * 8])) == {run.id}


def test_a_filter_means_all_that_fit(finder: Finder, published: Published) -> None:
    found = {published(tag={"release": "1.2"})[1] for _ in range(2)}
    published(tag={"release": "1.3"})
    assert ids(finder.side("candidate", ["tags.release = '1.2'"])) == found
    assert "fits no run" in refusal(finder, "tags.release = '9'")
    assert "MLflow does not understand it" in refusal(finder, "tags.release == == '9'")
    assert "a filter needs a store" in refusal(Finder(None, Path("runs"), no_store="there is none"), "tags.a = '1'")


def test_latest(finder: Finder, published: Published, tmp_path: Path, uri: str) -> None:
    first, second = published()[1], published()[1]
    published(status="error")
    comparison = MlflowClient(uri).create_run(
        "0", tags={"ttt.kind": "compare", "ttt.entry_point": "compare", "ttt.status": "ok"}
    )
    MlflowClient(uri).set_terminated(comparison.info.run_id)
    assert ids(finder.side("baseline", ["latest"])) == {second}
    assert ids(finder.side("baseline", ["latest~1"])) == {first}
    assert "has 2 finished runs" in refusal(finder, "latest~2")
    local = Finder(None, tmp_path / "runs")
    assert len(local.side("baseline", ["latest"]).runs) == 1


def test_runs_that_measured_nothing_take_no_part(finder: Finder, published: Published, uri: str) -> None:
    client = MlflowClient(uri)
    foreign = client.create_run("0").info.run_id
    comparison = client.create_run("0", tags={"ttt.kind": "compare"}).info.run_id
    good = published()[1]
    side = finder.side("baseline", [good, foreign, comparison])
    assert ids(side) == {good}
    assert f"baseline {foreign}: a run of another program" in side.left_out
    assert "a run of another program" in refusal(finder, foreign)
    assert "of kind compare" in refusal(finder, comparison)


@pytest.mark.parametrize("text", ["yesterday's", "0" * 32, "no'such\"run", "", "--all", "nothing at all"])
def test_what_is_no_run(finder: Finder, text: str) -> None:
    said = refusal(finder, text)
    assert said.startswith("baseline=" if text else "baseline: it is empty")
    assert "\n" not in said
    assert "give a run id, a run name" in said
