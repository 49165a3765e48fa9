"""Measures cells on a Ray cluster: each is a task that takes one GPU, and hands back the record itself.

Ray decides which GPU takes which cell, and repeats the cells of a node that died elsewhere. The record comes back
packed and is checked, so that a node or a tracking server that is lost costs no measurement that was finished.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from ttt_mlflow.app.output import print_error
from ttt_mlflow.app.sweep.check import Checked, check_run
from ttt_mlflow.app.sweep.executors import CPU, Ended
from ttt_mlflow.app.sweep.executors.process import PATIENCE_S, ProcessExecutor
from ttt_mlflow.app.sweep.grid import Cell
from ttt_mlflow.app.sweep.task import Task
from ttt_mlflow.errors import BadInput, DamagedRecord
from ttt_mlflow.record.packed import pack, unpack
from ttt_mlflow.telemetry.code import code_id
from ttt_mlflow.telemetry.gpus import Gpu

if TYPE_CHECKING:
    import ray

LOCAL = "local"  # Ray's own word for a cluster of this host alone, which ends with this process
ANSWERS_WITHIN_S = 5.0  # a cluster at an address
LOOK_S = 1.0  # between two looks of a task at its process
REPEATED = 5  # how often a cell is repeated whose node has died
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is sent to other hosts


class RayExecutor:
    """See :class:`ttt_mlflow.app.sweep.executors.Executor`. address: of the cluster; None: this host alone.

    On a cluster with GPUs each cell takes one, whatever its device; on one without, a CPU.
    """

    queues = True

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._tasks: dict[ray.ObjectRef[Any], Task] = {}
        self._found: list[Mapping[str, Any]] = []  # what each node of the cluster says of itself

    @property
    def gpus(self) -> Sequence[Gpu]:
        return []  # Ray chooses them, on all hosts of the cluster

    def __enter__(self) -> Self:
        self._ray = _connected(self._address)
        try:
            resources = self._ray.cluster_resources()
            self._gpus = int(resources.get("GPU", 0))
            self._slots = self._gpus or int(resources.get("CPU", 1))
            self._needs: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if self._gpus else {"num_cpus": 1}
            self._found = self._look_at_nodes()
            self._desk = self._ray.remote(num_cpus=0)(_Desk).options(scheduling_strategy=self._here()).remote()
        except BaseException:  # raised again: whatever ended it, Ctrl-C too, Ray is not left running
            self._ray.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._tasks:
            self._ray.cancel(reference)
        self._ray.shutdown()

    @property
    def width(self) -> int:
        return max(1, self._slots)

    @property
    def gpu_names(self) -> Sequence[str]:
        names = [name for node in self._found for name in node["gpus"]]
        return list(dict.fromkeys(names)) or [CPU]

    def prepare(self) -> None:
        pass

    def check(self, cells: Sequence[Cell]) -> list[Checked]:
        totals = [size for node in self._found for size in node["totals"]]
        asked = [(_with_whole_paths(cell.config), cell.asks_largest) for cell in cells]
        checked = self._remote(_check)(asked, min(totals, default=None))
        try:
            found: list[Checked] = self._ray.get(checked)
        except self._ray.exceptions.RayError as error:
            raise BadInput(
                f"executor=ray: the cells could not be checked on the cluster ({_first_line(error)}); `ray status` on "
                "the head node shows the cluster"
            ) from None
        # paths stay as they were given: they are a part of what identifies a cell
        return [
            replace(one, config=one.config.model_copy(update={"checkpoint": cell.config.checkpoint}))
            for one, cell in zip(found, cells, strict=True)
        ]

    def start(self, task: Task) -> None:
        sent = replace(task, cell=replace(task.cell, config=_with_whole_paths(task.cell.config)))
        self._tasks[self._remote(_measure)(sent.as_json(), self._desk)] = task

    def running(self) -> list[tuple[Task, str]]:
        self._tell_lost_nodes()
        try:
            places: dict[str, str] = self._ray.get(self._desk.places.remote(), timeout=ANSWERS_WITHIN_S)
        except self._ray.exceptions.RayError:
            return []
        return [(task, places[task.key]) for task in self._tasks.values() if task.key in places]

    def wait(self, seconds: float) -> list[Ended]:
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._ended(reference) for reference in ready]

    def stop(self, signum: int) -> list[Ended]:
        begun = {task.key for task, _ in self.running()}
        for reference in self._tasks:
            self._ray.cancel(reference)
        if self._tasks:
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=PATIENCE_S + ANSWERS_WITHIN_S)
        try:
            kept: dict[str, dict[str, Any]] = self._ray.get(self._desk.taken.remote(), timeout=ANSWERS_WITHIN_S)
        except self._ray.exceptions.RayError:
            kept = {}
        stopped = [task for task in self._tasks.values() if task.key in begun]
        self._tasks.clear()
        return [self._unpacked(task, kept[task.key]) for task in stopped if task.key in kept]

    def _ended(self, reference: "ray.ObjectRef[Any]") -> Ended:
        task = self._tasks.pop(reference)
        try:
            return self._unpacked(task, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Ended(task, "the cluster", None, f"its task on the cluster failed: {_first_line(error)}")

    @staticmethod
    def _unpacked(task: Task, answer: Mapping[str, Any]) -> Ended:
        place, data, reason = answer["place"], answer["record"], answer["reason"]
        try:
            return Ended(task, place, unpack(data, task.logdir) if data else None, reason)
        except DamagedRecord as error:
            return Ended(task, place, None, str(error))

    def _remote(self, function: Callable[..., Any]) -> Callable[..., "ray.ObjectRef[Any]"]:
        """``function`` as a task in a worker of its own, which ends with it."""
        made: Callable[..., ray.ObjectRef[Any]] = self._ray.remote(max_calls=1, max_retries=REPEATED, **self._needs)(
            function
        ).remote
        return made

    def _tell_lost_nodes(self) -> None:
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        for node_id in self._nodes.keys() - alive:
            host = self._nodes.pop(node_id)
            print_error(f"Note: a node on {host} has left the cluster; Ray measures its runs on another one")

    def _here(self) -> Any:
        """The node of this process, however busy it is. On another one, what knows the cells' places would be lost with
        that node, and with it all cells that follow."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)

    def _look_at_nodes(self) -> list[Mapping[str, Any]]:
        """What each node that can take a cell says of itself. Raises BadInput for one without this project's code."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        kind = "GPU" if self._gpus else "CPU"  # what a cell takes
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get(kind)]
        self._nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}
        look = self._ray.remote(num_cpus=0, max_calls=1)(_look_function())
        asked = {
            node["NodeID"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for node in nodes
        }
        found = []
        for node in nodes:
            name = node["NodeManagerHostname"]
            try:
                answer = self._ray.get(asked[node["NodeID"]])
            except self._ray.exceptions.RayError as error:
                raise BadInput(
                    f"executor=ray: the host {name} does not run Python tasks ({_first_line(error)}); install the "
                    "project there, with Ray, or take the host out of the cluster"
                ) from None
            if fault := _fault_of(name, answer):
                raise BadInput(f"executor=ray: {fault}")
            found.append(answer)
        return found


class _Desk:
    """An actor that knows where each cell is measured, and keeps the records of cells that were stopped."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        self._kept: dict[str, dict[str, Any]] = {}

    def began(self, key: str, place: str) -> None:
        self._places[key] = place

    def keep(self, key: str, answer: dict[str, Any]) -> None:
        self._kept[key] = answer

    def places(self) -> dict[str, str]:
        return self._places

    def taken(self) -> dict[str, dict[str, Any]]:
        return self._kept


def _measure(value: Mapping[str, Any], desk: Any) -> dict[str, Any]:
    """Measure a cell on this node, in a process of its own, and hand back its record."""
    import ray

    key = value["key"]
    ids = ",".join(map(str, ray.get_gpu_ids()))
    place = f"{socket.gethostname()}, {f'GPU {ids}' if ids else CPU}"
    with tempfile.TemporaryDirectory(prefix="ttt-mlflow-cell-") as folder:
        task = replace(Task.of_json(value), logdir=Path(folder))
        # its GPU is the one that Ray leaves in CUDA_VISIBLE_DEVICES
        with ProcessExecutor([], forks=False) as executor:
            executor.start(task)
            ray.get(desk.began.remote(key, place))
            try:
                while not (ended := executor.wait(LOOK_S)):
                    pass
            except KeyboardInterrupt:  # the sweep is stopped: Ray gives back nothing of a task that was canceled
                for one in executor.stop(signal.SIGINT):
                    ray.get(desk.keep.remote(key, _answer(one, place)))
                raise
            return _answer(ended[0], place)


def _answer(ended: Ended, place: str) -> dict[str, Any]:
    return {"place": place, "record": pack(ended.record) if ended.record else None, "reason": ended.reason}


def _check(asked: Sequence[tuple[Any, bool]], total_bytes: int | None) -> list[Checked]:
    return [check_run(config, asks_largest, total_bytes) for config, asks_largest in asked]


def _look_function() -> Callable[[], dict[str, Any]]:
    """A function that Ray sends whole: the host that it runs on may not have this package."""

    def look() -> dict[str, Any]:
        import os
        import sys

        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # of a task without GPUs, that hides them all
        try:
            from ttt_mlflow.telemetry.code import code_id
            from ttt_mlflow.telemetry.gpus import visible_gpus
        except ImportError as error:
            return {"lacks": str(error), "python": sys.executable}
        gpus = visible_gpus()
        return {"code": code_id(), "gpus": [gpu.name for gpu in gpus], "totals": [gpu.total_bytes for gpu in gpus]}

    return look


def _fault_of(name: str, answer: Mapping[str, Any]) -> str | None:
    """Why the host ``name`` cannot measure, by its answer to :func:`_look_function`; None if it can."""
    if "lacks" in answer:
        install = f"{answer['python']} -m pip install"
        return f"the host {name} lacks the project ({answer['lacks']}); install the same version there: {install}"
    if answer["code"] != code_id():
        return (
            f"the host {name} has other code of the project (ttt.code_id {answer['code']}, here {code_id()}); bring "
            "the same code to all hosts"
        )
    return None


def _connected(address: str | None) -> Any:
    """Ray, connected to the cluster. Raises BadInput, in one line, without Ray and without a cluster at ``address``."""
    try:
        import ray
    except ImportError:
        raise BadInput(
            f"executor=ray: Ray is not installed; {sys.executable} -m pip install 'ttt-mlflow[ray]' installs it"
        ) from None
    if address:
        _knock(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address or LOCAL, log_to_driver=False, logging_level=logging.CRITICAL, include_dashboard=None)
        _say_nothing(ray)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        shown = f"address={address}: no Ray cluster answers there" if address else "executor=ray: Ray does not start"
        raise BadInput(f"{shown} ({_first_line(error)}); `ray status` on the head node shows the cluster") from None
    finally:
        for signum, handler in handlers.items():  # Ray puts its own in their place
            with suppress(ValueError):  # not in the main thread
                signal.signal(signum, handler)
    return ray


def _say_nothing(ray: Any) -> None:
    """Keep Ray's pages about a node that died off the output: :class:`RayExecutor` says it in a line."""
    worker: Any = getattr(ray._private, "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, ignore_prefix: None


def _knock(address: str) -> None:
    """Raise BadInput unless something listens at ``address``. Ray itself would try for minutes."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise BadInput(
            f"address={address}: not the address of a Ray cluster; give host:port, or auto on one of its hosts"
        )
    try:
        socket.create_connection((host, port), timeout=ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise BadInput(
            f"address={address}: no Ray cluster answers there ({error}); `ray status` on its head shows it"
        ) from None


def _with_whole_paths(config: Any) -> Any:
    """A relative path means one on this host, in the current folder; a task runs in another."""
    return config.model_copy(update={"checkpoint": os.path.abspath(config.checkpoint)}) if config.checkpoint else config


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
