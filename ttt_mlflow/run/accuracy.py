"""The pass of ``profile=accuracy``: what the run predicts, beside the same weights in float32 and in plain PyTorch.

The measured decoder predicts first, because it needs memory that is released before the reference is built.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.errors import end_if_asked, one_line
from ttt_mlflow.measurement.accuracy import Accuracy, Deviations, Side, differing_pct, first_differences
from ttt_mlflow.models.decoder import ModelDecoder, make_decoder
from ttt_mlflow.models.entry import DecodeModel, Decoder
from ttt_mlflow.models.reference import Twins
from ttt_mlflow.run.out_of_memory import find_out_of_memory
from ttt_mlflow.run.plan import Plan
from ttt_mlflow.run.prepare import release

MOST_SEQUENCES, MOST_POSITIONS = 64, 512
MOST_PROMPT_TOKENS = 65536  # of the compared sequences together: plain PyTorch takes seconds for so many
FED_TOKENS = 0x5EED  # added to the seed, so that the fed tokens are not those of the prompt
REFERENCE = torch.float32
Doing = Callable[[str], object]  # shows what is done at the moment
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """The predictions of the measured decoder for the compared sequences, on the host.

    greedy: free-running tokens [S, N]. eager: the same without graph and compiled code, if it has one of them.
    logits: of each position [S, V], while the given tokens were fed; None if the decoder does not show them.
    """

    greedy: Tensor
    eager: Tensor | None
    logits: list[Tensor] | None

    def first(self, sequences: int) -> "Predicted":
        """The predictions for the first ``sequences`` alone."""
        eager = None if self.eager is None else self.eager[:sequences]
        logits = None if self.logits is None else [one[:sequences] for one in self.logits]
        return Predicted(self.greedy[:sequences], eager, logits)


@dataclass(frozen=True)
class Compared:
    """The result of the pass. notes: what it does not show, a sentence each. reference: what it was compared with."""

    accuracy: Accuracy
    reference: str
    yardstick: str | None
    notes: tuple[str, ...]


class AccuracyPass:
    """Compares the predictions of one run. ``predict`` comes before ``compare``."""

    def __init__(self, plan: Plan, prompt: Tensor, vocab_size: int, doing: Doing) -> None:
        used = plan.used
        self.plan, self.prompt, self._doing = plan, prompt, doing
        self.sequences = min(used.batch, MOST_SEQUENCES, max(1, MOST_PROMPT_TOKENS // used.promptlen))
        # a cache is as long as the measured steps need; in prefill mode, the decoder is one of this pass
        self.positions = MOST_POSITIONS if used.mode == "prefill" else min(used.genlen, MOST_POSITIONS)
        generator = torch.Generator().manual_seed((used.seed + FED_TOKENS) % 2**63)
        fed = torch.randint(vocab_size, (used.batch, self.positions - 1), generator=generator)
        self._fed = fed.to(prompt.device)

    def predict(self, decoder: Decoder) -> Predicted:
        """What ``decoder`` predicts for the whole batch, of which some sequences are kept."""
        used = self.plan.used
        greedy = self._greedy(decoder, self.prompt, "as measured")
        eager = None
        if used.mode == "decode" and (used.cuda_graph or used.use_compile) and hasattr(decoder, "eagerly"):
            with decoder.eagerly():
                eager = self._greedy(decoder, self.prompt, "eager")
        if not _shows_logits(decoder):
            return Predicted(greedy, eager, None)
        logits: list[Tensor] = []
        with ExitStack() as graphs:
            if used.cuda_graph and used.mode == "decode":
                _replay(decoder, "the logits", graphs)
            for position in range(self.positions):
                self._tell("logits", position)
                logits.append(self._next(decoder, self.prompt, position)[: self.sequences].cpu())
        return Predicted(greedy, eager, logits)

    def predict_anew(self, model: DecodeModel) -> Predicted:
        """The same with a decoder of this pass, without a graph."""
        with closing(self._decoder(model, self.plan.used.batch)) as decoder:
            return self.predict(decoder)

    def compare(self, predicted: Predicted, model: DecodeModel) -> Compared:
        """Compare what was predicted with the reference and the yardstick, which get the weights of ``model``."""
        twins, dtype = Twins(self.plan.entry, self.plan.request), self.plan.request.dtype
        self._doing("accuracy: building the float32 reference")
        reference = twins.build(model, REFERENCE)
        yardstick = twins.build(model, dtype) if twins.is_plain and dtype != REFERENCE else None
        accuracy = self._with_what_fits(predicted, reference, yardstick)
        code = "plain PyTorch" if twins.is_plain else "the model's own code"
        named = f"plain PyTorch, {self.plan.used.dtype}" if yardstick else None
        return Compared(accuracy, f"{code}, float32", named, tuple(self._notes(twins, predicted)))

    def _with_what_fits(self, predicted: Predicted, reference: DecodeModel, yardstick: DecodeModel | None) -> Accuracy:
        """Compare as many sequences as there is memory for: all, half of them, and so on."""
        while True:
            try:
                with (
                    closing(self._decoder(reference, self.sequences)) as exact,
                    closing(self._decoder(yardstick, self.sequences)) if yardstick else nullcontext() as plain,
                    ExitStack() as graphs,
                ):
                    for decoder, what in ((exact, "the reference"), (plain, "plain PyTorch")):
                        _replay(decoder, what, graphs, steps=True)
                    return self._accuracy(predicted, exact, plain)
            except (RuntimeError, MemoryError) as error:
                if self.sequences == 1 or find_out_of_memory(error) is None:
                    raise
                log.warning("%d sequences do not fit beside the reference", self.sequences)
            self.sequences //= 2
            release(self.prompt.device)

    def _accuracy(self, predicted: Predicted, exact: Decoder, plain: Decoder | None) -> Accuracy:
        prompt = self.prompt[: self.sequences]
        predicted = predicted.first(self.sequences)
        own, other = Deviations(), Deviations()
        if predicted.logits is not None:
            for position, logits in enumerate(predicted.logits):
                self._tell("reference", position)
                reference = self._next(exact, prompt, position)
                own.add(logits.to(reference.device), reference)
                if plain is not None:
                    other.add(self._next(plain, prompt, position), reference)
        greedy = self._greedy(exact, prompt, "reference")
        first = first_differences(predicted.greedy, greedy)
        shown = predicted.logits is not None
        yardstick = None
        if plain is not None:
            parted = first_differences(self._greedy(plain, prompt, "plain PyTorch"), greedy)
            yardstick = Side(other if shown else None, parted)
        eager = None if predicted.eager is None else differing_pct(predicted.greedy, predicted.eager)
        return Accuracy(self.sequences, self.positions, Side(own if shown else None, first), yardstick, eager)

    def _notes(self, twins: Twins, predicted: Predicted) -> list[str]:
        used, notes = self.plan.used, []
        if used.batch > self.sequences:
            notes.append(f"The first {self.sequences} of {used.batch} sequences were compared.")
        if not twins.is_plain:
            notes.append(
                "The model has no version in plain PyTorch. The reference is its own code in float32, so an error that "
                "this code makes in every dtype is not seen, and there is no yardstick."
            )
        elif self.plan.request.dtype == REFERENCE:
            notes.append("The run is in float32, as the reference is, so there is no yardstick.")
        if predicted.logits is None:
            notes.append(
                "The model's own decoder does not show its logits (it has no start and feed), so only the tokens of "
                "free-running decode were compared."
            )
        if used.mode == "prefill":
            notes.append("The prompt ran as it was measured, and the steps after it eagerly.")
        return notes

    def _decoder(self, model: DecodeModel, batch: int) -> Decoder:
        length = self.prompt.shape[1] + self.positions
        return make_decoder(model, batch, length, self.prompt.device, cuda_graph=False)

    def _next(self, decoder: Any, prompt: Tensor, position: int) -> Tensor:
        """The logits [B, V] at ``position``, after the one before: of the prompt, then after each of the fed tokens."""
        if position == 0:
            return decoder.start(prompt)
        return decoder.feed(self._fed[: prompt.shape[0], position - 1])

    def _greedy(self, decoder: Decoder, prompt: Tensor, what: str) -> Tensor:
        """Free-running greedy tokens [S, N] of the compared sequences, on the host."""
        tokens = [decoder.prefill(prompt)[: self.sequences].clone()]
        for position in range(1, self.positions):
            self._tell(f"tokens, {what}", position)
            tokens.append(decoder.step()[: self.sequences].clone())
        return torch.stack(tokens, 1).cpu()

    def _tell(self, what: str, position: int) -> None:
        end_if_asked()
        if position % 32 == 0:
            self._doing(f"accuracy: {what}, {position} of {self.positions} positions")


def _replay(decoder: Decoder | None, what: str, graphs: ExitStack, steps: bool = False) -> None:
    """Replay fed tokens as a CUDA graph until ``graphs`` ends: a host launches a thousand kernels slowly.

    What cannot be captured is launched one by one, and the log says why. steps: the decoder's own steps too; then it is
    an error if the memory is too small.
    """
    if not isinstance(decoder, ModelDecoder) or decoder.device.type != "cuda":
        return
    try:
        if steps:
            decoder.capture()
        graphs.enter_context(decoder.replaying_feed())
    except RuntimeError as error:
        if steps and find_out_of_memory(error):
            raise
        log.warning("accuracy: %s: its kernels are launched one by one: %s", what, one_line(error))


def _shows_logits(decoder: Decoder) -> bool:
    return hasattr(decoder, "start") and hasattr(decoder, "feed")
