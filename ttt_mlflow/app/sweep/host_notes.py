"""What a sweep says about the GPUs of its host: which cannot be used as they are, and what neighbors change."""

from collections.abc import Iterator, Mapping, Sequence

from ttt_mlflow import names
from ttt_mlflow.app.sweep.measured import Measured
from ttt_mlflow.config import SweepConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.neighbors_cache import known_neighbors
from ttt_mlflow.measurement.slower_gpus import SlowerGpu, slower_gpus
from ttt_mlflow.telemetry.gpus import Gpu
from ttt_mlflow.telemetry.siblings import gpu_faults

PREFIX = "GPU-"  # of a UUID, as NVML spells it
REMEDIES = {
    "busy": "wait until it is idle",
    "different": "set it as they are",
}


def marked_gpus(config: SweepConfig, gpus: Sequence[Gpu]) -> dict[str, str]:
    """{UUID without NVML's prefix: what distinguishes the GPU} of those whose numbers the table marks.

    Raises BadInput, one line for each GPU that is in use or differs from its siblings, unless ``any_gpu`` was given.
    """
    faults = gpu_faults(gpus)
    if faults and not config.any_gpu:
        others = [str(gpu.number) for gpu in gpus if gpu.uuid not in {fault.uuid for fault in faults}]
        leave_out = f", leave it out with gpus={','.join(others)}" if others and config.executor == "process" else ""
        asked = f"gpus={','.join(config.gpus) if config.gpus else 'auto'}"
        lines = [
            f"{asked}: {one.text}; {REMEDIES[one.kind]}{leave_out}, or mark its numbers: any_gpu" for one in faults
        ]
        raise BadInput("\n".join(lines))
    marked: dict[str, str] = {}
    for one in faults:
        uuid = one.uuid.removeprefix(PREFIX)
        marked[uuid] = f"{marked[uuid]}; {one.text}" if uuid in marked else one.text
    return marked


def neighbor_notes(gpus: Sequence[Gpu], exclusive: bool) -> Iterator[str]:
    """What is known of measuring side by side on ``gpus``, one line each; nothing for fewer than two."""
    known = known_neighbors(_uuids(gpus)) if len(gpus) > 1 else None
    if known is None:
        return
    source = f"beside others on this host (doctor --neighbors, {known.measured_at[:10]})"
    if found := known.that_differ:
        offer = "" if exclusive else "; --exclusive measures launch-bound runs alone on the host"
        yield f"{', '.join(map(str, found))} {source}{offer}"
    yield from (f"{sentence} ({known.measured_at[:10]})" for sentence in known.slower)


def not_known_note(gpus: Sequence[Gpu]) -> str | None:
    """What to do where it was never measured whether runs side by side change each other; None if it was."""
    if len(gpus) < 2 or known_neighbors(_uuids(gpus)):
        return None
    todo = "`ttt-mlflow doctor --neighbors` measures it"
    return f"whether runs side by side change each other is not known on this host; {todo}"


def _uuids(gpus: Sequence[Gpu]) -> list[str]:
    return [gpu.uuid.removeprefix(PREFIX) for gpu in gpus]


def slower_notes(runs: Sequence[Measured], numbers: Mapping[str, int]) -> list[str]:
    """The GPUs that were slower than their siblings, by those runs of a sweep that several of them measured.

    Such runs have the same configuration, code and way of measuring, and GPUs of the same name. numbers: of the GPUs of
    this host, by UUID without NVML's prefix.
    """
    alike: dict[tuple[str | None, ...], dict[str, list[float]]] = {}
    tags = (names.TAG_CONFIG_ID, names.TAG_GPU_NAME, names.TAG_HOST, names.TAG_CODE_ID, names.TAG_METHOD)
    for run in runs:
        uuid, value = run.tags.get(names.TAG_GPU_UUID.name), _throughput(run)
        if run.status == "ok" and run.verdict != "invalid" and uuid and value:
            key = tuple(run.tags.get(tag.name) for tag in tags)
            named = str(numbers.get(uuid, uuid))
            alike.setdefault(key, {}).setdefault(named, []).append(value)
    worst: dict[str, SlowerGpu] = {}
    for by_gpu in alike.values():
        for one in slower_gpus(by_gpu):
            if one.gpu not in worst or one.pct > worst[one.gpu].pct:
                worst[one.gpu] = one
    return [str(one) for one in worst.values()]


def _throughput(run: Measured) -> float | None:
    metric = names.PREFILL_TOKENS_PER_S if run.tags.get(names.TAG_KIND.name) == "prefill" else names.DECODE_TOKENS_PER_S
    return run.metrics.get(metric.name)
