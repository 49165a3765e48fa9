"""From which context length on a model with a constant state decodes faster than one whose cache grows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

Outcome = Literal["crosses", "always", "never", "falls_behind", "several"]
BEYOND = "*"
ABOUT_BEYOND = (
    f"{BEYOND} There, the model with a constant state has no measurement that counts; its step, which costs the same "
    "at any context, is taken from where it has one"
)
CURVE = 24  # points of a curve from one measured context to the next
Measured = Sequence[tuple[float, float]]  # context and time of a step, in any order; no context twice


@dataclass(frozen=True)
class Crossing:
    """What two models' measured steps say, for the contexts that both measurements cover.

    outcome, of the model with the constant state: crosses: it is slower up to ``context`` and faster from there on.
    always, never: it is faster (slower) at all of these contexts. falls_behind: faster first, then slower. several: the
    lines cross more than once, so that there is no single answer.
    span: from where to where both were measured. between: the measured contexts between which ``context`` was
    interpolated. step: the time of both models' steps there. is_beyond: whether it is said of contexts at which the
    model with the constant state was not measured.
    """

    outcome: Outcome
    span: tuple[float, float]
    context: float | None = None
    between: tuple[float, float] | None = None
    step: float | None = None
    is_beyond: bool = False


def level(constant: Measured, contexts: Iterable[float]) -> list[tuple[float, float]]:
    """``constant``, and its first and last time again at the first and last of ``contexts`` that lie beyond it.

    For a model whose step costs the same at any context. Empty if nothing of it was measured.
    """
    measured, reached = sorted(constant), [*contexts]
    if not measured or not reached:
        return measured
    (first, early), (last, late) = measured[0], measured[-1]
    before = [(min(reached), early)] if min(reached) < first else []
    after = [(max(reached), late)] if max(reached) > last else []
    return [*before, *measured, *after]


def crossing_of(constant: Measured, growing: Measured, is_level: bool = False) -> Crossing | None:
    """Where ``constant`` begins to be faster than ``growing``; None if the measured contexts have nothing in common.

    Between two measured contexts, the time is taken as linear in the context, as the bytes of a cache are. Nothing is
    said beyond what was measured of both; is_level: of ``growing``, as the other is the same everywhere. Equal times
    count as faster.
    """
    if not constant or not growing:
        return None
    if is_level:
        found = crossing_of(level(constant, (context for context, _ in growing)), growing)
        low, high = min(constant)[0], max(constant)[0]
        said = (found.span if found.context is None else (found.context,) * 2) if found else (low, high)
        return found and replace(found, is_beyond=said[0] < low or said[1] > high)
    ours, others = sorted(constant), sorted(growing)
    low, high = max(ours[0][0], others[0][0]), min(ours[-1][0], others[-1][0])
    if low > high:
        return None
    contexts = sorted({context for context, _ in (*ours, *others) if low <= context <= high})
    gains = [at(others, context) - at(ours, context) for context in contexts]
    ahead = [gain >= 0 for gain in gains]
    changes = [index for index in range(1, len(ahead)) if ahead[index] != ahead[index - 1]]
    span = (low, high)
    if not changes:
        return Crossing("always" if ahead[0] else "never", span)
    if len(changes) > 1:
        return Crossing("several", span)
    index = changes[0]
    left, right = contexts[index - 1], contexts[index]
    share = gains[index - 1] / (gains[index - 1] - gains[index])
    context = min(max(left + share * (right - left), left), right)
    outcome: Outcome = "crosses" if ahead[index] else "falls_behind"
    return Crossing(outcome, span, context, (left, right), at(ours, context))


def at(measured: Measured, context: float) -> float:
    """The time at ``context``, within the contexts of ``measured``, which are in order."""
    for (left, before), (right, after) in pairwise(measured):
        if left <= context <= right:
            share = (context - left) / (right - left)
            return before + share * (after - before)
    return measured[0][1]


def curve_of(measured: Measured) -> list[tuple[float, float]]:
    """Points of the same interpolation, close enough for a line on logarithmic axes."""
    points: list[tuple[float, float]] = []
    for (left, before), (right, after) in pairwise(sorted(measured)):
        for number in range(CURVE):
            context = left * (right / left) ** (number / CURVE)
            points.append((context, before + (context - left) / (right - left) * (after - before)))
    return [*points, *sorted(measured)[-1:]]


def tokens_text(context: float) -> str:
    """A context in whole tokens. Halves, of which the mean of an even number of steps has one, are rounded up."""
    return f"{math.floor(context + 0.5):,}"


def crossing_text(crossing: Crossing) -> str:
    """For a cell of a table: for example ``905 (512 to 1,024)``, with :data:`BEYOND` where that is so."""
    return f"{_text(crossing)}{BEYOND if crossing.is_beyond else ''}"


def _text(crossing: Crossing) -> str:
    low, high = (tokens_text(end) for end in crossing.span)
    if crossing.outcome in ("always", "never"):
        where = f"at {low}" if low == high else f"from {low} to {high}"
        return f"{'faster' if crossing.outcome == 'always' else 'slower'} {where}"
    if crossing.outcome == "several":
        return f"crosses several times from {low} to {high}"
    assert crossing.context is not None
    assert crossing.between is not None
    left, right = (tokens_text(end) for end in crossing.between)
    text = f"{tokens_text(crossing.context)} ({left} to {right})"
    return text if crossing.outcome == "crosses" else f"slower from {text}"
