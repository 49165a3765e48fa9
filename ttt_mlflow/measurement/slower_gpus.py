"""Names GPUs of one kind that are slower than their siblings, by runs of the same configuration on each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# Two runs of one configuration on one GPU differ by less than 0.5 to 1 % (docs/measuring.md, known variance).
NAMED_PCT = 1.0
COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True)
class SlowerGpu:
    """gpu: as it was named. pct: by how much it is slower than the median of all ``of`` GPUs; of two, the other."""

    gpu: str
    pct: float
    of: int

    def __str__(self) -> str:
        """For example ``GPU 3 is 1.8 % slower than the median of eight``."""
        count = COUNTED[self.of] if self.of < len(COUNTED) else str(self.of)
        than = "the other" if self.of == 2 else f"the median of {count}"
        return f"GPU {self.gpu} is {self.pct:.1f} % slower than {than}"


def slower_gpus(throughputs: Mapping[str, Sequence[float]], named_pct: float = NAMED_PCT) -> list[SlowerGpu]:
    """The GPUs that are slower by at least ``named_pct`` percent, the slowest first.

    throughputs: by GPU, the throughput of each of its runs of one configuration, all above 0. A GPU counts with the
    geometric mean of its runs, and is not named if one of them was as fast as is usual. Fewer than two GPUs have
    nothing to be compared with.
    """
    of_each = {gpu: math.exp(sum(map(math.log, runs)) / len(runs)) for gpu, runs in throughputs.items() if runs}
    if len(of_each) < 2:
        return []
    usual = max(of_each.values()) if len(of_each) == 2 else median(of_each.values())
    found = [SlowerGpu(gpu, 100 * (1 - value / usual), len(of_each)) for gpu, value in of_each.items()]
    named = [one for one in found if one.pct >= named_pct and max(throughputs[one.gpu]) < usual]
    return sorted(named, key=lambda one: -one.pct)
