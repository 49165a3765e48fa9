"""Predictions of memory and time, compared with what runs on GPUs recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels import launch
from ttt_mlflow.measurement.ceilings import GpuCeilings
from ttt_mlflow.measurement.ceilings_cache import CeilingsUnknown
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.run import prediction
from ttt_mlflow.run.plan import Plan, make_plan
from ttt_mlflow.run.prediction import largest_batch, missing_requirement, predict
from ttt_mlflow.workload import Workload

H200 = 150_100_000_000  # bytes, as PyTorch reports them
LINEAR, MLP, MAMBA = "mlp_1_dual_triton", "mlp_2_dual_triton", "state-spaces/mamba-1.4b"
EAGER: dict[str, Any] = {"use_compile": False, "cuda_graph": False}
PREFILL: dict[str, Any] = {"mode": "prefill"}
PROFILE: dict[str, Any] = {"model_name": "ttt-profile"}
# decode runs of a version that gave mamba-ssm's code for prompts a prompt of one token, as prefill mode still does
PROMPT_OF_MAMBA: dict[str, Any] = {"model_name": MAMBA, **PREFILL}
# GB: of tensors, of PyTorch's allocator, on the device. From benchmarks/results, the newest of each configuration:
# 2026-11-25-h100 (profiles-4), 2026-11-28-h200 (ab_process-1, first_run-1), 2026-11-29-h200 (prefill-1,
# memory_model-1), and older ones
RECORDED: list[tuple[dict[str, Any], float, float, float]] = [
    ({"inner_net": LINEAR, "batch": 1024}, 13.41, 13.54, 14.34),
    ({"inner_net": LINEAR, "batch": 1024, "use_compile": False}, 13.41, 13.56, 14.35),
    ({"inner_net": LINEAR, "batch": 1024, **EAGER}, 13.41, 13.53, 14.25),
    ({"inner_net": LINEAR, "batch": 4096, **EAGER}, 45.48, 45.83, 46.55),
    ({"inner_net": MLP, "batch": 1024}, 71.84, 71.94, 72.74),
    ({"inner_net": MLP, "batch": 1024, **EAGER}, 71.84, 71.96, 72.68),
    ({**PROMPT_OF_MAMBA, "batch": 1024}, 11.63, 12.49, 13.28),
    ({"inner_net": LINEAR, "batch": 16, "promptlen": 2048, **PREFILL}, 5.022, 5.172, 5.892),
    ({"inner_net": LINEAR, "batch": 64, "promptlen": 2048, **PREFILL}, 5.547, 5.744, 6.464),
    ({"inner_net": LINEAR, "batch": 4, "promptlen": 8192, **PREFILL}, 4.927, 5.155, 5.875),
    ({"inner_net": MLP, "batch": 16, "promptlen": 2048, **PREFILL}, 6.007, 6.201, 6.921),
    ({"inner_net": MLP, "batch": 64, "promptlen": 2048, **PREFILL}, 9.24, 9.441, 10.16),
    ({"inner_net": MLP, "batch": 4, "promptlen": 8192, **PREFILL}, 5.199, 5.394, 6.114),
    # in a process of its own, with what Triton takes to autotune
    ({**PROMPT_OF_MAMBA, "batch": 1}, 3.065, 3.513, 4.306),
    # memory_model: all in one process, in which graphs were there before
    ({"inner_net": LINEAR, "batch": 128, "promptlen": 2049, "use_compile": False}, 6.242, 6.499, 7.293),
    ({**PROFILE, "inner_net": "mlp_1_dual", "batch": 512, **EAGER}, 2.954, 3.183, 3.979),
    ({**PROFILE, "inner_net": "mlp_2_dual", "batch": 128, **EAGER}, 3.828, 4.163, 4.959),
    ({**PROFILE, "inner_net": "mlp_2_dual", "batch": 64, "promptlen": 128, **PREFILL}, 2.409, 2.852, 3.648),
    ({**PROFILE, "inner_net": "mlp_1_dual", "batch": 512, "cuda_graph": False}, 2.159, 2.215, 3.010),
    ({**PROFILE, "inner_net": "mlp_2_dual", "batch": 128}, 3.106, 3.265, 4.063),
    # a sweep's cells
    ({**PROMPT_OF_MAMBA, "batch": 128}, 4.097, 4.343, 5.021),
    ({**PROMPT_OF_MAMBA, "batch": 256}, 5.077, 5.423, 6.204),
    ({**PROMPT_OF_MAMBA, "batch": 512}, 7.242, 7.531, 8.325),
    ({**PROMPT_OF_MAMBA, "batch": 2048}, 20.394, 22.077, 22.870),
    ({**PROMPT_OF_MAMBA, "batch": 4096}, 37.932, 40.997, 41.791),
    ({"inner_net": LINEAR, "batch": 128}, 4.057, 4.167, 4.961),
    ({"inner_net": MLP, "batch": 256}, 20.034, 20.110, 20.903),
    # recorded by versions that kept one workspace of cuBLAS and a little more cached memory
    ({"inner_net": LINEAR, "batch": 128}, 4.09, 4.217, 5.011),
    ({"inner_net": LINEAR, "batch": 8192}, 88.27, 90.03, 90.82),
    ({"inner_net": MLP, "batch": 128}, 11.43, 11.52, 12.31),
    ({"inner_net": MLP, "batch": 2048}, 140.9, 141.5, 142.3),
    (
        {"model_name": "ttt-profile", "inner_net": "mlp_2_dual", "batch": 32, "cuda_graph": False},
        *(1.353, 1.393, 2.113),
    ),
]


def on_a_gpu(**asked: Any) -> Plan:
    """The plan that a machine with a GPU makes, without kernels that overlap."""
    return plan_on_a_gpu(RunConfig.parse(asked))


def plan_on_a_gpu(config: RunConfig) -> Plan:
    entry = find_model(config.model_name)
    steps = config.mode == "decode" or config.promptlen == 1
    used = config.model_copy(
        update={
            "device": "cuda",
            "inner_net": config.inner_net or (LINEAR if entry.inner_nets else None),
            "dtype": config.dtype or "float16",
            "use_compile": steps and config.use_compile is not False and not entry.own_generation,
            "cuda_graph": steps and config.cuda_graph is not False,
        }
    )
    dtype = getattr(torch, str(used.dtype))
    request = ModelRequest(used.model_name, used.inner_net, dtype, torch.device("cuda"), 0, None)
    workload = Workload(used.mode, used.batch, used.promptlen, used.genlen)
    return Plan(config, used, workload, entry, request, [], None)


@pytest.fixture(autouse=True)
def _no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(device: torch.device) -> GpuCeilings:
        raise CeilingsUnknown("not known")

    monkeypatch.setattr(prediction, "known_ceilings", unknown)


@pytest.mark.parametrize(("asked", "tensors", "allocator", "device"), RECORDED, ids=lambda value: str(value)[:80])
def test_recorded_peaks_are_within_five_percent(
    asked: dict[str, Any], tensors: float, allocator: float, device: float
) -> None:
    predicted = predict(on_a_gpu(**asked), H200)
    found = [predicted.allocated_bytes, predicted.reserved_bytes, predicted.peak_bytes]
    assert [size / 1e9 for size in found if size] == pytest.approx([tensors, allocator, device], rel=0.05)
    assert predicted.fits


def test_the_newest_records_of_ttt_are_met_to_a_tenth_of_a_percent() -> None:
    """What decides the largest batch is exact: the tensors."""
    for asked, tensors, *_ in RECORDED[:6] + RECORDED[8:13]:
        assert (predict(on_a_gpu(**asked), None).allocated_bytes or 0) / 1e9 == pytest.approx(tensors, rel=0.001), asked


def test_parts_add_up_to_the_peak() -> None:
    predicted = predict(on_a_gpu(batch=1024), H200)
    assert sum(size for _, size in predicted.parts) == predicted.peak_bytes
    assert [name for name, _ in predicted.parts] == [
        *("weights", "state", "cuBLAS workspaces", "temporaries", "cached by PyTorch", "CUDA context")
    ]
    assert all(size > 0 for _, size in predicted.parts)


def test_a_batch_that_was_out_of_memory_is_predicted_not_to_fit() -> None:
    """TTT-MLP with 8,192 sequences, recorded on an H200 in decode-2."""
    predicted = predict(on_a_gpu(inner_net=MLP, batch=8192), H200)
    assert predicted.fits is False
    assert (predicted.peak_bytes or 0) > 500e9


def test_whether_it_fits_is_not_known_of_an_unknown_gpu() -> None:
    predicted = predict(on_a_gpu(), None)
    assert predicted.fits is None
    assert predicted.peak_bytes


def test_cached_memory_alone_is_no_reason_not_to_try() -> None:
    """PyTorch gives it back before it is out of memory."""
    plan = on_a_gpu(model_name=MAMBA, batch=8192)
    needed = predict(plan, None)
    assert needed.peak_bytes
    assert predict(plan, needed.peak_bytes - 1).fits
    assert needed.allocated_bytes
    assert predict(plan, needed.allocated_bytes).fits is False, "the context needs memory too"


@pytest.mark.parametrize("asked", [{"inner_net": LINEAR}, {"inner_net": MLP}, {"model_name": MAMBA}], ids=str)
def test_no_larger_batch_fits(asked: dict[str, Any]) -> None:
    total = 20_000_000_000
    batch = largest_batch(RunConfig.parse(asked), total, plan_on_a_gpu)
    peaks = [predict(on_a_gpu(**asked, batch=size), total).peak_bytes for size in (batch, batch + 1)]
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert peaks[0] <= total < peaks[1]


@pytest.mark.parametrize("model", [{"inner_net": LINEAR}, {"model_name": "transformer-1b"}], ids=str)
@pytest.mark.parametrize(("path", "largest"), [(None, None), ("launches", None), ("overlapped", 128)])
def test_the_largest_batch_may_take_another_path_than_one_sequence(
    model: dict[str, Any], path: str | None, largest: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`sweep --batch 128,max` ended with a fault on Hopper, whose step of one sequence cannot take more than 128."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(launch, "_capability", lambda device: (9, 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config, total = RunConfig.parse({**model, "decode_path": path} if path else model), 30_000_000_000
    batch = largest_batch(config, total)
    assert batch == largest if largest else batch > 128
    plans = [make_plan(config.model_copy(update={"batch": size})) for size in (1, batch)]
    assert [plan.used.decode_path for plan in plans] == [path or "overlapped", path or "launches"]
    needed = predict(plans[1], total)
    assert needed.fits
    assert needed.peak_bytes
    if not largest:
        more = predict(make_plan(config.model_copy(update={"batch": batch + 1})), total).peak_bytes
        assert more
        assert needed.peak_bytes <= total < more


def test_the_largest_batch_of_a_model_that_does_not_fit_is_bad_input() -> None:
    with pytest.raises(BadInput) as raised:
        largest_batch(RunConfig.parse({}), 3_000_000_000, plan_on_a_gpu)
    assert str(raised.value) == (
        "batch=max: ttt-1b takes 3.6 GB with one sequence, and the GPU has 3.0 GB; use a smaller model or another GPU"
    )


def test_the_largest_batch_needs_a_gpu_and_a_model_that_says_what_it_allocates() -> None:
    with pytest.raises(BadInput, match="batch=max: memory cannot be predicted on a CPU; name the batches"):
        largest_batch(RunConfig.parse({"model_name": "ttt-tiny", "device": "cpu"}), H200)

    def silent(config: RunConfig) -> Plan:
        plan = plan_on_a_gpu(config)
        return replace(plan, entry=replace(plan.entry, allocations=None))

    with pytest.raises(BadInput, match="for this model, which does not say what it allocates; name the batches"):
        largest_batch(RunConfig.parse({}), H200, silent)


def test_nothing_is_predicted_of_the_memory_of_a_model_that_does_not_say_it() -> None:
    plan = on_a_gpu()
    predicted = predict(replace(plan, entry=ModelEntry("plain", plan.entry.factory, "a plug-in")), H200)
    assert (predicted.peak_bytes, predicted.parts, predicted.fits) == (None, (), None)


def test_nothing_is_predicted_of_the_memory_of_a_cpu() -> None:
    plan = make_plan(RunConfig.parse({"model_name": "ttt-tiny", "device": "cpu"}))
    assert predict(plan, H200).peak_bytes is None


# Time


def test_without_ceilings_a_run_is_expected_to_take_what_it_may() -> None:
    seconds = predict(on_a_gpu(max_seconds=30.0), None).seconds
    assert seconds is not None
    assert 30 < seconds < 60


def test_the_time_of_a_number_of_passes_of_unknown_length_is_not_known() -> None:
    assert predict(on_a_gpu(repeats=3), None).seconds is None


def test_with_ceilings_it_follows_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded on an H200: 128 steps of 7.8 ms, six passes of them and a warm-up, 9 seconds; of TTT-MLP, 20 seconds."""
    monkeypatch.setattr(prediction, "known_ceilings", lambda device: GpuCeilings(4580.0, 4270.0, 650.0))
    measured = [
        prediction.expected_seconds(on_a_gpu(inner_net=net, batch=1024, genlen=128, max_seconds=60.0))
        for net in (LINEAR, MLP)
    ]
    beside = prediction.START_S + prediction.COMPILED_S + prediction.END_S
    assert [seconds - beside for seconds in measured if seconds] == pytest.approx([9, 22], rel=0.4)
    assert measured[0] < prediction.expected_seconds(on_a_gpu(inner_net=LINEAR, batch=1024, genlen=512))  # type: ignore[operator]


def test_at_least_two_passes_are_expected_and_no_more_than_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "expected_pass_s", lambda plan: 20.0)
    plan, beside = on_a_gpu(max_seconds=30.0, use_compile=False), prediction.START_S + prediction.END_S
    assert prediction.expected_seconds(plan) == beside + prediction.WARMUP_S + 40
    monkeypatch.setattr(prediction, "expected_pass_s", lambda plan: 7.0)
    assert prediction.expected_seconds(plan) == beside + 30
    counted = on_a_gpu(warmup=2, repeats=3, use_compile=False)
    assert prediction.expected_seconds(counted) == beside + 5 * 7


# What is missing


def test_what_is_missing_is_told_before_a_plan_is_made() -> None:
    assert missing_requirement(RunConfig.parse({"model_name": "ttt-tiny"})) is None
    with pytest.raises(BadInput, match="no such model"):
        missing_requirement(RunConfig.parse({"model_name": "none"}))
