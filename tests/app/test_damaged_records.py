"""Damaged records among whole ones: each is named and set aside, the rest is shown, and nothing outside is touched."""

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.compared import passes_around, recorded, recorded_micro
from tests.record.damage import SECRET, Damage, damages, is_a_folder
from ttt_mlflow import names
from ttt_mlflow.cli import cli
from ttt_mlflow.names import SYSTEM_POWER
from ttt_mlflow.record.checksums import OF_PUBLISHING
from ttt_mlflow.record.journal import LOCK, Journal

COLUMNS = "id,date,kind,status,name,throughput,batch,verdict,ttt.method,ttt.note"
AS_DATA = ("--columns", COLUMNS, "--format", "json")
POWER = SYSTEM_POWER.of(0).name
FILES = [
    *("config.json", "status.json", "params.json", "metrics.json", "tags.json", "series.json", "target.json"),
    *("published.json", "uploaded.json", "description.md", "checksums.jsonl"),
    *(f"artifacts/{one.path}" for one in (names.ARTIFACT_PASSES, names.ARTIFACT_HOST)),
]
MICRO_FILES = [*FILES[:-2], f"artifacts/{names.ARTIFACT_MICRO_SAMPLES.path}", FILES[-1]]


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A folder with two whole runs and a micro-benchmark, all with everything that a published record has."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "runs")
        for scale in (1, 2):
            fill(recorded(root, passes_around(1000 * scale, count=4), tag={"ttt.note": "a"}).journal)
        us = {("mlp_1_dual_triton", batch): [1.0, 2.0, 1.5] for batch in (1, 2)}
        fill(recorded_micro(root, us).journal)
        yield root


def fill(journal: Journal) -> None:
    journal.set_series({SYSTEM_POWER.of(0): [(1000, 0, 500.0), (2000, 1, 650.0)]})
    journal.set_description("a **run**")
    journal.set_target("sqlite:////nowhere/mlflow.db", "1" * 32, "ttt-mlflow", "1")
    journal.set_uploaded("1" * 32, {"config.json": "0" * 64})
    journal.set_published("sqlite:////nowhere/mlflow.db", "1" * 32, "1")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY":
            monkeypatch.delenv(name)


def ttt(*words: object) -> Result:
    done = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
    assert "Traceback" not in done.output
    assert SECRET not in done.output
    assert done.exit_code in (0, 2, 4, 5), (words, done.output)
    return done


def rows(done: Result) -> dict[str, dict[str, object]]:
    return {row["id"]: row for row in json.loads(done.stdout)}


def check(template: Path, micro: bool, older: bool, done: list[Damage], which: int) -> None:
    """Apply the damage to a copy of the records, and let each command read them."""
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder, "runs"), Path(folder, "outside")
        shutil.copytree(template, root)
        outside.mkdir()
        (outside / "secret").write_text(SECRET)
        first, second, third = sorted(root.iterdir())
        bad, others = (third, (first, second)) if micro else (first, (second, third))
        if older:
            make_older(bad)
        before, whole = as_it_was(template), content(bad)
        for one in done:
            one.apply(bad, outside)
        after = content(bad)
        is_known = not older and whole["checksums.jsonl"] == after.get("checksums.jsonl")
        read_all(root, bad, {one.name: before[one.name] for one in others}, which)
        # a publisher that is killed leaves the line of such a file without the file
        written = {name: kept for name, kept in whole.items() if name in after or name not in OF_PUBLISHING}
        if is_known and after != written:
            is_named_or_right(root, bad, before[bad.name])
        assert [path.name for path in outside.iterdir()] == ["secret"]
        assert (outside / "secret").read_text() == SECRET


@functools.cache
def as_it_was(template: Path) -> dict[str, dict[str, object]]:
    return rows(ttt("table", template, *AS_DATA))


LONG = "9" * 5000  # more digits than Python makes a number of
PARAMETERS = ("batch", "promptlen", "genlen")


@pytest.mark.parametrize(
    ("file", "names_of_values", "value"),
    [
        *(("params.json", PARAMETERS, value) for value in (LONG, "9" * 400, "1e999", "٣", "-1", "0")),
        *(("metrics.json", (), value) for value in (5e-324, 1.7e308)),  # all of them
        *((f"artifacts/{names.ARTIFACT_PASSES.path}", ("repeat_total_ms",), [x] * 4) for x in (5e-324, 1.7e308, -1)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_numbers_that_nobody_measures(
    file: str, names_of_values: tuple[str, ...], value: object, template: Path, tmp_path: Path
) -> None:
    """Those of a record without checksums, which another program may have written: they stop no command."""
    root = tmp_path / "runs"
    shutil.copytree(template, root)
    first, second = (path.parents[2] for path in root.glob(f"*/artifacts/{names.ARTIFACT_PASSES.path}"))
    for record in (first, second):
        make_older(record)
        metrics = json.loads((record / "metrics.json").read_text())
        (record / "metrics.json").write_text(json.dumps({**metrics, names.DECODE_STEP_MS_P99.name: 2.0}))
    content_of = json.loads((first / file).read_text())
    content_of |= dict.fromkeys(names_of_values or content_of, value)
    (first / file).write_text(json.dumps(content_of))
    assert second.name in rows(ttt("table", root, "--format", "json"))
    ttt("table", root)
    ttt("report", root, "--out", tmp_path / "report", "--formats", "html,csv")
    assert [*(tmp_path / "report").glob("*.html")]
    for form in ("text", "json", "html"):
        ttt("compare", first, second, "--include-invalid", "--format", form)


def make_older(record: Path) -> None:
    (record / "checksums.jsonl").unlink()
    status = json.loads((record / "status.json").read_text())
    del status["checksums"]
    (record / "status.json").write_text(json.dumps(status))


def content(record: Path) -> dict[str, object]:
    """What a record is: each file's content, and of all others what they are. Its lock says nothing."""
    found: dict[str, object] = {}
    for path in sorted(record.rglob("*")):
        name, mode = path.relative_to(record), path.lstat().st_mode
        if name.parts[0] != LOCK:
            found[str(name)] = path.read_bytes() if path.is_file() and not path.is_symlink() else mode
    return found


def read_all(root: Path, bad: Path, others: dict[str, object], which: int) -> None:
    """The commands show the others as they were. which: one more command that reads the records."""
    verified = ttt("record", "verify", root)
    for name in others:
        assert f"{name}: whole" in verified.stdout
    table = ttt("table", root, *AS_DATA)
    assert {name: row for name, row in rows(table).items() if name != bad.name} == others
    other = next(iter(others))
    more = [
        ("table", root, "--sort", "-throughput"),
        ("table", root, "--columns", f"id,{POWER}"),
        ("table", root, "--filter", "tags.`ttt.note` = 'a' and metrics.batch > 0"),
        ("compare", "--logdir", root, bad.name, other),
        ("compare", "--logdir", root, "latest", "latest~1"),
        ("profile-diff", bad, root / other),
        ("record", "show", bad),
        ("record", "prune", root, "--older-than", "0s", "--dry-run", "--unpublished"),
        ("record", "prune", root, "--older-than", "0s", "--dry-run", "--damaged"),
    ]
    ttt(*more[which % len(more)])


def is_named_or_right(root: Path, bad: Path, before: object) -> None:
    """A record with checksums that is not what was written: what reads all of it says so, the table if it matters."""
    assert ttt("record", "show", bad).exit_code == 4
    verified, listed, table = ttt("record", "verify", root), ttt("record", "list", root), ttt("table", root, *AS_DATA)
    assert (verified.exit_code, bad.name in verified.stderr) == (4, True)
    if listed.exit_code != 4:
        assert "as long, with other content" in verified.stderr, "only that is left to verify"
    if table.exit_code == 4:
        assert bad.name in table.stderr
    else:
        assert rows(table)[bad.name] == before


def any_damage(micro: bool) -> st.SearchStrategy[list[Damage]]:
    return st.lists(damages(MICRO_FILES if micro else FILES), min_size=1, max_size=3)


Case = tuple[bool, bool, list[Damage], int]
CASES = st.booleans().flatmap(
    lambda micro: st.tuples(st.just(micro), st.booleans(), any_damage(micro), st.integers(0, 8))
)
UNTIMED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=25, suppress_health_check=UNTIMED)
@given(case=CASES)
def test_a_damaged_record_is_named_or_read_right(template: Path, case: Case) -> None:
    check(template, *case)


def test_a_lock_that_became_a_folder_damages_nothing(template: Path) -> None:
    check(template, False, False, [Damage(LOCK, "is_a_folder", is_a_folder)], 6)


@pytest.mark.long
@settings(max_examples=2000, suppress_health_check=UNTIMED)
@given(case=CASES)
def test_2000_damaged_records(template: Path, case: Case) -> None:
    check(template, *case)
