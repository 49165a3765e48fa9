"""Starts ``ttt-mlflow sweep``: first the processes that import MLflow and PyTorch, then what imports PyTorch itself.

On a host with cores to spare, all of them import at once. So nothing here imports PyTorch, and nor do the executors
before they are asked.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ttt_mlflow.app.publishing import Destination
from ttt_mlflow.app.signals import ParentRun, SignalHandler
from ttt_mlflow.app.sweep.executors import Executor
from ttt_mlflow.app.sweep.publication import SweepPublishing
from ttt_mlflow.config import SweepConfig
from ttt_mlflow.errors import BadInput


@dataclass(frozen=True)
class AskedSweep:
    """``sweep`` as it was asked for."""

    config: SweepConfig
    dry_run: bool


def run_sweep(parse: Callable[[], AskedSweep], destination: Destination) -> int:
    """Carry out the sweep and return the exit code. Raises BadInput and Killed if nothing has been measured yet."""
    parent = ParentRun.of_this_process()
    with SignalHandler() as signals, SweepPublishing(destination, parent) as publishing, publishing.telling(signals):
        asked = parse()
        with open_executor(asked.config) as executor:
            if not asked.dry_run:
                executor.prepare()
                publishing.prepare()
            from ttt_mlflow.app.sweep.command import carry_out

            return carry_out(asked.config, asked.dry_run, destination.logdir, executor, publishing, signals)


def open_executor(config: SweepConfig) -> Executor:
    """The executor that ``config`` names. Raises BadInput for an option that it has no use for, and for no such GPU."""
    if config.gpus and config.executor != "process":
        raise BadInput(f"gpus={','.join(config.gpus)}: executor={config.executor} chooses its GPU itself; omit gpus")
    if config.address and config.executor != "ray":
        raise BadInput(f"address={config.address}: executor={config.executor} uses no Ray cluster; omit address")
    if config.exclusive and config.executor != "process":
        why = "measures one run at a time" if config.executor == "inline" else "shares the hosts of a cluster itself"
        raise BadInput(f"exclusive=true: executor={config.executor} {why}; omit exclusive")
    if config.any_gpu and config.executor == "ray":
        raise BadInput("any_gpu=true: executor=ray chooses the GPUs of the cluster itself; omit any_gpu")
    if config.executor == "ray":
        from ttt_mlflow.app.sweep.executors.ray import RayExecutor

        return RayExecutor(config.address)
    if config.executor == "inline":
        from rich.console import Console

        from ttt_mlflow.app.sweep.executors.inline import InlineExecutor

        return InlineExecutor(Console(stderr=True))
    from ttt_mlflow.app.sweep.executors.process import ProcessExecutor, chosen_gpus

    return ProcessExecutor([] if config.device == "cpu" and not config.gpus else chosen_gpus(config.gpus))
