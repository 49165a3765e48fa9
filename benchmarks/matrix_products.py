"""How fast are the matrix products of a prompt alone? `python -m benchmarks.matrix_products OUTPUT [--tokens 32768]`

The four products of each layer of a TTT model, in the order of the model and with weights of their own for each layer,
back to back for ten seconds before they are timed: a GPU at its power cap has reached its clocks by then. It is the
yardstick for a prompt on this GPU: OUTPUT/matrix_products.txt has the median of the passes, and tokens per second.
"""

import argparse
import statistics
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional as F

from ttt_mlflow.models.ttt.model import padded
from ttt_mlflow.models.ttt.sizes import config_of

WARM_UP_S = 10.0
PASSES = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--model", default="ttt-1b")
    given = parser.parse_args()
    config = config_of(given.model, "linear")
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads
    shapes = ((padded(3 * width + heads), width), (width, width), (2 * inner, width), (width, inner))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float16, device="cuda")

    layers = [[normal(*shape) * 0.02 for shape in shapes] for _ in range(config.num_layers)]
    rows = {size: normal(given.tokens, size) for size in (width, inner)}

    def one_pass() -> None:
        for weights in layers:
            for weight in weights:
                F.linear(rows[weight.shape[1]], weight)

    began = time.monotonic()
    while time.monotonic() - began < WARM_UP_S:
        one_pass()
        torch.cuda.synchronize()
    edges = [torch.cuda.Event(enable_timing=True) for _ in range(PASSES + 1)]
    edges[0].record()
    for edge in edges[1:]:
        one_pass()
        edge.record()
    torch.cuda.synchronize()
    times = [first.elapsed_time(second) for first, second in pairwise(edges)]
    median = statistics.median(times)
    flops = 2 * given.tokens * config.num_layers * sum(rows * columns for rows, columns in shapes)
    text = (
        f"$ python -m benchmarks.matrix_products OUTPUT --tokens {given.tokens} --model {given.model}\n"
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {torch.cuda.get_device_name()}, torch {torch.__version__}\n"
        f"{median:.2f} ms [{min(times):.2f}, {max(times):.2f}], {flops / median / 1e9:.0f} TFLOP/s, "
        f"{1e3 * given.tokens / median:,.0f} tokens/s\n"
    )
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "matrix_products.txt").write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
