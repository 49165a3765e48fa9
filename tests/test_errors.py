"""A block that no signal cuts in two."""

import signal
import threading
from collections.abc import Iterator

import pytest

from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.errors import Killed, Uninterrupted


@pytest.fixture(autouse=True)
def _keyboard() -> Iterator[None]:
    """As in a terminal. A shell lets a command in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(signum: int, done: list[str], failure: Exception | None = None) -> None:
    """Two blocks, one within the other; the signal comes in the inner one."""
    with Uninterrupted():
        with Uninterrupted():
            signal.raise_signal(signum)
            done.append("inner")
        done.append("outer")
        if failure:
            raise failure


def test_a_signal_comes_at_the_end_of_the_outermost_block() -> None:
    done: list[str] = []
    with SignalHandler(), pytest.raises(Killed, match="SIGTERM"):
        interrupted(signal.SIGTERM, done)
    assert done == ["inner", "outer"]


def test_a_keyboard_interrupt_too_and_python_has_its_handler_again() -> None:
    done: list[str] = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted(signal.SIGINT, done)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with Uninterrupted():
        done.append("nothing waits any more")
    assert done == ["inner", "outer"] * 2 + ["nothing waits any more"]


def test_the_signal_before_the_failure_of_the_block() -> None:
    with SignalHandler(), pytest.raises(Killed):
        interrupted(signal.SIGTERM, [], OSError())


def test_the_block_of_another_thread_holds_nothing_up() -> None:
    begun, ends = threading.Event(), threading.Event()

    def block() -> None:
        with Uninterrupted():
            begun.set()
            ends.wait()

    thread = threading.Thread(target=block)
    thread.start()
    begun.wait()
    try:
        with SignalHandler(), pytest.raises(Killed):
            signal.raise_signal(signal.SIGTERM)
        assert not ends.is_set()
    finally:
        ends.set()
        thread.join()
