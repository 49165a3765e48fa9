"""Which choices make a decode step as one kernel fastest? `python -m benchmarks.step_tuning`

For both inner nets and some batches of ttt-1b, random weights, fp16: milliseconds a step with each Tuning, the median
of some repetitions in turns, and how far its logits are from the first one's. The kernels are compiled first,
several at a time. Needs a GPU.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, fields
from multiprocessing import get_context
from statistics import median

import click
import torch

from ttt_mlflow.kernels.persistent.launch import PersistentStep, Tuning
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import PERSISTENT, build

NETS = ("mlp_1_dual_triton", "mlp_2_dual_triton")
STEPS, TURNS = 100, 5
CHOICES = {
    1: [Tuning(True, 512, 512, 4), Tuning(True, 512, 512, 2), Tuning(True, 512, 1024, 2), Tuning(True, 1024, 1024, 2),
        Tuning(False, 512, 512, 4)],
    2: [Tuning(True, 512, 512, 4), Tuning(True, 512, 512, 2), Tuning(False, 512, 512, 4)],
    8: [Tuning(False, 512, 512, 4), Tuning(False, 512, 512, 2)],
    16: [Tuning(False, 512, 512, 4), Tuning(False, 512, 512, 2), Tuning(False, 512, 1024, 2)],
}  # fmt: skip


def model_of(inner_net: str) -> TTTModel:
    return build(
        ModelRequest("ttt-1b", inner_net, torch.float16, torch.device("cuda"), 0, None, decode_path=PERSISTENT)
    )


def prepared(model: TTTModel, batch: int, tuning: Tuning) -> tuple[PersistentStep, torch.Tensor]:
    fed = torch.arange(batch, dtype=torch.int64, device="cuda")
    return PersistentStep(model.step_tensors(model.new_state(batch)), batch, tuning=tuning), fed


def compile_one(inner_net: str, batch: int, tuning: Tuning) -> None:
    step, fed = prepared(model_of(inner_net), batch, tuning)
    step(fed, fed)
    torch.cuda.synchronize()


def milliseconds(step: PersistentStep, fed: torch.Tensor) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(STEPS):
        step(fed, fed)
    end.record()
    torch.cuda.synchronize()
    step.check()
    return start.elapsed_time(end) / STEPS


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.option("--batches", default="1,2,8,16", show_default=True, help="Batches, comma-separated.")
@click.option("--inner-nets", default=",".join(NETS), show_default=True, help="Inner nets, comma-separated.")
def main(batches: str, inner_nets: str) -> None:
    for value, name, known in ((batches, "--batches", map(str, CHOICES)), (inner_nets, "--inner-nets", NETS)):
        if unknown := set(value.split(",")) - set(choices := list(known)):
            raise click.BadParameter(f"{', '.join(sorted(unknown))}; it takes {', '.join(choices)}", param_hint=name)
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA GPU was found; the choices are about a GPU's time")
    nets, sizes = inner_nets.split(","), [int(one) for one in batches.split(",")]
    workers = min(12, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        compiled = [
            pool.submit(compile_one, net, batch, one) for net in nets for batch in sizes for one in CHOICES[batch]
        ]
        for done in compiled:
            done.result()
    print(torch.cuda.get_device_name(), ", ".join(field.name for field in fields(Tuning)), flush=True)
    for net in nets:
        model = model_of(net)
        for batch in sizes:
            steps = {one: prepared(model, batch, one) for one in CHOICES[batch]}
            logits = [step(fed, fed.clone()).float() for step, fed in steps.values()]
            times: dict[Tuning, list[float]] = {one: [] for one in steps}
            for _ in range(TURNS):
                for one, (step, fed) in steps.items():
                    times[one].append(milliseconds(step, fed))
            for one, found in zip(steps, logits, strict=True):
                apart = float((found - logits[0]).norm() / logits[0].norm())
                print(
                    f"{net} batch {batch:2d} {astuple(one)!s:26} {median(times[one]):.4f} ms, {apart:.1e} apart",
                    flush=True,
                )
            del steps
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
