"""One profiling pass: what goes wrong in it is a line, and a signal says what it cut short."""

import errno
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from ttt_mlflow.errors import Killed, RunFailed, request_stop
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run.attempt import after_the_measurement, attempt_pass


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path, {})


Attempt = Callable[[Callable[[], None]], str | None]


@pytest.fixture
def attempt(journal: Journal) -> Attempt:
    return partial(attempt_pass, "torch", journal, torch.device("cpu"))


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_a_pass_that_succeeds(attempt: Attempt) -> None:
    ran: list[str] = []
    assert attempt(lambda: ran.append("pass")) is None
    assert ran == ["pass"]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RunFailed("profile=torch: no kernel"), "profile=torch: no kernel"),
        (RunFailed("no kernel"), "profile=torch: no kernel"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "profile=torch: cannot be written (No space left on device); free some space in LOGDIR and profile again",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "profile=torch: cannot be written (Disk quota exceeded); free some space in LOGDIR and profile again",
        ),
        (OSError(errno.ENOENT, "gone", "/nsys"), "profile=torch: FileNotFoundError: [Errno 2] gone: '/nsys'"),
        (ValueError("no\nsense"), "profile=torch: ValueError: no sense"),
        (torch.OutOfMemoryError("CUDA"), "profile=torch: out of memory: the profiling pass does not fit"),
    ],
)
def test_what_goes_wrong(error: BaseException, problem: str, attempt: Attempt, journal: Journal) -> None:
    assert attempt(raising(error)) == problem.replace("LOGDIR", str(journal.path.parent))


def test_a_signal_says_what_it_cut_short(attempt: Attempt) -> None:
    with pytest.raises(Killed) as ended:
        attempt(raising(Killed(signal.SIGINT)))
    assert str(ended.value) == "SIGINT during profile=torch, after a complete measurement"


def test_a_signal_that_got_lost_in_the_pass(attempt: Attempt) -> None:
    """As where it came in a destructor, and Python dropped what its handler raised."""

    def lost() -> None:
        with suppress(Killed):
            request_stop(Killed(signal.SIGTERM))

    try:
        with pytest.raises(Killed, match="SIGTERM during profile=torch"):
            attempt(lost)
    finally:
        request_stop(None)


def test_a_signal_between_two_passes() -> None:
    with pytest.raises(Killed) as ended, after_the_measurement("while profiling"):
        raise Killed(signal.SIGINT)
    assert str(ended.value) == "SIGINT while profiling, after a complete measurement"


def test_what_is_known_more_exactly_stands(attempt: Attempt) -> None:
    with pytest.raises(Killed, match="SIGINT during profile=torch"), after_the_measurement("while profiling"):
        attempt(raising(Killed(signal.SIGINT)))
