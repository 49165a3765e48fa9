"""Tries a model before it is measured: whether it is what docs/adding-a-model.md asks for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.errors import one_line
from ttt_mlflow.models.allocations import STATE, WEIGHTS, Allocate, Allocations
from ttt_mlflow.models.decoder import make_decoder, new_state, tensors_in
from ttt_mlflow.models.entry import Decoder, Execution, ModelEntry, ModelRequest
from ttt_mlflow.plugins import BROKEN, Failed, Trial, demand
from ttt_mlflow.workload import PARTS, Stage, Workload

BATCH = 2  # the smallest in which sequences can be mixed up
STEPS = 4
PROMPT = 5
# of the logits, relative: what the order of sums may change
TOLERANCE = {torch.float16: 5e-2, torch.float32: 1e-3}
OPTIONAL = ("prefill", "compile_step", "parameter_count", "memory_parts", "decoder", "new_cache", "choose")
MEMBERS = ("new_state", "reset_state", "step")
CACHED_MEMBERS = ("new_cache", "reset_state", "step")
LENGTH = PROMPT + STEPS  # tokens of a sequence
TRIED = Workload("decode", BATCH, PROMPT, STEPS)


def try_model(entry: ModelEntry, device: torch.device, trial: Trial) -> None:
    """Try ``entry`` with each of its inner nets on ``device``, as far as it runs there."""
    try:
        missing = trial.check("missing() is None or one line", partial(_missing, entry))
        if missing or (entry.needs_cuda and device.type == "cpu"):
            trial.fail("everything else", missing or "the model needs a GPU, and there is none here")
            return
    except Failed:
        return
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    for net in entry.inner_nets or (None,):
        label = f"{net}: " if net else ""
        if net and net.endswith("_triton") and device.type == "cpu":
            trial.skip(f"{label}everything", "Triton needs a GPU, and there is none here")
            continue
        try:
            request = ModelRequest(entry.name, net, dtype, device, 0, None, workload=TRIED)
            _Tried(entry, request, trial, label).all()
        except Failed:
            continue
        except BROKEN as error:  # of a member that is only looked at
            trial.fail(f"{label}the checks", one_line(error))


def _missing(entry: ModelEntry) -> str | None:
    missing = entry.missing()
    demand(missing is None or isinstance(missing, str), f"it returns {missing!r}")
    return missing


@dataclass(frozen=True)
class _Tried:
    """The checks of a model with one inner net. label: before the name of each check."""

    entry: ModelEntry
    request: ModelRequest
    trial: Trial
    label: str

    def all(self) -> None:
        self._check("check() accepts it", lambda: self.entry.check(self.request))
        model = self._check("the factory builds it", lambda: self.entry.factory(self.request), may_print=True)
        self._check("the model has what it needs", lambda: _has_members(model))
        if not hasattr(model, "decoder"):
            self._state_and_step(model)
        self._generation(model)
        if hasattr(model, "parameter_count"):
            self._check("parameter_count() is a number", lambda: _is_count(model.parameter_count()))
        if self.entry.work:
            self._check("work() counts bytes and operations", self._work)
        else:
            self.trial.skip(f"{self.label}work() counts bytes and operations", "not given; runs have no roofline")
        if self.entry.allocations:
            self._check("allocations() says what a run allocates", self._allocations)

    def _check(self, what: str, action: Callable[[], Any], may_print: bool = False) -> Any:
        return self.trial.check(f"{self.label}{what}", action, may_print)

    @torch.no_grad()
    def _state_and_step(self, model: Any) -> None:
        cached = hasattr(model, "new_cache")
        length = LENGTH + getattr(model, "prefill_multiple", 0)
        made = f"new_cache({BATCH}, {length})" if cached else f"new_state({BATCH})"
        state = self._check(made, lambda: new_state(model, BATCH, length))
        if hasattr(model, "choose"):
            self._check("choose(state) leaves a name in attn_impl", lambda: _chosen(model, state))
        tokens = torch.arange(BATCH, device=self.request.device) % model.vocab_size
        self._check("step returns logits [B, vocab_size]", lambda: _step(model, tokens, state))
        if any(True for _ in tensors_in(state)):
            self._check("reset_state and step work in place", lambda: _in_place(model, tokens, state))
        else:
            self.trial.skip(f"{self.label}reset_state and step work in place", "no tensors were found in the state")
        limit = TOLERANCE[self.request.dtype]
        self._check("reset_state is the start of a sequence", lambda: _starts_again(model, tokens, state, limit))
        if hasattr(model, "memory_parts"):
            self._check("memory_parts() lists tensors by their kind", lambda: _parts(model.memory_parts(state)))
        if hasattr(model, "prefill"):
            self._check("prefill is what the steps do", lambda: self._prefill(model, state))

    def _prefill(self, model: Any, state: Any) -> None:
        length = getattr(model, "prefill_multiple", PROMPT)
        prompt = _prompt(model, length, 1, self.request.device)
        model.reset_state(state)
        at_once = _logits(model, model.prefill(prompt, state), "prefill")
        model.reset_state(state)
        for token in prompt.unbind(1):
            logits = model.step(token, state)
        _same(at_once, logits, TOLERANCE[self.request.dtype], "prefill and step give different logits")

    @torch.no_grad()
    def _generation(self, model: Any) -> None:
        """What is measured: a decoder that starts again with each prompt."""
        device = self.request.device
        length = self.entry.prefill_multiple or 0
        first, other = (_prompt(model, length + PROMPT, seed, device) for seed in (2, 3))
        decoder = self._check(
            "a decoder is made", lambda: make_decoder(model, BATCH, first.shape[1] + STEPS, device, cuda_graph=False)
        )
        decode = partial(_decode, model, decoder)
        tokens = self._check(f"a prompt and {STEPS} steps give tokens [B]", lambda: decode(first))
        self._check("the same prompt gives the same tokens", lambda: _equal(decode(first), tokens))

        def after_another() -> None:
            decode(other)
            _equal(decode(first), tokens)

        self._check("nothing of a prompt is left in the next", after_another)
        self._check("close()", decoder.close)

    def _work(self) -> None:
        assert self.entry.work
        for mode in ("decode", "prefill"):
            stages = list(self.entry.work(self.request, Workload(mode, BATCH, PROMPT, STEPS)))
            demand(bool(stages), f"no stage for {mode}")
            for stage in stages:
                demand(isinstance(stage, Stage), f"{stage!r} is not a Stage")
                demand(stage.part in PARTS, f"{stage.part!r} is none of {', '.join(PARTS)}")
                numbers = (stage.bytes, stage.flops, stage.weight_bytes, stage.state_bytes)
                demand(all(math.isfinite(one) and one >= 0 for one in numbers), f"{mode}: {stage} has no such numbers")
            demand(sum(stage.bytes for stage in stages) > 0, f"{mode}: no bytes in all")

    def _allocations(self) -> None:
        assert self.entry.allocations
        for cuda_graph in (False, True):
            workload = Workload("decode", BATCH, PROMPT, STEPS)
            made = self.entry.allocations(self.request, workload, Execution(compiled=False, cuda_graph=cuda_graph))
            demand(isinstance(made, Allocations), f"it returns {type(made).__name__}, not Allocations")
            kept = [one for one in made.events if isinstance(one, Allocate)]
            demand(all(type(one.size) is int and one.size >= 0 for one in kept), "a size is no whole number of bytes")
            for kind in (WEIGHTS, STATE):
                demand(any(one.kind == kind for one in kept), f"no {kind} are kept")


def _has_members(model: Any) -> None:
    vocab = getattr(model, "vocab_size", None)
    demand(type(vocab) is int and vocab > 0, f"vocab_size is {vocab!r}, not a whole number above 0")
    wanted: tuple[str, ...] = CACHED_MEMBERS if hasattr(model, "new_cache") else MEMBERS
    if hasattr(model, "decoder"):
        wanted = ()
    lacking = [name for name in wanted if not callable(getattr(model, name, None))]
    demand(not lacking, f"{type(model).__name__} has no {', '.join(lacking)}")
    wrong = [name for name in OPTIONAL if hasattr(model, name) and not callable(getattr(model, name))]
    demand(not wrong, f"{', '.join(wrong)}: cannot be called")


def _chosen(model: Any, state: Any) -> None:
    model.choose(state)
    chosen = getattr(model, "attn_impl", None)
    demand(isinstance(chosen, str) and bool(chosen), f"attn_impl is {chosen!r}")


def _prompt(model: Any, length: int, seed: int, device: torch.device) -> Tensor:
    """Random tokens [B, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.vocab_size, (BATCH, length), generator=generator).to(device)


def _logits(model: Any, logits: Any, whose: str) -> Tensor:
    """A copy: a step may overwrite what the one before it returned."""
    demand(isinstance(logits, Tensor), f"{whose} returns {type(logits).__name__}, not a tensor")
    shape = [BATCH, model.vocab_size]
    demand(list(logits.shape) == shape, f"{whose} returns {list(logits.shape)}, not {shape}")
    demand(logits.is_floating_point(), f"{whose} returns {logits.dtype}")
    demand(bool(logits.isfinite().all()), f"{whose} returns NaN or infinite numbers")
    return logits.float().clone()


def _step(model: Any, tokens: Tensor, state: Any) -> None:
    model.reset_state(state)
    before = tokens.clone()
    _logits(model, model.step(tokens, state), "step")
    demand(torch.equal(tokens, before), "step changes the tokens that it is given")


def _in_place(model: Any, tokens: Tensor, state: Any) -> None:
    """A captured graph goes on with the tensors that it was captured with."""
    held = [tensor.data_ptr() for tensor in tensors_in(state)]
    model.reset_state(state)
    demand([tensor.data_ptr() for tensor in tensors_in(state)] == held, "reset_state makes new tensors")
    model.step(tokens, state)
    demand([tensor.data_ptr() for tensor in tensors_in(state)] == held, "step makes new tensors")


def _starts_again(model: Any, tokens: Tensor, state: Any, tolerance: float) -> None:
    def logits() -> Tensor:
        model.reset_state(state)
        return torch.cat([_logits(model, model.step(tokens, state), "step") for _ in range(STEPS)])

    first = logits()
    _same(logits(), first, tolerance, "the same tokens give other logits after it")
    model.step((tokens + 1) % model.vocab_size, state)
    _same(logits(), first, tolerance, "a token from before it changes the logits")


def _parts(parts: Any) -> None:
    demand(isinstance(parts, dict), f"it returns {type(parts).__name__}, not a dictionary")
    for kind, tensors in parts.items():
        demand(isinstance(kind, str), f"{kind!r} is no name of a kind")
        demand(all(isinstance(one, Tensor) for one in tensors), f"{kind} has something else than tensors")


def _decode(model: Any, decoder: Decoder, prompt: Tensor) -> Tensor:
    """The tokens [B, 1 + STEPS] that follow ``prompt``."""
    tokens = [decoder.prefill(prompt).clone()]
    tokens += [decoder.step().clone() for _ in range(STEPS)]
    for one in tokens:
        demand(list(one.shape) == [BATCH] and one.dtype == torch.int64, f"{one.dtype} {list(one.shape)}, not [{BATCH}]")
        demand(bool(((one >= 0) & (one < model.vocab_size)).all()), f"{one.tolist()}: not below {model.vocab_size}")
    return torch.stack(tokens, 1)


def _equal(tokens: Tensor, expected: Tensor) -> None:
    demand(torch.equal(tokens, expected), f"{tokens.tolist()} instead of {expected.tolist()}")


def _same(found: Tensor, expected: Tensor, tolerance: float, otherwise: str) -> None:
    error = float((found - expected.float()).norm() / expected.float().norm().clamp_min(1e-30))
    demand(error <= tolerance, f"{otherwise} (relative difference {error:.1e}, at most {tolerance:.0e})")


def _is_count(number: Any) -> None:
    demand(type(number) is int and number > 0, f"it returns {number!r}")
