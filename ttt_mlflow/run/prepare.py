"""Prepares a configuration: the prompt, and a decoder whose first step is as fast as the later ones."""

import gc
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_mlflow.config import RunConfig
from ttt_mlflow.models.decoder import ModelDecoder, make_decoder
from ttt_mlflow.models.entry import DecodeModel, Decoder
from ttt_mlflow.models.tuning import compiling_at_once
from ttt_mlflow.run.plan import Plan

log = logging.getLogger(__name__)
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


def make_prompt(used: RunConfig, vocab_size: int, device: torch.device) -> Tensor:
    """Random tokens [B, P]. A seed gives the same tokens on every device."""
    generator = torch.Generator().manual_seed(used.seed)
    return torch.randint(vocab_size, (used.batch, used.promptlen), generator=generator).to(device)


def make_ready(plan: Plan, model: DecodeModel, prompt: Tensor) -> Decoder:
    """A decoder that is compiled, with loaded kernels and a captured graph, as the configuration requests."""
    used, device = plan.used, prompt.device
    length = plan.workload.max_length(plan.entry.period)
    began = time.perf_counter()
    decoder = make_decoder(model, used.batch, length, device, bool(used.cuda_graph))
    if isinstance(decoder, ModelDecoder):
        decoder.choose()
        if used.use_compile:
            decoder.compile()
        decoder.capture() if used.cuda_graph else decoder.warm_up()
    has_step = time.perf_counter()
    if device.type == "cuda":
        with compiling_at_once():
            decoder.prefill(prompt)
        torch.cuda.synchronize(device)
    else:
        decoder.prefill(prompt)
    log.info("the step took %.1f s, the first prompt %.1f s", has_step - began, time.perf_counter() - has_step)
    return decoder


def clock_warmup_steps(used: RunConfig, device: torch.device) -> int:
    """Maximum number of steps before a profile: those of a measured pass. A CPU needs only one step for setup."""
    if device.type != "cuda":
        return 1
    return used.genlen if used.mode == "decode" else MOST_PROMPTS


def to_mean_position(plan: Plan, prepared: Prepared, count: int) -> None:
    """For a model whose cost grows: go to where the next ``count`` steps cost the mean of a measured pass."""
    if plan.entry.cost_grows and plan.workload.mode == "decode":
        prepared.decoder.prefill(prepared.prompt)
        for _ in range((plan.workload.genlen - count) // 2):
            prepared.decoder.step()


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
