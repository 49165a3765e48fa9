"""How often does `ttt-mlflow ab` call equal sides different? `python -m benchmarks.ab_stopping OUTPUT` (no GPU).

``ab`` looks at the confidence interval after each round and stops when it is narrow. That is a little too early by
chance. This simulates rounds of equal sides, whose runs differ by a given standard deviation, with the rule of ``ab``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttt_mlflow.app.ab.turns import ORDER, ROUNDS_LEAST, narrow
from ttt_mlflow.measurement.comparison import answers, compare

DEVIATIONS_PCT = (0.1, 0.2, 0.5, 0.8, 1.0, 1.5, 2.0)
RUNS_A_ROUND = len(ORDER) // 2  # of each side


def simulated(
    deviation_pct: float, resolution_pct: float, most_rounds: int, rng: np.random.Generator
) -> tuple[int, bool]:
    """The rounds of one comparison of equal sides, and whether it calls them different."""
    most = most_rounds * RUNS_A_ROUND
    sides = [[[value] for value in np.exp(rng.normal(0, deviation_pct / 100, most))] for _ in range(2)]
    for rounds in range(ROUNDS_LEAST, most_rounds + 1):
        made = rounds * RUNS_A_ROUND
        found = compare(sides[0][:made], sides[1][:made], resolution_pct=resolution_pct)
        if narrow(found, resolution_pct):
            break
    return rounds, answers([found], resolution_pct)[0] in ("faster", "slower")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.ab_stopping", description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=Path, help="folder for ab_stopping.txt")
    parser.add_argument("--comparisons", type=int, default=2000, help="of each standard deviation [2000]")
    parser.add_argument("--resolution", type=float, default=1.0, help="half-width at which ab stops, in percent [1]")
    parser.add_argument("--most-rounds", type=int, default=12, help="rounds that the time is enough for [12]")
    arguments = parser.parse_args(words)
    rng = np.random.default_rng(0)
    lines = [
        f"$ python -m benchmarks.ab_stopping {' '.join(sys.argv[1:] if words is None else words)}",
        f"{arguments.comparisons} comparisons of equal sides, resolution {arguments.resolution:g} %, "
        f"at most {arguments.most_rounds} rounds",
    ]
    for deviation in DEVIATIONS_PCT:
        ended = [
            simulated(deviation, arguments.resolution, arguments.most_rounds, rng) for _ in range(arguments.comparisons)
        ]
        rounds, different = np.mean([one[0] for one in ended]), np.mean([one[1] for one in ended])
        lines.append(f"runs differ by {deviation:g} %: {100 * different:.1f} % called different, {rounds:.1f} rounds")
        print(lines[-1], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "ab_stopping.txt").write_text("\n".join([*lines, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
