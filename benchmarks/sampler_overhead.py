"""Measures how much the NVML sampler slows down decoding.

``python -m benchmarks.sampler_overhead OUTPUT_FOLDER`` times decode passes with the sampler on and off, in the order
on, off, off, on, …, on one decoder. It writes OUTPUT_FOLDER/sampler_overhead.json and .txt: the difference within each
pair, with its 95 % confidence interval. Exit code 0 if the whole interval is within the limit, 1 if not, 2 if it could
not be measured.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from rich.console import Console

from benchmarks.passes import timed_pass
from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput, TTTError
from ttt_mlflow.measurement.statistics import ORDER_LEAST, median_confidence_interval
from ttt_mlflow.run.lifecycle import open_sampler
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prepare import make_prompt, make_ready
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.telemetry.host import host_facts

WITHIN_PCT = 0.2
WARMUP_PASSES = 6
FACTS = ("gpu_name", "driver", "python", "torch", "triton", "git_commit", "git_dirty")


class Sampler(Protocol):
    """The interface of :class:`ttt_mlflow.telemetry.sampler.NvmlSampler`: samples until its end or ``stop``."""

    samples: list[dict[str, float]]

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def mark(self, edge: str) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Overhead:
    """on_ms, off_ms: the passes of each pair. samples: number of samples in all passes with the sampler.

    change_pct: how much longer a pass takes with the sampler, median over the pairs. low_pct, high_pct: its 95 %
    confidence interval.
    """

    on_ms: list[float]
    off_ms: list[float]
    samples: int
    change_pct: float
    low_pct: float
    high_pct: float

    @property
    def within(self) -> bool:
        return max(-self.low_pct, self.high_pct) < WITHIN_PCT


def measure(one_pass: Callable[[], float], open_one: Callable[[], Sampler], pairs: int) -> Overhead:
    """Time ``pairs`` pairs of passes, with the sampler on first in the first pair, last in the second, and so on."""
    on_ms: list[float] = []
    off_ms: list[float] = []
    samples = 0
    for _ in range(WARMUP_PASSES):
        one_pass()
    for pair in range(pairs):
        for with_sampler in (True, False) if pair % 2 == 0 else (False, True):
            sampler = open_one()  # in both cases, because the GPU is idle meanwhile
            if with_sampler:
                ms, taken = _watched(one_pass, sampler)
                on_ms.append(ms)
                samples += taken
            else:
                sampler.stop()
                off_ms.append(one_pass())
    return overhead(on_ms, off_ms, samples)


def overhead(on_ms: list[float], off_ms: list[float], samples: int) -> Overhead:
    """The difference within the pairs. ValueError for fewer than six, whose interval would assume normal noise."""
    if len(on_ms) < ORDER_LEAST:
        raise ValueError(f"at least {ORDER_LEAST} pairs, not {len(on_ms)}")
    ratios = np.array(on_ms) / np.array(off_ms)
    interval = median_confidence_interval(ratios)
    assert interval is not None
    low, high = interval
    change = float(np.median(ratios))
    return Overhead(on_ms, off_ms, samples, 100 * (change - 1), 100 * (low - 1), 100 * (high - 1))


def _watched(one_pass: Callable[[], float], sampler: Sampler) -> tuple[float, int]:
    """A pass as in a run: with the sampler's thread, and with the section marked at its ends."""
    with sampler:
        before = len(sampler.samples)
        sampler.mark("begin")
        ms = one_pass()
        sampler.mark("end")
        return ms, len(sampler.samples) - before


def prepare(asked: RunConfig) -> tuple[Callable[[], float], Callable[[], Sampler], str, str]:
    """A pass, a function that opens a sampler, the run's name and the device. TTTError without a GPU or NVML."""
    plan = make_plan(asked)
    used, device = plan.used, plan.request.device
    if device.type != "cuda":
        raise BadInput("device: this benchmark samples a GPU, but there is none; use a machine with a GPU")
    model = plan.entry.factory(plan.request)
    prompt = make_prompt(used, model.vocab_size, device)
    one_pass = timed_pass(make_ready(plan, model, prompt), prompt, used.genlen, device)

    def open_one() -> Sampler:
        sampler = open_sampler(device, Reporter(Console(file=sys.stderr)))
        if sampler is None:
            raise BadInput("telemetry: NVML cannot be used (the note above says why), so nothing can be measured")
        return sampler

    return one_pass, open_one, used.run_name, str(device)


def summary(result: Overhead, how: dict[str, str]) -> str:
    on, off = float(np.median(result.on_ms)), float(np.median(result.off_ms))
    lines = [f"{name}: {value}" for name, value in how.items()]
    lines += [
        "",
        f"pairs of passes: {len(result.on_ms)}, {result.samples} samples taken in the watched ones",
        f"median pass: {on:.3f} ms with the sampler, {off:.3f} ms without",
        f"longer with the sampler: {result.change_pct:+.4f} % [{result.low_pct:+.4f}, {result.high_pct:+.4f}]",
        f"{'PASS' if result.within else 'MISS'}  the whole 95 % confidence interval within ±{WITHIN_PCT:g} %",
    ]
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser("python -m benchmarks.sampler_overhead", description=__doc__.split("\n\n")[0])
    parsed.add_argument("folder", type=Path, metavar="OUTPUT_FOLDER")
    parsed.add_argument("--pairs", type=int, default=40, help=f"of passes, {ORDER_LEAST} at least [40]")
    parsed.add_argument("--model", default="ttt-1b", help="[ttt-1b]")
    parsed.add_argument("--batch", default="128", help="[128]")
    parsed.add_argument("--genlen", default="160", help="steps per pass, about 0.3 s by default [160]")
    parsed.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other parameter of a run")
    return parsed


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    if arguments.pairs < ORDER_LEAST or any("=" not in pair for pair in arguments.set):
        print(f"--pairs takes a number from {ORDER_LEAST}, --set NAME=VALUE", file=sys.stderr)
        return 2
    asked = {"model_name": arguments.model, "batch": arguments.batch, "genlen": arguments.genlen}
    began = datetime.now(UTC)
    try:
        one_pass, open_one, name, device = prepare(
            RunConfig.parse(asked | dict(pair.split("=", 1) for pair in arguments.set))
        )
        print(f"{name}: {arguments.pairs} pairs of passes", flush=True)
        result = measure(one_pass, open_one, arguments.pairs)
    except TTTError as error:
        print(error, file=sys.stderr)
        return 2
    facts = host_facts(torch.device(device))
    how = {
        "date": f"{began:%Y-%m-%d %H:%M} UTC",
        "command": "python -m benchmarks.sampler_overhead " + " ".join(sys.argv[1:] if words is None else words),
        "configuration": name,
        **{fact: str(facts[fact]) for fact in FACTS if fact in facts},
    }
    arguments.folder.mkdir(parents=True, exist_ok=True)
    text = summary(result, how)
    (arguments.folder / "sampler_overhead.txt").write_text(text)
    (arguments.folder / "sampler_overhead.json").write_text(json.dumps({"how": how} | asdict(result), indent=1))
    print("\n" + text)
    return 0 if result.within else 1


if __name__ == "__main__":
    sys.exit(main())
