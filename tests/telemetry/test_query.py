"""A query: its spellings, its cost, and what becomes of one that is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.fake_nvml import GPU_IS_LOST, NOT_SUPPORTED, FakeNvml, NVMLError, NVMLLibraryMismatchError
from ttt_mlflow.telemetry import query as module
from ttt_mlflow.telemetry.nvml import Device
from ttt_mlflow.telemetry.query import Query, of_either, of_itself


def refuse() -> float:
    raise NVMLError(NOT_SUPPORTED)


def test_the_first_spelling_that_is_answered_is_kept() -> None:
    query = Query(FakeNvml(), "clock", "now", [("instance", refuse), ("parent GPU", lambda: 7.0), ("never", refuse)])
    assert (query.of, query.refused) == ("parent GPU", None)
    assert [query.ask(), query.ask()] == [7.0, 7.0]
    assert query.calls == 2


@pytest.mark.parametrize(
    "error", [NVMLError(NOT_SUPPORTED), NVMLLibraryMismatchError("versions differ"), AttributeError("no such function")]
)
def test_a_refused_query_is_asked_once(error: Exception) -> None:
    asked = []

    def answer() -> float:
        asked.append(1)
        raise error

    query = Query(FakeNvml(), "clock", "now", [("GPU", answer)])
    assert [query.ask(), query.ask()] == [None, None]
    assert (len(asked), query.refused, query.of, query.calls) == (1, str(error), "", 0)
    assert query.mean_us is None
    assert query.max_us is None


def test_a_fault_of_ours_is_not_taken_for_a_refusal() -> None:
    answers = iter([1.0])

    def answer() -> float:
        return next(answers, None) + 1  # type: ignore[operator]

    query = Query(FakeNvml(), "clock", "now", [("GPU", answer)])
    with pytest.raises(TypeError):
        query.ask()


def test_a_query_that_stops_answering() -> None:
    lost = [False]

    def answer() -> float:
        if lost[0]:
            raise NVMLError(GPU_IS_LOST)
        return 1.0

    query = Query(FakeNvml(), "clock", "now", [("GPU", answer)])
    assert query.ask() == 1.0
    lost[0] = True
    assert query.ask() is None
    lost[0] = False
    assert query.ask() is None
    assert query.row()["refused"] == "stopped answering after 1 answers: GPU is lost"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_cost(seconds: list[float]) -> None:
    """Mean and maximum of the answers, that of the first, which chooses the spelling, left out."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        now_s = [0.0]
        costs = iter([100.0, *seconds])

        def answer() -> float:
            now_s[0] += next(costs)
            return 1.0

        monkeypatch.setattr(module.time, "perf_counter", lambda: now_s[0])
        query = Query(FakeNvml(), "clock", "now", [("GPU", answer)])
        for _ in seconds:
            query.ask()
    assert query.calls == len(seconds)
    assert query.mean_us == pytest.approx(1e6 * sum(seconds) / len(seconds), abs=1e-3)
    assert query.max_us == pytest.approx(1e6 * max(seconds), abs=1e-3)


def test_whom_to_ask() -> None:
    instance = Device("mig handle", "MIG-1", parent="card handle")
    card = Device("card handle", "GPU-1")

    def first(handle: str) -> str:
        return f"first of {handle}"

    def second(handle: str) -> str:
        return f"second of {handle}"

    def answers(spellings: list[module.Spelling[str]]) -> list[tuple[str, str]]:
        return [(of, call()) for of, call in spellings]

    assert answers(of_either(instance, first, second)) == [
        ("instance", "first of mig handle"),
        ("instance", "second of mig handle"),
        ("parent GPU", "first of card handle"),
        ("parent GPU", "second of card handle"),
    ]
    assert answers(of_itself(instance, first)) == [("instance", "first of mig handle")]
    assert answers(of_either(card, first)) == answers(of_itself(card, first)) == [("GPU", "first of card handle")]
