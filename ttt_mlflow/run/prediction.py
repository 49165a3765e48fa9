"""What a run will take, said before anything is built: memory of the GPU, and time."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown, known_ceilings
from ttt_mlflow.measurement.loop import PASSES_BEFORE_STOP, PASSES_LEAST, WARMUP_SHARE
from ttt_mlflow.measurement.roofline import floor_ms
from ttt_mlflow.models.allocations import KINDS, Allocate, Allocations, Free
from ttt_mlflow.models.entry import Execution
from ttt_mlflow.models.registry import find_model, package_of
from ttt_mlflow.plugins import answer_of
from ttt_mlflow.run.allocator import Block, CachingAllocator
from ttt_mlflow.run.plan import Plan, make_plan
from ttt_mlflow.run.reserve import steps_per_pass

# Of the device, beside PyTorch's allocator; measured on an H200 and an H100 with driver 580 and CUDA 13. The context
# has the libraries' code.
CONTEXT_BYTES, GRAPH_BYTES = 720_000_000, 75_000_000
CACHED, CONTEXT = "cached by PyTorch", "CUDA context"
# Of a run without its passes, in a process that need not import: weights and preparation, compilation, recording.
START_S, COMPILED_S, END_S = 2.0, 6.0, 2.0
WARMUP_S = 2.5  # until the clocks have settled
SHARE_OF_ROOFLINE = 0.6
MOST_BATCH = 1 << 24


@dataclass(frozen=True)
class Prediction:
    """What a run is expected to take. Each value is None where it is not known.

    peak_bytes: what it takes of the GPU's memory, as NVML counts it (``device_memory_used_gb``, on a GPU without other
    processes). allocated_bytes: the part that tensors have at the peak (``peak_memory_allocated_gb``); the rest is the
    CUDA context, and what PyTorch's allocator keeps to use it again. reserved_bytes: what that allocator has
    (``peak_memory_reserved_gb``). parts: what peak_bytes is made of, by name.
    fits: whether the GPU has what the run cannot do without, which is the tensors and the context.
    seconds: from the start of the run's process to its end.
    """

    peak_bytes: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    parts: tuple[tuple[str, int], ...] = ()
    fits: bool | None = None
    seconds: float | None = None


def predict(plan: Plan, total_bytes: int | None) -> Prediction:
    """What ``plan`` is expected to take on a GPU with ``total_bytes`` of memory; None if that is not known.

    Nothing is predicted of the memory of a run on a CPU, or of a model that does not say what it allocates.
    """
    memory = predict_memory(plan)
    if memory is None:
        return Prediction(seconds=expected_seconds(plan))
    context = dict(memory.parts)[CONTEXT]
    assert memory.allocated_bytes is not None
    fits = None if total_bytes is None else memory.allocated_bytes + context <= total_bytes
    return replace(memory, fits=fits, seconds=expected_seconds(plan))


def predict_memory(plan: Plan) -> Prediction | None:
    """The memory of ``plan``, or None where nothing is known."""
    entry, used = plan.entry, plan.used
    declared = entry.allocations
    if declared is None or plan.device.type != "cuda":
        return None
    execution = Execution(bool(used.use_compile), bool(used.cuda_graph))
    question = "what the model allocates"
    allocator, at_peak = answer_of(
        plan.package, question, lambda: replay(declared(plan.request, plan.workload, execution))
    )
    context = CONTEXT_BYTES + (GRAPH_BYTES if used.cuda_graph else 0)
    parts = [(kind, at_peak[kind]) for kind in KINDS]
    parts += [(CACHED, allocator.peak_reserved - allocator.peak_allocated), (CONTEXT, context)]
    return Prediction(
        peak_bytes=allocator.peak_reserved + context,
        allocated_bytes=allocator.peak_allocated,
        reserved_bytes=allocator.peak_reserved,
        parts=tuple(parts),
    )


def replay(made: Allocations) -> tuple[CachingAllocator, Counter[str]]:
    """The allocator after all events, and the bytes of each kind when most was allocated."""
    allocator, blocks = CachingAllocator(), dict[int, tuple[Block, str]]()
    now, at_peak = Counter[str](), Counter[str]()
    for event in made.events:
        if isinstance(event, Allocate):
            peak = allocator.peak_allocated
            block = allocator.allocate(event.size, event.pool)
            blocks[event.number] = block, event.kind
            now[event.kind] += block.size
            if allocator.peak_allocated > peak:
                at_peak = now.copy()
        elif isinstance(event, Free):
            block, kind = blocks.pop(event.number)
            now[kind] -= block.size
            allocator.free(block)
        else:
            allocator.empty_cache()
    return allocator, at_peak


def largest_batch(config: RunConfig, total_bytes: int, plan_of: Callable[[RunConfig], Plan] = make_plan) -> int:
    """The largest batch of ``config`` that fits into ``total_bytes`` of a GPU. ``config.batch`` is not read.

    A batch that the run would be refused with, as ``decode_path=overlapped`` has a largest one, does not fit either.
    Raises BadInput where the memory cannot be predicted, and if a batch of one does not fit.
    """

    def taken(batch: int) -> float:
        try:
            plan = plan_of(config.model_copy(update={"batch": batch}))  # what is chosen may depend on the batch
        except BadInput:
            if batch == 1:
                raise
            return math.inf
        memory = predict_memory(plan)
        if memory is None or memory.peak_bytes is None:
            why = "on a CPU" if plan.device.type != "cuda" else "for this model, which does not say what it allocates"
            raise BadInput(f"batch=max: memory cannot be predicted {why}; name the batches")
        return memory.peak_bytes

    if (least := taken(1)) > total_bytes:
        raise BadInput(
            f"batch=max: {config.model_name} takes {least / 1e9:.1f} GB with one sequence, and the GPU has "
            f"{total_bytes / 1e9:.1f} GB; use a smaller model or another GPU"
        )
    fits, too_large = 1, 2
    while too_large < MOST_BATCH and taken(too_large) <= total_bytes:
        fits, too_large = too_large, 2 * too_large
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if taken(middle) <= total_bytes:
            fits = middle
        else:
            too_large = middle
    return fits


def expected_seconds(plan: Plan) -> float | None:
    """The time of the run's process, or None where a number of passes is given and nothing is known of their length."""
    used, pass_s = plan.used, expected_pass_s(plan)
    beside = START_S + (COMPILED_S if used.use_compile else 0.0) + END_S
    if pass_s is None:
        return None if used.repeats is not None else beside + used.max_seconds
    warmup = WARMUP_S if used.warmup is None else used.warmup * pass_s
    if used.repeats is not None:
        return beside + warmup + used.repeats * pass_s
    warmup = min(warmup, max(pass_s, WARMUP_SHARE * used.max_seconds))
    precise, least = max(PASSES_BEFORE_STOP * pass_s, used.budget.section_s), PASSES_LEAST * pass_s
    return beside + warmup + max(least, min(precise, used.max_seconds - warmup))


def expected_pass_s(plan: Plan) -> float | None:
    """The time of a timed pass, from the roofline. None if the GPU's ceilings are not known, and on a CPU."""
    if plan.entry.work is None or plan.device.type != "cuda":
        return None
    try:
        ceilings = known_ceilings(plan.device)
    except CeilingsUnknown:
        return None
    stages = plan.stages("the work of a step") or []
    return steps_per_pass(plan.used) * floor_ms(stages, ceilings) / 1e3 / SHARE_OF_ROOFLINE


def missing_requirement(config: RunConfig) -> str | None:
    """What must be installed before ``config`` can be measured here, in one line with the command; None if nothing."""
    entry = find_model(config.model_name)
    package = package_of(entry.name)
    return answer_of(package, f"model_name={config.model_name}", entry.missing)
