"""The process of one cell: measures it and records it on disk. Started by the executor ``process``.

Its task comes as a line of JSON on its standard input, which then stays open as long as the sweep lives: when it
closes, because the sweep was killed, this process stops and records what it has measured. It answers on its standard
output, a line of JSON each: where the record is, and why there is none.
"""

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import IO, Any, NoReturn

from ttt_mlflow.app.output import guard_output, open_output
from ttt_mlflow.app.signals import SignalHandler
from ttt_mlflow.errors import FAULT, BadInput, Killed, one_line


def main() -> int:
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    open_output()
    guard_output()
    with SignalHandler() as signals:
        try:
            asked = json.loads(sys.stdin.readline())
            _take_share(asked.pop("share", None))
            threading.Thread(target=_stop_at_the_end_of, args=(sys.stdin,), daemon=True).start()
            return _measure(asked, answers)
        except BadInput as error:
            signals.stopping = True
            _tell(answers, reason=" ".join(str(error).splitlines()))
            return error.exit_code
        except Killed as killed:
            return killed.exit_code
        except Exception as error:
            signals.stopping = True
            traceback.print_exc()
            _tell(answers, reason=one_line(error))
            return FAULT


def _take_share(share: dict[str, Any] | None) -> None:
    """Pin this process, which has no other thread yet, to its share of the host; None: it has none."""
    if share is None:
        return
    from ttt_mlflow.telemetry.host_shares import HostShare
    from ttt_mlflow.telemetry.pinning import pin

    pin(HostShare.of_json(share))
    if (
        share["threads"] and "torch" in sys.modules
    ):  # a fork: PyTorch has read the environment of the process that it was forked from
        sys.modules["torch"].set_num_threads(share["threads"])


def _measure(asked: dict[str, Any], answers: IO[str]) -> int:
    from rich.console import Console

    from ttt_mlflow.app.job import process_age_s
    from ttt_mlflow.app.sweep.task import Task, measure_task

    imports_s = process_age_s()
    console = Console(stderr=True)
    done = measure_task(Task.of_json(asked), lambda record: _tell(answers, record=str(record.path)), console, imports_s)
    return done.failure.exit_code if done.failure else 0


def _tell(answers: IO[str], **what: str) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _stop_at_the_end_of(stream: IO[str]) -> None:
    while stream.read(1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end(code: int) -> NoReturn:
    """End this process at once: all is recorded and told, and the next cell waits for the GPU.

    Else Python would wait for the compiler's workers and take the model apart, for seconds. The workers end by
    themselves when they miss this process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main())
