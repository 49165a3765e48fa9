"""What a table asks a store, without one: which searches, in which order, and how many runs it reads."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from ttt_mlflow.app.store_rows import Question, SortKey, questions, read_rows
from ttt_mlflow.report.columns import column
from ttt_mlflow.tracking.filters import RunFilter
from ttt_mlflow.tracking.query import Store


class Empty:
    """A store without runs, which notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sequence[str], int]] = []

    def each(self, condition: str, experiment_name: str | None, order_by: Sequence[str], page: int) -> Iterator[Any]:
        self.asked.append((condition, order_by, page))
        return iter(())


def keys(*words: str) -> list[SortKey]:
    return [SortKey(column(word.lstrip("-")), word.startswith("-")) for word in words]


def stored(found: Sequence[Question]) -> list[Question]:
    return [one for one in found if one.decided]


def test_the_server_decides_what_runs_of_version_0_1_lack() -> None:
    text = "tags.ttt.kind = 'prefill' and metrics.batch >= 512 and params.dtype = 'float16'"
    first, *others = questions(RunFilter(text), keys("-date"))
    assert first.condition.endswith(text)
    assert first.decided
    assert [one.decided for one in others] == [False, False]
    assert all("batch" not in one.condition and "dtype" in one.condition for one in others)


def test_the_server_sorts_by_throughput_of_each_kind() -> None:
    found = stored(questions(None, keys("-throughput", "date")))
    assert [one.order for one in found] == [
        ("metrics.`decode_tokens_per_s` DESC", "attributes.start_time ASC"),
        ("metrics.`prefill_tokens_per_s` DESC", "attributes.start_time ASC"),
        ("attributes.start_time ASC",),
    ]
    assert [one.comes_last for one in found] == [False, False, True]


def test_the_server_sorts_by_a_size_only_the_runs_that_have_it() -> None:
    first, *others = questions(None, keys("batch"))
    assert first.order == ("metrics.`batch` ASC",)
    assert [one.order for one in others] == [None, None]


def test_a_parameter_is_sorted_here() -> None:
    assert {one.order for one in questions(None, keys("model"))} == {None}


def test_a_limited_table_asks_for_little() -> None:
    store = Empty()
    assert read_rows(cast(Store, store), None, None, keys("-date"), 20, lambda read: None) == ([], False)
    assert [page for _, _, page in store.asked] == [21, 21, 21]
