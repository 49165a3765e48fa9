"""Greedy generation on static tensors: a prompt, then one token per step.

The same step runs eagerly, compiled, or replayed as a CUDA graph. Everything that changes from token to token (the
state, the position, the sampled token) is on the device and is updated in place. One captured graph therefore serves
every position and decodes the same tokens as eager code.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttt_mlflow.models.entry import Decoder
from ttt_mlflow.models.graph_capture import captured, warm_stream
from ttt_mlflow.workload import SAMPLING, in_part

WARM_UP_STEPS = 3  # before a capture, because lazy initialization and compilation must not happen inside it


def new_state(model: Any, batch: int, max_length: int | None) -> Any:
    """The state of ``batch`` sequences, of up to ``max_length`` tokens if it grows with them.

    Raises ValueError for a state that grows if no length is given.
    """
    if not hasattr(model, "new_cache"):
        return model.new_state(batch)
    if max_length is None:
        raise ValueError(f"{type(model).__name__} has a cache: max_length must be given")
    return model.new_cache(batch, max_length)


class ModelDecoder:
    """Decodes any :class:`ttt_mlflow.models.entry.DecodeModel`.

    max_length: tokens of a sequence at most, for a model with a cache; the state of other models has no end. Feeding
    more raises ValueError.
    """

    def __init__(self, model: Any, batch: int, device: torch.device, max_length: int | None = None) -> None:
        self.model, self.device = model, device
        self.max_length = max_length if hasattr(model, "new_cache") else None
        self._fed = 0  # tokens of each sequence
        self.state = new_state(model, batch, max_length)
        self.token = torch.zeros(batch, dtype=torch.int64, device=device)
        self._model_step = model.step
        self._greedy_step = getattr(model, "greedy_step", None)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._feed_graph: tuple[torch.cuda.CUDAGraph, Tensor] | None = None  # and the logits that it writes

    @torch.no_grad()
    def choose(self) -> None:
        """Let the model choose among its implementations, if it has several. Before ``compile`` and ``capture``."""
        if hasattr(self.model, "choose"):
            self.model.choose(self.state)
            self.model.reset_state(self.state)

    def compile(self) -> None:
        """Compile the step: with the model's ``compile_step`` if it has one, otherwise as one function."""
        # code that an earlier decoder compiled in this process counts toward the compiler's limit of variants
        torch.compiler.reset()
        if hasattr(self.model, "compile_step"):
            self.model.compile_step()
        else:
            self._model_step = torch.compile(self.model.step, dynamic=False)
            self._greedy_step = None

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run a few steps and reset the state, so that compilation and lazy initialization are complete."""
        self.model.reset_state(self.state)  # a full cache takes no more
        for _ in range(WARM_UP_STEPS):
            self._eager_step()
        self.model.reset_state(self.state)

    @torch.no_grad()
    def capture(self) -> None:
        """Capture one step as a CUDA graph that serves every position. ``step`` then replays it."""
        with captured(warm_stream(self.device, self.warm_up)) as graph:
            self._eager_step()
        self.model.reset_state(self.state)
        self._graph = graph

    @torch.no_grad()
    def prefill(self, prompt: Tensor) -> Tensor:
        """Process what the model takes at once with its own prefill, and the rest of the prompt token by token.

        A prompt of one token is a decode step like any other.
        """
        logits, rest = self._begin(prompt)
        if logits is not None:
            self._sample(logits)
        for token in rest.unbind(1):
            self.token.copy_(token)
            self.step()
        return self.token

    def _begin(self, prompt: Tensor) -> tuple[Tensor | None, Tensor]:
        """Process what the model's own prefill takes. Returns its logits, and the rest of the prompt [B, R]."""
        self._fed = 0
        self._check_room(prompt.shape[1])
        self.model.reset_state(self.state)
        at_once = 0
        if hasattr(self.model, "prefill") and prompt.shape[1] > 1:
            at_once = prompt.shape[1] - prompt.shape[1] % getattr(self.model, "prefill_multiple", 1)
        logits = self.model.prefill(prompt[:, :at_once], self.state) if at_once else None
        self._fed = at_once
        return logits, prompt[:, at_once:]

    @torch.no_grad()
    def step(self) -> Tensor:
        self._check_room(1)
        self._fed += 1
        if self._graph is not None:
            self._graph.replay()
            return self.token
        return self._eager_step()

    @torch.no_grad()
    def start(self, prompt: Tensor) -> Tensor:
        """As ``prefill``, by :meth:`feed`. Returns the logits [B, V] from which the first token follows."""
        logits, rest = self._begin(prompt)
        for token in rest.unbind(1):
            logits = self.feed(token)
        assert logits is not None
        return logits

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """As ``step``, with ``tokens`` [B] instead of its own. Returns the logits [B, V].

        Without a graph, but in a block of :meth:`replaying_feed`.
        """
        self._check_room(1)
        self._fed += 1
        self.token.copy_(tokens)
        if self._feed_graph is not None:
            graph, logits = self._feed_graph
            graph.replay()
            return logits
        return self._model_step(self.token, self.state)

    @contextmanager
    def replaying_feed(self) -> Iterator[None]:
        """Let ``feed`` replay a CUDA graph of its own until the block ends. Each call overwrites the logits before.

        Begins with a state that is reset. Raises RuntimeError for a step that cannot be captured.
        """

        def warm_up() -> None:
            self.model.reset_state(self.state)  # a full cache takes no more
            for _ in range(WARM_UP_STEPS):
                self._model_step(self.token, self.state)
            self.model.reset_state(self.state)

        with torch.no_grad():
            with captured(warm_stream(self.device, warm_up)) as graph:
                logits = self._model_step(self.token, self.state)
            self.model.reset_state(self.state)
        self._feed_graph = graph, logits
        try:
            yield
        finally:
            self._feed_graph = None

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Use neither graph nor compiled code until the block ends, so that profilers see layer and part names."""
        graphs = self._graph, self._feed_graph
        self._graph = self._feed_graph = None
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._graph, self._feed_graph = graphs

    def _check_room(self, tokens: int) -> None:
        if self.max_length is not None and self._fed + tokens > self.max_length:
            raise ValueError(
                f"the cache has room for {self.max_length} tokens of a sequence: {self._fed} were fed, {tokens} more "
                "do not fit"
            )

    def _eager_step(self) -> Tensor:
        if self._greedy_step is not None:
            self._greedy_step(self.token, self.state)
            return self.token
        return self._sample(self._model_step(self.token, self.state))

    def _sample(self, logits: Tensor) -> Tensor:
        with in_part(SAMPLING):
            return self.token.copy_(logits.argmax(-1))

    def memory_parts(self) -> dict[str, list[Tensor]]:
        """The model's own account, or otherwise the tensors found in its weights and state."""
        if hasattr(self.model, "memory_parts"):
            return dict(self.model.memory_parts(self.state))
        weights = [*self.model.parameters(), *self.model.buffers()] if isinstance(self.model, nn.Module) else []
        return {"weights": weights, "state": list(tensors_in(self.state))}

    def close(self) -> None:
        self._graph = self._feed_graph = None
        del self.state


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a state: in a tuple, list, dictionary or dataclass, recursively."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in([getattr(value, one.name) for one in fields(value)])
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


def make_decoder(model: Any, batch: int, max_length: int, device: torch.device, cuda_graph: bool) -> Decoder:
    """The model's own decoder if it has one, otherwise :class:`ModelDecoder`."""
    if hasattr(model, "decoder"):
        return model.decoder(batch, max_length, cuda_graph)
    return ModelDecoder(model, batch, device, max_length)
