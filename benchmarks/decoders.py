"""Decoders made ready as a run makes them, for benchmarks that time passes themselves."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.config import RunConfig
from ttt_mlflow.decode.generate import Decoder, ModelDecoder, make_decoder
from ttt_mlflow.measure.timing import StepTimer


def random_prompt(used: RunConfig, vocab_size: int, device: torch.device) -> Tensor:
    """Tokens [B, P], the same for a seed on every device."""
    generator = torch.Generator().manual_seed(used.seed)
    return torch.randint(vocab_size, (used.batch, used.promptlen), generator=generator).to(device)


def make_ready(model: Any, used: RunConfig, device: torch.device, compiled: bool | None = None) -> Decoder:
    """A decoder of ``model`` whose step is compiled and captured as ``used`` says.

    compiled: whether to compile here, where that is not what ``used`` says: a model may be compiled already.
    """
    decoder = make_decoder(model, used.batch, used.promptlen + used.genlen + 1, device, bool(used.cuda_graph))
    if isinstance(decoder, ModelDecoder):
        if used.use_compile if compiled is None else compiled:
            decoder.compile()
        decoder.capture() if used.cuda_graph else decoder.warm_up()
    return decoder


def timed_pass(decoder: Decoder, prompt: Tensor, steps: int, device: torch.device) -> Callable[[], float]:
    """A pass of ``steps`` decode steps after ``prompt``; it returns the device's time of the steps, in ms."""
    timer = StepTimer(steps, device)

    def one_pass() -> float:
        decoder.prefill(prompt)
        return timer.time_steps(decoder.step).total_ms

    return one_pass
