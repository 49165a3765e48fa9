"""Prepares a configuration: the prompt, and a decoder whose first step is as fast as the later ones."""

import gc
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_mlflow.config import RunConfig
from ttt_mlflow.models.decoder import ModelDecoder, make_decoder
from ttt_mlflow.models.entry import DecodeModel, Decoder
from ttt_mlflow.run.plan import Plan

PROFILED_STEPS = 16  # steps of a profiling pass, before rounding up to whole periods
EAGER_STEPS = 8  # maximum number of eager steps in addition to the profiled steps
CLOCK_WARMUP_S = 1.0
MOST_PROMPTS = 1000
STEPS_AHEAD = 2  # steps that the host issues before the GPU needs them, so that the GPU is never idle


@dataclass(frozen=True)
class Prepared:
    """A decoder that is ready to run, the prompt [B, P] that it starts from, and the model that it decodes."""

    prompt: Tensor
    decoder: Decoder
    model: DecodeModel


def build(plan: Plan) -> tuple[DecodeModel, Tensor]:
    """The model with its weights, and the prompt [B, P]."""
    model = plan.entry.factory(plan.request)
    return model, make_prompt(plan.used, model.vocab_size, plan.device)


def whole_periods(steps: int, period: int) -> int:
    """``steps`` rounded up to whole periods of the model (:attr:`ttt_mlflow.models.ModelEntry.period`)."""
    return period * math.ceil(steps / period)


def profiled_steps(period: int) -> int:
    """Decode steps of a profiling pass. Whole periods, so that each position of a period occurs equally often."""
    return whole_periods(PROFILED_STEPS, period)


def make_prompt(used: RunConfig, vocab_size: int, device: torch.device) -> Tensor:
    """Random tokens [B, P]. A seed gives the same tokens on every device."""
    generator = torch.Generator().manual_seed(used.seed)
    return torch.randint(vocab_size, (used.batch, used.promptlen), generator=generator).to(device)


def make_ready(plan: Plan, model: DecodeModel, prompt: Tensor) -> Decoder:
    """A decoder that is compiled, with loaded kernels and a captured graph, as the configuration requests."""
    used, device = plan.used, prompt.device
    # the profiling passes may decode further than the measured passes
    beyond = profiled_steps(plan.entry.period) + EAGER_STEPS
    length = used.promptlen + (used.genlen if used.mode == "decode" else 0) + beyond
    decoder = make_decoder(model, used.batch, length, device, bool(used.cuda_graph))
    if isinstance(decoder, ModelDecoder):
        if used.use_compile:
            decoder.compile()
        decoder.capture() if used.cuda_graph else decoder.warm_up()
    decoder.prefill(prompt)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return decoder


def clock_warmup_steps(used: RunConfig, device: torch.device) -> int:
    """Maximum number of steps before a profile: those of a measured pass. A CPU needs only one step for setup."""
    if device.type != "cuda":
        return 1
    return used.genlen if used.mode == "decode" else MOST_PROMPTS


def warm_clocks(step: Callable[[], object], most: int, device: torch.device) -> None:
    """Run ``step`` for about a second, at most ``most`` times, so that a GPU's clocks are as in a measurement.

    A GPU that was idle is faster until its power cap takes effect. The GPU may still be working when this returns.
    """
    until = time.perf_counter() + CLOCK_WARMUP_S
    ends: deque[torch.cuda.Event] = deque()
    for _ in range(most):
        step()
        if device.type == "cuda":
            ends.append(torch.cuda.Event())
            ends[-1].record()
            if len(ends) > STEPS_AHEAD:
                ends.popleft().synchronize()
        if time.perf_counter() >= until:
            return


def release(device: torch.device) -> None:
    """Release unused memory. PyTorch's profiler leaves a reference cycle that holds the model."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
