"""Greedy generation: a prompt, then one token a step, on static tensors.

The same step runs eager, compiled, or replayed as a CUDA graph. Everything that changes from token to token (the
state, the position, the sampled token) lives on the device and is updated in place, so that one captured graph serves
every position and decodes what eager decodes.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from ttt_mlflow.decode.capture import capture_stream, captured

WARM_UP_STEPS = 3  # before a capture: lazy initialisation and compilation must not happen inside it


class Decoder(Protocol):
    """What is measured. ``prefill`` starts a batch of sequences, ``step`` goes on; both sample greedily."""

    def prefill(self, prompt: Tensor) -> Tensor:
        """Start afresh with prompt [B, P] int64; returns the first token [B]."""

    def step(self) -> Tensor:
        """Feed the last token; returns the next one [B], in a tensor that the next step overwrites."""

    def close(self) -> None:
        """Give memory back that this decoder holds."""


class ModelDecoder:
    """Decodes any :class:`ttt_mlflow.models.registry.DecodeModel`."""

    def __init__(self, model: Any, batch: int, device: torch.device) -> None:
        self.model, self.device = model, device
        self.state = model.new_state(batch)
        self.token = torch.zeros(batch, dtype=torch.int64, device=device)
        self._model_step = model.step
        self._graph: torch.cuda.CUDAGraph | None = None

    def compile(self) -> None:
        """Compile the step: as the model does it if it offers ``compile_step``, otherwise as one function."""
        # what an earlier decoder of this process compiled counts against the compiler's limit of variants
        torch.compiler.reset()
        if hasattr(self.model, "compile_step"):
            self.model.compile_step()
        else:
            self._model_step = torch.compile(self.model.step, dynamic=False)

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run a few steps and put the state back, so that what is compiled or initialised lazily is done."""
        for _ in range(WARM_UP_STEPS):
            self._eager_step()
        self.model.reset_state(self.state)

    @torch.no_grad()
    def capture(self) -> None:
        """Capture one step as a CUDA graph, which serves every position; ``step`` replays it from now on."""
        stream = capture_stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.warm_up()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        with captured(stream) as graph:
            self._eager_step()
        self.model.reset_state(self.state)
        self._graph = graph

    @torch.no_grad()
    def prefill(self, prompt: Tensor) -> Tensor:
        self.model.reset_state(self.state)
        if hasattr(self.model, "prefill"):
            return self._sample(self.model.prefill(prompt, self.state))
        for token in prompt.unbind(1):
            logits = self._model_step(token, self.state)
        return self._sample(logits)

    @torch.no_grad()
    def step(self) -> Tensor:
        if self._graph is not None:
            self._graph.replay()
            return self.token
        return self._eager_step()

    def _eager_step(self) -> Tensor:
        return self._sample(self._model_step(self.token, self.state))

    def _sample(self, logits: Tensor) -> Tensor:
        return self.token.copy_(logits.argmax(-1))

    def close(self) -> None:
        self._graph = None
        del self.state


def make_decoder(model: Any, batch: int, max_length: int, device: torch.device, cuda_graph: bool) -> Decoder:
    """The model's own decoder if it brings one, otherwise :class:`ModelDecoder`."""
    if hasattr(model, "decoder"):
        return model.decoder(batch, max_length, cuda_graph)
    return ModelDecoder(model, batch, device)


def generate(decoder: Decoder, prompt: Tensor, genlen: int) -> Tensor:
    """Greedy continuation of prompt [B, P]: tokens [B, genlen]. The first follows from the prompt alone."""
    tokens = [decoder.prefill(prompt).clone()]
    for _ in range(genlen - 1):
        tokens.append(decoder.step().clone())
    return torch.stack(tokens, 1)
