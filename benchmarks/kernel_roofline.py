"""Draws docs/pictures/kernels-roofline.png from the output of micro.sh: `python -m benchmarks.kernel_roofline FILE`.

Each point is a kernel with a batch. Its operations are those of the inner net's products, without the layer norms. Its
bytes are the minimum of its form. A kernel at the memory's slope therefore moves no other bytes and has no other waits.
"""

import argparse
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

F, N, M, HEADS, BYTES = 64, 256, 16, 32, 2  # head dimension, hidden units, mini-batch, heads, bytes of float16
SLOTS = (M + 1) / 2  # used slots, including that of this token, averaged over a mini-batch
# floating-point operations per head and token, with the fold averaged over the mini-batch
FLOPS = {
    "1": 4 * F * F + 4 * F * SLOTS + 2 * F * F,
    "2": 10 * F * N + 4 * (F + N) * SLOTS + 4 * F * N,
}
# elements that a form moves per head and token: the state with its fold, and the vectors (docs/rank-1-form.md)
ELEMENTS = {
    ("1", "dual"): F * F * (1 + 1 / M) + F * (1 + 1 / M) + 2 * F * (SLOTS) + 4 * F + 1,
    ("2", "dual"): 2 * F * N * (1 + 1 / M) + (F + N) * (1 + 1 / M) + 2 * (F + N) * SLOTS + 4 * F + 1,
    ("1", "accumulate"): F * F * (1 + 2 * (M - 1) / M + 1 / M) + 5 * F,
    ("2", "accumulate"): 2 * F * N * (1 + 2 * (M - 1) / M + 1 / M) + 3 * (F + N) + 4 * F,
}
NAMES = {"1": "TTT-Linear", "2": "TTT-MLP", "dual": "rank-1 form", "accumulate": "accumulating form"}
COLORS = {("1", "dual"): "C0", ("2", "dual"): "C1", ("1", "accumulate"): "C2", ("2", "accumulate"): "C3"}


def read(text: str) -> tuple[dict[tuple[str, str], dict[int, float]], dict[str, float]]:
    """Microseconds by kernel and batch; the GPU's ceilings in operations and bytes per s. The last values count."""
    times: dict[tuple[str, str], dict[int, float]] = {}
    for net, form, batch, us in re.findall(
        r"^mlp_([12])_(dual|accumulate)_triton batch (\d+): ([\d,.]+) µs", text, re.M
    ):
        times.setdefault((net, form), {})[int(batch)] = float(us.replace(",", ""))
    read_gb, matmul = re.findall(r"the (?:GPU|card) reads ([\d,]+) GB/s, .* at ([\d,]+) TFLOP/s", text)[-1]
    ceilings = {"read": 1e9 * float(read_gb.replace(",", "")), "matmul": 1e12 * float(matmul.replace(",", ""))}
    return times, ceilings


def draw(times: dict[tuple[str, str], dict[int, float]], ceilings: dict[str, float], path: Path) -> None:
    figure, (roof, step) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    intensity = [0.3, ceilings["matmul"] / ceilings["read"], 1000]
    roof.plot(intensity, [min(x * ceilings["read"], ceilings["matmul"]) / 1e12 for x in intensity], "k-", lw=1)
    roof.text(0.35, 2.6, f"memory: {ceilings['read'] / 1e12:.2f} TB/s", rotation=38, fontsize=8)
    top = 1.15 * ceilings["matmul"] / 1e12
    roof.text(1000, top, f"fp16 products: {ceilings['matmul'] / 1e12:.0f} TFLOP/s", fontsize=8, ha="right")
    for (net, form), by_batch in times.items():
        label, color = f"{NAMES[net]}, {NAMES[form]}", COLORS[net, form]
        x = FLOPS[net] / (BYTES * ELEMENTS[net, form])
        y = [HEADS * batch * FLOPS[net] / us / 1e6 for batch, us in by_batch.items()]
        roof.plot([x] * len(y), y, "o", color=color, ms=5, label=label)
        batches = sorted(by_batch)
        step.plot(batches, [by_batch[batch] for batch in batches], "o-", color=color, label=label)
        if form == "dual":
            roofline = [1e6 * HEADS * batch * BYTES * ELEMENTS[net, form] / ceilings["read"] for batch in batches]
            step.plot(batches, roofline, "--", color=color, lw=1, label=f"{NAMES[net]}, roofline by bytes")
    for axes in (roof, step):
        axes.set(xscale="log", yscale="log")
        axes.grid(which="both", alpha=0.2)
    roof.set(xlabel="FLOP per byte that the form moves", ylabel="TFLOP/s", ylim=(1, 1500), title="Roofline")
    step.set(xlabel="batch", ylabel="µs per step", title="One layer, one token, mean over a mini-batch")
    batches = sorted({batch for by_batch in times.values() for batch in by_batch})
    step.set_xticks(batches, [str(batch) for batch in batches], minor=False)
    step.minorticks_off()
    step.legend(fontsize=7)
    roof.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.kernel_roofline", description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="output of benchmarks/micro.sh")
    file = parser.parse_args().file
    if not file.is_file():
        parser.error(f"{file}: no such file; give the output of benchmarks/micro.sh")
    target = Path(__file__).parents[1] / "docs/pictures/kernels-roofline.png"
    draw(*read(file.read_text()), target)
    print(f"drawn: {target}")
