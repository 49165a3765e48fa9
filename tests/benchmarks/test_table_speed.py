"""The records that the benchmark makes are what a table reads."""

from pathlib import Path

from benchmarks.table_speed import make_record
from ttt_mlflow.names import DECODE_TOKENS_PER_S, TAG_KIND
from ttt_mlflow.record.run_row import find_records, local_row


def test_records_with_and_without_the_tag_of_the_kind(tmp_path: Path) -> None:
    for number in (0, 1):
        make_record(tmp_path, number)
    runs = find_records(tmp_path)[0]
    assert sorted(TAG_KIND.name in run.tags for run in runs) == [False, True]
    for run in runs:
        row = local_row(run)
        assert (row.kind, row.status) == ("decode", "ok")
        assert DECODE_TOKENS_PER_S.name in row.metrics
