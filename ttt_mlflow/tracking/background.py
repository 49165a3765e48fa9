"""The process that talks to MLflow for a run, started by :class:`ttt_mlflow.tracking.publisher.Publisher`.

It imports MLflow while the run imports PyTorch. Its requests come as JSON lines on its standard input, and its answers
go as JSON lines to its standard output. Between two requests it waits: it computes nothing and sends nothing. It ends
when its input closes, so also when the run was killed.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ttt_mlflow.errors import TTTError, one_line
from ttt_mlflow.record.fault_file import place_of
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.redaction import without_secrets
from ttt_mlflow.tracking import begin, publish, sweeps
from ttt_mlflow.tracking.progress import Moved, bytes_left
from ttt_mlflow.tracking.store import QUIET, check_tracking
from ttt_mlflow.tracking.takeover import Candidate

LOOK_S = 0.25  # between two looks at what moved
LOW_PRIORITY = 10  # added to the niceness, while profiling goes on
# A probe on an idle connection would be sent in the measured section too.
NO_PROBES = {"MLFLOW_HTTP_TCP_KEEPALIVE": "false"}


class Worker:
    """Carries out one request after the other. ``answers``: where the answers go.

    is_a_process: whether it has this process for itself.
    """

    is_a_process = False

    def __init__(self, answers: IO[str]) -> None:
        self._answers, self._writing = answers, threading.Lock()
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._awaited: int | None = None  # the newest request for which the run waits
        self._record: Path | None = None

    def read(self, lines: IO[str]) -> None:
        """Take requests until the input closes, then end the process, whatever it does."""
        for line in lines:
            request = json.loads(line)
            if request["awaited"]:
                self._awaited = request["id"]
            self._requests.put(request)
        os._exit(0)

    def work(self) -> None:
        """Import MLflow, then answer the requests in turn."""
        import mlflow

        self._write({"ready": mlflow.__version__})
        while True:
            request = self._requests.get()
            with _watched(self._tell_moved):
                answer = self._answer(request)
            if request["id"] == self._awaited:
                self._awaited = None
            self._write({"id": request["id"], **answer})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"done": ACTIONS[request["do"]](self, request["with"])}
        except TTTError as error:
            return {"failed": type(error).__name__, "message": str(error)}
        except Exception as error:  # a fault of ours: the run says so and keeps its record
            said = f"unexpected error: {without_secrets(one_line(error))}{place_of(error)}"
            return {"failed": "", "message": said}

    def _tell_moved(self, moved: Moved) -> None:
        """Nothing is told while nobody reads it: the pipe would fill up."""
        if moved.look() and self._awaited is not None:
            left = bytes_left(self._record) if self._record else 0
            self._write({"sent": moved.sent, "left": left})

    def _write(self, answer: dict[str, Any]) -> None:
        with self._writing:
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()

    def _go_behind(self) -> None:
        """Lower the priority of this process, once: a sweep asks after each of its runs."""
        if self.is_a_process and os.nice(0) < LOW_PRIORITY:
            os.nice(LOW_PRIORITY)

    # What can be asked

    def begin(self, asked: dict[str, Any]) -> dict[str, Any]:
        candidate = Candidate(**asked["candidate"]) if asked["candidate"] else None
        journal = Journal.open(asked["record"])
        begun = begin.begin(journal, asked["uri"], candidate, asked["experiment_name"], asked["alive_s"])
        return asdict(begun)

    def check(self, asked: dict[str, Any]) -> str | None:
        return begin.is_for_this_process(asked["uri"], Candidate(**asked["candidate"]))

    def reject(self, asked: dict[str, Any]) -> str | None:
        candidate = Candidate(**asked["candidate"])
        reason = begin.is_for_this_process(asked["uri"], candidate)
        if reason is None:
            publish.reject_run(candidate.run_id, asked["uri"], asked["message"], asked["status"])
        return reason

    def publish_so_far(self, asked: dict[str, Any]) -> None:
        self._go_behind()
        publish.publish_so_far(Journal.open(asked["record"]), asked["uri"])

    def publish(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._record = Path(asked["record"])
        journal, uri = Journal.open(self._record), asked["uri"]
        candidate = asked["candidate"]  # not None: the server was not there when the run began
        taken_over = bool(candidate) and begin.take_over(journal, uri, Candidate(**candidate))
        published = publish.publish(journal, uri, experiment_name=asked["experiment_name"])
        return {"published": asdict(published), "taken_over": taken_over}

    # Of a sweep

    def answers(self, asked: dict[str, Any]) -> str | None:
        return check_tracking(asked["uri"])

    def find_sweep(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        found = sweeps.find_sweep(asked["uri"], asked["experiment_name"], asked["sweep_id"])
        return asdict(found) if found else None

    def resume_sweep(self, asked: dict[str, Any]) -> None:
        sweeps.resume_sweep(Journal.open(asked["record"]), asked["uri"], asked["alive_s"])

    def tell_resumption(self, asked: dict[str, Any]) -> None:
        sweeps.tell_resumption(**asked)


ACTIONS: dict[str, Callable[[Worker, dict[str, Any]], Any]] = {
    "begin": Worker.begin,
    "check": Worker.check,
    "reject": Worker.reject,
    "publish_so_far": Worker.publish_so_far,
    "publish": Worker.publish,
    "answers": Worker.answers,
    "find_sweep": Worker.find_sweep,
    "resume_sweep": Worker.resume_sweep,
    "tell_resumption": Worker.tell_resumption,
}


class _watched:
    """Calls ``tell`` in a thread, several times a second, until the block ends."""

    def __init__(self, tell: Callable[[Moved], None]) -> None:
        self._tell, self._ended, self._moved = tell, threading.Event(), Moved()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._tell(self._moved)


def main() -> None:
    # what libraries print must not get between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for name, value in (QUIET | NO_PROBES).items():
        os.environ.setdefault(name, value)
    worker = Worker(answers)
    worker.is_a_process = True
    threading.Thread(target=worker.read, args=(sys.stdin,), daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
