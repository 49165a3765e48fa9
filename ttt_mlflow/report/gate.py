"""The gate of continuous integration: whether a comparison lets a change pass."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttt_mlflow.report.comparison import CANNOT_TELL, Compared, Pair

PASSED, SLOWER, UNKNOWN = 0, 1, 5  # exit codes


@dataclass(frozen=True)
class Gate:
    """fail_above_pct: a slowdown above this fails; None: no gate. inconclusive_ok: *cannot tell* passes.

    allow_missing: a baseline configuration without a candidate passes.
    """

    fail_above_pct: float | None = None
    inconclusive_ok: bool = False
    allow_missing: bool = False


@dataclass(frozen=True)
class Decision:
    """The exit code, one line for each reason for it, and whether a limit was given."""

    exit_code: int
    reasons: tuple[str, ...]
    asked: bool = True

    @property
    def text(self) -> str:
        """In one line; empty if there is nothing to say: no limit, and no condition decided."""
        if not self.asked and self.exit_code == PASSED:
            return ""
        word = {PASSED: "passed", SLOWER: "failed", UNKNOWN: "cannot tell"}[self.exit_code]
        return f"Gate: {word}" + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def decide(compared: Compared, gate: Gate) -> Decision:
    """Exit code 1 if a pair is slower by more than the limit, else 5 if one cannot be told, else 0.

    Without a limit the code is 0, with ``strict`` 5 where a condition decided a pair.
    """
    limit = gate.fail_above_pct
    if limit is None:
        decided = [f"{pair.title}: {pair.why}" for pair in compared.pairs if pair.condition_decided]
        return Decision(PASSED if gate.inconclusive_ok or not decided else UNKNOWN, tuple(decided), asked=False)
    slower = [
        f"{pair.title} is {pair.slowdown_pct:.2f} % slower, more than {limit:g} %"
        for pair in compared.pairs
        if too_slow(pair, limit)
    ]
    if slower:
        return Decision(SLOWER, tuple(slower))
    unknown = [*_unknown(compared.pairs, limit)]
    if not gate.allow_missing:
        unknown += [f"{title}: the candidate has no such run" for title in compared.alone_baseline]
    return Decision(UNKNOWN if unknown and not gate.inconclusive_ok else PASSED, tuple(unknown))


def too_slow(pair: Pair, limit_pct: float) -> bool:
    """Whether the pair is slower, and its change above the limit."""
    return pair.counts and pair.answer == "slower" and (pair.slowdown_pct or 0.0) > limit_pct


def _unknown(pairs: Sequence[Pair], limit: float) -> list[str]:
    found = []
    for pair in pairs:
        if not pair.counts:
            continue
        if pair.answer == CANNOT_TELL:
            found.append(f"{pair.title}: {pair.why}")
        elif pair.answer == "no significant difference" and (worst := _worst_pct(pair)) is not None and worst > limit:
            found.append(f"{pair.title}: it may be up to {worst:.2f} % slower; a limit of {limit:g} % needs more runs")
    return found


def _worst_pct(pair: Pair) -> float | None:
    """The largest slowdown in the confidence interval, in percent."""
    one = pair.comparison
    if one is None or one.low_pct is None or one.high_pct is None:
        return None
    return -one.low_pct if one.quantity == "rate" else one.high_pct
