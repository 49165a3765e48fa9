"""Where does the time of a decode step go, kernel by kernel? `python -m benchmarks.step_kernels OUTPUT`

For both inner nets and some batches of ttt-1b, random weights, fp16, as launches and as kernels that overlap: a CUDA
graph of one step is replayed, without the profiler for the time of a step, and under it for the start and the end of
each kernel. Prints a table of a layer's kernels and writes it to OUTPUT with what was recorded (step_kernels.json) and
a picture (step_kernels.png). Needs a GPU, but for --from, which computes and draws again.

Kernels overlap. The share of one is the time from the end of all earlier ones to its own end, so the shares of a layer
add up to its time, and the medians that are printed nearly do. The rest is the share without the time of its bytes at
the GPU's read bandwidth: latency and waiting. Below zero, it read while an earlier kernel still ran.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median

import click
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ttt_mlflow.kernels.overlapped.shape import LARGEST_STAGED
from ttt_mlflow.measurement.ceilings import measure_ceilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, keep_ceilings, known_ceilings
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.graph_capture import captured, warm_stream
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import build, work
from ttt_mlflow.profilers.torch_profiler import record
from ttt_mlflow.profilers.trace import read_steps
from ttt_mlflow.report.style import COLORS, GRAY, figure_png
from ttt_mlflow.workload import INNER, Workload

NETS = {"mlp_1_dual_triton": "TTT-Linear", "mlp_2_dual_triton": "TTT-MLP"}
PATHS = (LAUNCHES, OVERLAPPED)
WARM_UP, TIMED, TRACED = 30, 100, 6  # replays of the graph
EDGE = 2  # layers at the beginning and at the end of a step that are left out, because their neighbors are others
BEFORE, LAYER, AFTER = "between steps, before the layers", "a layer", "after the layers"

# what a kernel does, and its color
PRODUCT, NORM, INNER_NET, OTHER = "product with weights", "norm or convolution", "inner net", "other"
COLOR = dict(zip((PRODUCT, NORM, INNER_NET, OTHER), (COLORS[0], COLORS[2], COLORS[1], GRAY), strict=True))

# A stage of the model's work, counted from the inner net's. The weights of a norm are with the product after it.
FILTERS, PROJECTION, QK_FILTERS, THE_INNER_NET, OUTPUT, GATE_AND_UP, DOWN, HEAD = range(-3, 5)
FIRST, LAST_NORM = "conv_rms_norm_kernel", "add_rms_norm_kernel"  # of each layer; before the head
NAMED = {
    FIRST: ("residual, convolution, norms", NORM, (FILTERS,)),
    "qk_conv_rotary_kernel": ("convolutions of Q and K, rotary", NORM, (QK_FILTERS,)),
    "heads_kernel": ("convolutions of Q and K, inner net", INNER_NET, (QK_FILTERS, THE_INNER_NET)),
    "gated_layer_norm_kernel": ("gate, norm", NORM, ()),
    LAST_NORM: ("residual, norm", NORM, ()),
    "swiglu_kernel": ("SwiGLU", OTHER, ()),
    **{f"{net}_decode{kind}_kernel": ("inner net", INNER_NET, (THE_INNER_NET,))
       for net in ("linear", "mlp") for kind in ("", "_tensor")},
}  # fmt: skip
# other products are a library's, whose names depend on the GPU
OWN_PRODUCTS, SUMS = ("product_kernel", "staged_product_kernel"), "splitKreduce"
PRODUCTS = (
    ("projection", PRODUCT, (PROJECTION,)), ("output projection", PRODUCT, (OUTPUT,)),
    ("gate and up projections", PRODUCT, (GATE_AND_UP,)), ("down projection", PRODUCT, (DOWN,)),
)  # fmt: skip

Event = tuple[float, float, str]  # start and end in µs, name
Role = tuple[str, str, tuple[int, ...]]  # what the kernel is, what it does, the stages whose bytes it moves


class NoLayers(click.ClickException):
    """The recorded kernels are not those of whole steps."""


@dataclass(frozen=True)
class Trace:
    """What was recorded of one inner net, batch and path. step_ms: without the profiler. steps: kernels by start."""

    inner_net: str
    batch: int
    path: str
    step_ms: float
    steps: list[list[Event]]

    def __str__(self) -> str:
        return f"{NETS[self.inner_net]}, batch {self.batch}, {self.path}"


@dataclass(frozen=True)
class Kernel:
    """Of one kernel: medians over layers and steps, in µs. start_us: from the end of all kernels before ``where``."""

    where: str  # BEFORE, LAYER or AFTER
    name: str
    what: str
    does: str
    start_us: float
    duration_us: float
    share_us: float
    bytes: float
    read_us: float

    @property
    def rest_us(self) -> float:
        return self.share_us - self.read_us


@dataclass(frozen=True)
class Account:
    """Where the time of a step goes. A median of sums need not be the sum of medians."""

    layer_us: float
    profiled_ms: float  # a step under the profiler
    kernels: list[Kernel]

    def of(self, where: str) -> list[Kernel]:
        return [kernel for kernel in self.kernels if kernel.where == where]


def account(trace: Trace, read_gb_per_s: float) -> Account:
    """Raises NoLayers if the trace is too short, or if its steps or layers are not alike."""
    stages = work(request(trace.inner_net), Workload("decode", trace.batch, 1, 1))
    inner = next(index for index, stage in enumerate(stages) if stage.part == INNER)
    layers = stages[inner].count
    first, size = layers_of(trace, layers)
    last, length = first + layers * size, len(trace.steps[0])
    events = [event for step in trace.steps for event in step]
    latest = [events[0][0], *accumulate((end for _, end, _ in events), max)]  # ends before each event, and the last one

    def kernels(where: str, begins: Sequence[int], roles: Sequence[Role]) -> Iterator[Kernel]:
        """begins: the events with which the parts of the steps begin that are compared."""
        for offset, (what, does, numbers) in enumerate(roles):
            pairs = [(begin, begin + offset) for begin in begins]
            moved = sum(stages[inner + number].bytes / stages[inner + number].count for number in numbers)
            yield Kernel(
                where, events[pairs[0][1]][2], what, does,
                start_us=median(events[at][0] - latest[begin] for begin, at in pairs),
                duration_us=median(events[at][1] - events[at][0] for _, at in pairs),
                share_us=median(latest[at + 1] - latest[at] for _, at in pairs),
                bytes=moved, read_us=moved / read_gb_per_s / 1e3,
            )  # fmt: skip

    names = [name for _, _, name in trace.steps[0]]
    steps = [index * length for index in range(1, len(trace.steps))]  # before the first one, nothing is recorded
    inside = [step + first + layer * size for step in steps for layer in range(EDGE, layers - EDGE)]
    found = [
        *kernels(BEFORE, steps, [("embedding", OTHER, ())] * first),
        *kernels(LAYER, inside, roles_in_layer(names[first : first + size])),
        *kernels(AFTER, [step + last for step in steps], roles_after(names[last:])),
    ]
    profiled = median(latest[step + length] - latest[step] for step in steps)
    return Account(median(latest[begin + size] - latest[begin] for begin in inside), profiled / 1e3, found)


def request(inner_net: str) -> ModelRequest:
    return ModelRequest("ttt-1b", inner_net, torch.float16, torch.device("cuda"), 0, None)


def layers_of(trace: Trace, layers: int) -> tuple[int, int]:
    """Of a step: the number of the kernel with which its layers begin, and the kernels of a layer."""
    if len(trace.steps) < 2:
        raise NoLayers(f"{trace}: {len(trace.steps)} steps were recorded; it takes two, as nothing precedes the first")
    names = [[name for _, _, name in step] for step in trace.steps]
    if any(other != names[0] for other in names):
        counts = ", ".join(str(len(step)) for step in names)
        raise NoLayers(f"{trace}: the steps have different kernels ({counts}); was a kernel lost by the profiler?")
    begins = [index for index, name in enumerate(names[0]) if name == FIRST]
    if len(begins) != layers:
        raise NoLayers(f"{trace}: {FIRST} occurs {len(begins)} times in a step, not once in each of {layers} layers")
    sizes = {after - before for before, after in pairwise(begins)}
    size = min(sizes)
    if len(sizes) > 1 or begins[-1] + size > len(names[0]):
        raise NoLayers(f"{trace}: the layers have different numbers of kernels")
    return begins[0], size


def known_role(name: str) -> Role | None:
    """None for a product, and for a library's kernel. Copies and fills have the profiler's names."""
    return ("copy or fill", OTHER, ()) if name.startswith(("Memset", "Memcpy")) else NAMED.get(name)


def roles_in_layer(names: Sequence[str]) -> list[Role]:
    """Raises NoLayers if there are not four products."""
    roles: list[Role] = []
    count, after_library = 0, False  # products so far; whether the kernel before is a library's
    for name in names:
        if known := known_role(name):
            roles.append(known)
        elif SUMS in name or (
            after_library and name not in OWN_PRODUCTS
        ):  # a product in two kernels: parts, and then their sums
            roles.append((f"sums of the {PRODUCTS[(count - 1) % len(PRODUCTS)][0]}", PRODUCT, ()))
        else:
            roles.append(PRODUCTS[count % len(PRODUCTS)])
            count += 1
        after_library = not known and name not in OWN_PRODUCTS
    if count != len(PRODUCTS):
        raise NoLayers(f"a layer has {count} products, not {len(PRODUCTS)}: {', '.join(names)}")
    return roles


def roles_after(names: Sequence[str]) -> list[Role]:
    """After the last norm the head's product, and then what chooses the next tokens."""
    roles, head = list[Role](), ("head", PRODUCT, (HEAD,))
    for name in names:
        if known := known_role(name):
            roles.append(known)
        elif SUMS in name:
            roles.append(("sums of the head", PRODUCT, ()))
        elif NAMED[LAST_NORM] in roles and head not in roles:
            roles.append(head)
        else:
            roles.append(("sampling" if head in roles else "position", OTHER, ()))
    return roles


def table(trace: Trace, found: Account) -> str:
    read = sum(kernel.read_us for kernel in found.of(LAYER))
    lines = [
        f"{trace}: {trace.step_ms:.4f} ms a step, under the profiler {found.profiled_ms:.4f}",
        f"a layer: {found.layer_us:.2f} µs, of which {read:.2f} for its bytes",
        f"{'':34} {'start':>8} {'duration':>8} {'share':>8} {'MB':>8} {'read':>8} {'rest':>8}  µs; kernel",
    ]
    for where in (BEFORE, LAYER, AFTER):
        kernels = found.of(where)
        share, moved, reading = (
            sum(getattr(one, name) for one in kernels) for name in ("share_us", "bytes", "read_us")
        )
        lines.append(f"{where:34} {'':8} {'':8} {share:8.2f} {moved / 1e6:8.2f} {reading:8.2f} {share - reading:8.2f}")
        lines += [
            f"  {one.what:32} {one.start_us:8.2f} {one.duration_us:8.2f} {one.share_us:8.2f} {one.bytes / 1e6:8.2f} "
            f"{one.read_us:8.2f} {one.rest_us:8.2f}  {one.name[:48]}"
            for one in kernels
        ]
    return "\n".join(lines)


def draw(accounts: Sequence[tuple[Trace, Account]], title: str) -> Figure:
    """A layer of each path, one above the other: a bar for each kernel, its share in full color."""
    rows = [len(found.of(LAYER)) for _, found in accounts]
    figure = Figure(figsize=(9, 1.7 + 0.27 * sum(rows)), layout="constrained")
    parts = figure.subplots(len(accounts), 1, sharex=True, squeeze=False, height_ratios=[count + 1 for count in rows])
    right = max(found.layer_us for _, found in accounts)
    left = min(one.start_us for _, found in accounts for one in found.of(LAYER))
    for axes, (trace, found) in zip(parts[:, 0], accounts, strict=True):
        kernels = found.of(LAYER)
        for row, one in enumerate(kernels):
            end = one.start_us + one.duration_us
            axes.barh(row, one.duration_us, left=one.start_us, height=0.72, color=COLOR[one.does], alpha=0.3)
            axes.barh(row, one.share_us, left=end - one.share_us, height=0.72, color=COLOR[one.does])
            axes.barh(row + 0.3, one.read_us, left=end - one.read_us, height=0.12, color="black")
            axes.text(end + right / 150, row, f"{one.share_us:.1f}", va="center", fontsize=9)
        axes.axvline(0, color="black", lw=0.8)
        axes.axvline(found.layer_us, color="black", lw=0.8, ls="--")
        axes.set_yticks(range(len(kernels)), [one.what for one in kernels], fontsize=9)
        axes.set_ylim(len(kernels) - 0.4, -0.6)
        axes.set_title(
            f"{trace.path}: {found.layer_us:.1f} µs a layer, {trace.step_ms:.3f} ms a step", fontsize=10, loc="left"
        )
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    parts[-1, 0].set_xlim(left - 0.02 * right, 1.06 * right)
    parts[-1, 0].set_xlabel("µs from the end of the layer before; the dashed line is the end of this layer")
    used = [does for does in COLOR if any(one.does == does for _, found in accounts for one in found.of(LAYER))]
    handles: list[Artist] = [Patch(color=COLOR[does], label=does) for does in used]
    handles += [
        Patch(color="black", alpha=0.6, label="share, µs: after all earlier kernels"),
        Patch(color="black", alpha=0.2, label="beside an earlier kernel"),
        Line2D([], [], color="black", lw=2, label="reading its bytes"),
    ]
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


# The file


def as_json(gpu: str, read_gb_per_s: float, accounts: Sequence[tuple[Trace, Account | None]]) -> str:
    """What was recorded and what follows. Names stand once; times of kernels in µs from the first one's start."""
    content = []
    for trace, found in accounts:
        names = list(dict.fromkeys(name for step in trace.steps for _, _, name in step))
        zero = min((start for step in trace.steps for start, _, _ in step), default=0.0)
        steps = [
            [[round(start - zero, 3), round(end - zero, 3), names.index(name)] for start, end, name in step]
            for step in trace.steps
        ]
        content.append({**asdict(trace), **(asdict(found) if found else {}), "names": names, "steps": steps})
    return json.dumps({"gpu": gpu, "read_gb_per_s": read_gb_per_s, "traces": content})


def from_json(text: str) -> tuple[str, float, list[Trace]]:
    """The GPU, its read bandwidth and what was recorded. Raises NoLayers for another file."""
    try:
        content, traces = json.loads(text), []
        for one in content["traces"]:
            steps = [[(start, end, one["names"][number]) for start, end, number in step] for step in one["steps"]]
            traces.append(Trace(one["inner_net"], int(one["batch"]), one["path"], float(one["step_ms"]), steps))
        return str(content["gpu"]), float(content["read_gb_per_s"]), traces
    except (ValueError, KeyError, TypeError, IndexError) as error:
        said = f"not a file that `benchmarks.step_kernels` writes, step_kernels.json ({type(error).__name__}: {error})"
        raise NoLayers(said) from None


# On a GPU


def read_bandwidth(device: torch.device) -> float:
    """GB/s, from an earlier measurement if there is one."""
    try:
        return known_ceilings(device).read_gb_per_s
    except CeilingsUnknown:
        keep_ceilings(device, ceilings := measure_ceilings(device))
        return ceilings.read_gb_per_s


def recorded(model: TTTModel, inner_net: str, batch: int, path: str) -> Trace:
    model.use(path)
    state = model.new_state(batch)
    fed = torch.arange(batch, dtype=torch.int64, device=model.device)
    stream = warm_stream(model.device, lambda: model.greedy_step(fed, state))
    with captured(stream) as graph:
        model.greedy_step(fed, state)
    for _ in range(WARM_UP):
        graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(TIMED):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    step_ms = start.elapsed_time(end) / TIMED
    steps = read_steps(record(graph.replay, TRACED, model.device).content, on_gpu=True)
    kernels = [[(one.begin_us, one.end_us, one.name) for one in steps.of_step(step)] for step in range(steps.count)]
    return Trace(inner_net, batch, path, step_ms, kernels)


def record_all(nets: Sequence[str], batches: Sequence[int]) -> tuple[str, float, list[Trace]]:
    device = torch.device("cuda", torch.cuda.current_device())
    bandwidth, traces = read_bandwidth(device), []
    for net in nets:
        model = build(request(net))
        for batch in batches:
            for path in PATHS:
                traces.append(recorded(model, net, batch, path))
                torch.cuda.empty_cache()
        del model
    return torch.cuda.get_device_name(device), bandwidth, traces


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--batches", default="1,16", show_default=True, help="Batches, comma-separated. The first one is drawn.")
@click.option("--inner-nets", default=",".join(NETS), show_default=True, help="The same.")
@click.option("--from", "saved", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE.json",
              help="Compute and draw again from what was written before, and measure nothing.")  # fmt: skip
def main(output: Path, batches: str, inner_nets: str, saved: Path | None) -> None:
    nets = inner_nets.split(",")
    if unknown := set(nets) - set(NETS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; it takes {', '.join(NETS)}", param_hint="--inner-nets")
    if not all(one.isdecimal() and 1 <= int(one) <= LARGEST_STAGED for one in batches.split(",")):
        raise click.BadParameter(
            f"{batches}; it takes numbers from 1 to {LARGEST_STAGED}, as 1,16", param_hint="--batches"
        )
    sizes = [int(one) for one in batches.split(",")]
    if saved:
        gpu, bandwidth, traces = from_json(saved.read_text())
        traces = [one for one in traces if one.inner_net in nets and one.batch in sizes]
        if not traces:
            raise NoLayers(f"{saved} has nothing of {inner_nets} at batch {batches}")
        traces.sort(key=lambda one: (nets.index(one.inner_net), sizes.index(one.batch)))  # the first one is drawn
    elif not torch.cuda.is_available():
        raise click.ClickException("no CUDA GPU was found; record on one, or give --from FILE.json of an earlier one")
    else:
        gpu, bandwidth, traces = record_all(nets, sizes)
    print(f"{gpu}, reads {bandwidth:,.0f} GB/s")
    accounts: list[tuple[Trace, Account | None]] = []
    wrong: list[NoLayers] = []
    for trace in traces:  # what was recorded is kept, even if one of them is not as expected
        try:
            accounts.append((trace, found := account(trace, bandwidth)))
            print(f"\n{table(trace, found)}")
        except NoLayers as error:
            accounts.append((trace, None))
            wrong.append(error)
    output.mkdir(parents=True, exist_ok=True)
    (output / "step_kernels.json").write_text(as_json(gpu, bandwidth, accounts))
    net, batch = traces[0].inner_net, traces[0].batch
    drawn = [(one, found) for one, found in accounts if found and (one.inner_net, one.batch) == (net, batch)]
    if drawn:
        title = f"One layer of a decode step of ttt-1b: {NETS[net]}, batch {batch}, fp16, {gpu}"
        (output / "step_kernels.png").write_bytes(figure_png(draw(drawn, title)))
    if wrong:
        raise wrong[0]


if __name__ == "__main__":
    sys.exit(main())
