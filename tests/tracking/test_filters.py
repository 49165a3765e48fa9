"""A filter means the same on records and on the runs that they become."""

from pathlib import Path

import pytest

from tests.catalog import metrics, tags
from tests.project import new_store
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.record.run_row import find_records, local_row, store_row
from ttt_mlflow.tracking.filters import RunFilter
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.query import open_store

FILTERS = [
    "metrics.decode_tokens_per_s > 100",
    "metrics.decode_tokens_per_s != 200",
    "metrics.batch >= 8",  # no run of version 0.1 has it
    "metrics.batch >= 8 and params.model_name = 'ttt-125m' AND tags.`ttt.verdict` = 'valid'",
    "metrics.genlen < 100",
    "tags.ttt.kind = 'prefill'",
    "tags.ttt.kind != 'prefill'",
    "tags.ttt.kind IS NULL",
    "tags.ttt.method = '1'",
    "tags.note IS NOT NULL",
    "tags.note IS NULL and metrics.batch > 1",
    'tags.note = "it\'s"',
    'tags.note = "it\'s" and metrics.batch > 1',
    "tags.note LIKE 'IT%'",
    "tags.note ILIKE 'IT%'",
    "params.batch = '8'",
    "params.batch != '8'",
    "params.model_name LIKE 'ttt-1%'",
    "attributes.status = 'FAILED'",
    "status != 'FINISHED'",
    "attributes.run_name LIKE '%b8 %'",
    "run_name = 'nothing'",
    "start_time > 0",
    "attributes.end_time > 1500000000000",
    "tags.ttt.journal_id LIKE '2%'",
    "dataset.name = 'mine'",
]


def make_record(root: Path, batch: int, mode: str, status: str, note: str | None) -> Journal:
    config = RunConfig.parse({"model_name": "ttt-125m", "batch": batch, "mode": mode, "genlen": 16, "inner_net": "x"})
    journal = Journal.create(root, config.model_dump(mode="json"))
    journal.set_used(config.model_dump(mode="json"))
    journal.update_params(config.as_params())
    journal.update_metrics(metrics({f"{mode}_tokens_per_s": 100.0 * batch}))
    journal.update_tags(tags({"ttt.verdict": "valid", **({"note": note} if note else {})}))
    journal.set_status(status)
    return journal


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Records as version 0.1 left them, and the store that has them."""
    root = tmp_path_factory.mktemp("published")
    store = new_store(root)
    for values in [(1, "decode", "ok", None), (8, "decode", "oom", "it's"), (64, "prefill", "ok", "It is")]:
        publish(make_record(root / "runs", *values), store)
    return root / "runs", store


@pytest.mark.parametrize("text", FILTERS)
def test_records_and_runs_fit_alike(text: str, published: tuple[Path, str]) -> None:
    folder, uri = published
    condition = RunFilter(text)
    here = {row.id for row in map(local_row, find_records(folder)[0]) if condition.fits(row)}
    with open_store(uri) as store:
        rows = [store_row(run) for run in store.search(condition.for_server)]
        there = {row.tags["ttt.journal_id"] for row in rows if row and condition.fits_from_server(row)}
    assert here == there


def test_filters_that_fit_some_runs_and_not_others(published: tuple[Path, str]) -> None:
    """So that agreement is not agreement on nothing."""
    rows = [local_row(run) for run in find_records(published[0])[0]]
    for text, count in [("metrics.batch >= 8", 2), ("tags.ttt.kind = 'prefill'", 1), ("tags.note LIKE 'it%'", 1)]:
        assert sum(RunFilter(text).fits(row) for row in rows) == count, text


def test_a_server_decides_what_it_stores(published: tuple[Path, str]) -> None:
    assert RunFilter("params.batch = '8'").for_server == "params.batch = '8'"
    assert RunFilter("tags.ttt.kind = 'micro' and params.batch = '8'").for_server == "parameter.`batch` = '8'"
    assert RunFilter("metrics.batch > 3").for_server == ""
    assert RunFilter("tags.ttt.kind = 'micro'").names_kind
    assert not RunFilter("params.kind = 'micro'").names_kind


@pytest.mark.parametrize("text", ["batch", "metrics.batch > 'x'", "params.batch = 8", "a = 1 or b = 2", "(", "tags."])
def test_what_mlflow_does_not_understand(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        RunFilter(text)
    assert str(refused.value).startswith(f"filter={text}: MLflow does not understand it (")
    assert "\n" not in str(refused.value)
