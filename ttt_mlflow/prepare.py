"""Makes a configuration ready to run: its prompt, and a decoder whose first step is as fast as its last."""

from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.config import RunConfig
from ttt_mlflow.decode.generate import Decoder, ModelDecoder, make_decoder
from ttt_mlflow.kernels.reference import MINI_BATCH

# of a profiling pass: a whole mini-batch of TTT, so that each position, and the fold, is in it once
PROFILED_STEPS = MINI_BATCH
EXTRA_STEPS = PROFILED_STEPS + 8  # after the prompt, of a pass at most: those that set it up, and eager ones


def make_prompt(used: RunConfig, vocab_size: int, device: torch.device) -> Tensor:
    """Random tokens [B, P], the same for a seed on every device."""
    generator = torch.Generator().manual_seed(used.seed)
    return torch.randint(vocab_size, (used.batch, used.promptlen), generator=generator).to(device)


def make_ready(used: RunConfig, model: Any, prompt: Tensor) -> Decoder:
    """Compiled, its kernels loaded, its graph captured, as the configuration asks."""
    device = prompt.device
    # the profiling passes may go further than the measured ones
    length = used.promptlen + (used.genlen if used.mode == "decode" else 0) + EXTRA_STEPS
    decoder = make_decoder(model, used.batch, length, device, bool(used.cuda_graph))
    if isinstance(decoder, ModelDecoder):
        if used.use_compile:
            decoder.compile()
        decoder.capture() if used.cuda_graph else decoder.warm_up()
    decoder.prefill(prompt)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return decoder
