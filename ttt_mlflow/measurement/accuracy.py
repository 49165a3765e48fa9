"""How far a model's predictions are from a reference's: logits, distributions and greedy tokens.

Everything is computed in float64, so that the comparison adds no error of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ttt_mlflow import names
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.names import Metrics

NORMAL_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass
class Deviations:
    """The predictions of some sequences against a reference's, position by position.

    squared_error, squared_norm: of the logits, ||l - ref||² and ||ref||² over all sequences. total_variation: mean over
    the sequences. differs: for each sequence, whether the greedy token is another one. Positions are in order.
    """

    squared_error: list[float] = field(default_factory=list)
    squared_norm: list[float] = field(default_factory=list)
    total_variation: list[float] = field(default_factory=list)
    differs: list[list[bool]] = field(default_factory=list)

    def add(self, logits: Tensor, reference: Tensor) -> None:
        """One more position: logits and reference [B, V]. Raises RunFailed if one of them is not finite."""
        logits, reference = logits.double(), reference.double()
        for what, values in (("the logits", logits), ("the reference's logits", reference)):
            if not bool(values.isfinite().all()):
                raise RunFailed(f"{what} are not finite at prediction {len(self.differs) + 1}: nothing can be compared")
        self.squared_error.append(float((logits - reference).square().sum()))
        self.squared_norm.append(float(reference.square().sum()))
        distance = (logits.softmax(-1) - reference.softmax(-1)).abs().sum(-1) / 2
        self.total_variation.append(float(distance.mean()))
        self.differs.append((logits.argmax(-1) != reference.argmax(-1)).tolist())

    @property
    def logits_error(self) -> float:
        """||l - ref|| / ||ref|| over all positions and sequences."""
        return relative(sum(self.squared_error), sum(self.squared_norm))

    @property
    def mean_total_variation(self) -> float:
        return sum(self.total_variation) / len(self.total_variation)

    @property
    def differing_tokens_pct(self) -> float:
        flags = [one for position in self.differs for one in position]
        return 100 * sum(flags) / len(flags)

    def rows(self) -> list[tuple[float, float, float]]:
        """For each position the logits' error, the total variation, and the differing tokens in percent."""
        errors = map(relative, self.squared_error, self.squared_norm)
        shares = (100 * sum(position) / len(position) for position in self.differs)
        return list(zip(errors, self.total_variation, shares, strict=True))


def relative(squared_error: float, squared_norm: float) -> float:
    """A norm of errors divided by the norm of what they are errors of; 0 for no error, whatever the norm."""
    if squared_error == 0:
        return 0.0
    return math.sqrt(squared_error / squared_norm) if squared_norm else math.inf


def ratio_of_shares(ours: Sequence[Sequence[bool]], others: Sequence[Sequence[bool]]) -> Ratio | None:
    """How many times as often ``ours`` is true as ``others``, flag by flag; None if either is never true.

    The interval is that of a ratio of two shares of the same cases. With a cases true in both, b only in ours and c
    only in others, the delta method gives the ratio's logarithm the variance (b + c) / ((a + b) (a + c)). It takes the
    cases as independent.
    """
    pairs = [pair for one, other in zip(ours, others, strict=True) for pair in zip(one, other, strict=True)]
    both = sum(one and other for one, other in pairs)
    mine, theirs = sum(one for one, _ in pairs), sum(other for _, other in pairs)
    if not mine or not theirs:
        return None
    value = mine / theirs
    spread = NORMAL_95 * math.sqrt((mine + theirs - 2 * both) / (mine * theirs))
    return Ratio(value, value * math.exp(-spread), value * math.exp(spread))


def first_differences(tokens: Tensor, reference: Tensor) -> list[int | None]:
    """For each sequence the first token, counted from 1, that is not the reference's; None if all are. Both [B, T]."""
    differs = tokens != reference
    return [int(row.int().argmax()) + 1 if bool(row.any()) else None for row in differs]


def differing_pct(tokens: Tensor, others: Tensor) -> float:
    """The share of tokens [B, T] that are not the others', in percent."""
    return 100 * float((tokens != others).double().mean())


@dataclass(frozen=True)
class Side:
    """One model beside the reference. deviations: None if its logits cannot be had. first: see first_differences."""

    deviations: Deviations | None
    first: Sequence[int | None]

    @property
    def first_difference(self) -> int | None:
        return min((one for one in self.first if one is not None), default=None)

    @property
    def parted_sequences_pct(self) -> float:
        return 100 * sum(one is not None for one in self.first) / len(self.first)


@dataclass(frozen=True)
class Accuracy:
    """What was compared. yardstick: plain PyTorch in the dtype of the run, if there is one to compare with.

    eager_differing_pct: the tokens that differ between the decode as measured and eager decode; None if it is eager.
    """

    sequences: int
    positions: int
    own: Side
    yardstick: Side | None = None
    eager_differing_pct: float | None = None

    @property
    def ratio(self) -> Ratio | None:
        """How many times as often the model's greedy tokens differ from the reference's as the yardstick's."""
        other = self.yardstick.deviations if self.yardstick else None
        if self.own.deviations is None or other is None:
            return None
        return ratio_of_shares(self.own.deviations.differs, other.differs)

    def metrics(self) -> Metrics:
        """All that was found; what was not is absent."""
        found: Metrics = {names.ACCURACY_SEQUENCES: self.sequences, names.ACCURACY_POSITIONS: self.positions}
        for side, (error, variation, differing, first, parted) in zip((self.own, self.yardstick), SIDES, strict=True):
            if side is None:
                continue
            found[parted] = side.parted_sequences_pct
            if side.first_difference is not None:
                found[first] = side.first_difference
            if side.deviations is not None:
                found[error] = side.deviations.logits_error
                found[variation] = side.deviations.mean_total_variation
                found[differing] = side.deviations.differing_tokens_pct
        if self.eager_differing_pct is not None:
            found[names.ACCURACY_EAGER_DIFFERING_TOKENS_PCT] = self.eager_differing_pct
        if ratio := self.ratio:
            metric = names.ACCURACY_RATIO
            found |= {metric: ratio.value, metric.ci_low: ratio.low, metric.ci_high: ratio.high}
        return found


# of the model, and of the yardstick: logits' error, total variation, differing tokens, first difference, parted
SIDES = (
    (
        *(names.ACCURACY_LOGITS_ERROR, names.ACCURACY_TOTAL_VARIATION, names.ACCURACY_DIFFERING_TOKENS_PCT),
        *(names.ACCURACY_FIRST_DIFFERENCE, names.ACCURACY_PARTED_SEQUENCES_PCT),
    ),
    (
        *(names.ACCURACY_YARDSTICK_LOGITS_ERROR, names.ACCURACY_YARDSTICK_TOTAL_VARIATION),
        names.ACCURACY_YARDSTICK_DIFFERING_TOKENS_PCT,
        *(names.ACCURACY_YARDSTICK_FIRST_DIFFERENCE, names.ACCURACY_YARDSTICK_PARTED_SEQUENCES_PCT),
    ),
)
