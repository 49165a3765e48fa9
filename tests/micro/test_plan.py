"""Settling a micro-benchmark for a machine: refused before anything is measured, or left to what is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.micro.plan import MicroPlan, make_plan
from ttt_mlflow.profilers.nsys import Nsys
from ttt_mlflow.run import plan as model_plan

GPU_KERNELS = (
    "mlp_1_dual_triton,mlp_1_accumulate_triton,mlp_2_dual_triton,mlp_2_accumulate_triton,"
    "mlp_1_prefill_triton,mlp_2_prefill_triton"
)


def on_machine(monkeypatch: pytest.MonkeyPatch, has_gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CXX", "g++")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine(monkeypatch, False)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine(monkeypatch, True)


def settle(**asked: object) -> MicroPlan:
    return make_plan(MicroConfig.parse(asked))


def refusal(**asked: object) -> str:
    with pytest.raises(BadInput) as refused:
        settle(**asked)
    return str(refused.value)


@pytest.mark.usefixtures("on_gpu")
def test_defaults_on_a_gpu() -> None:
    resolved = settle()
    assert ",".join(resolved.used.kernels or ()) == GPU_KERNELS
    assert [entry.name for entry in resolved.entries] == GPU_KERNELS.split(",")
    assert (resolved.used.batches, resolved.used.prompt_batches) == ((128, 512, 1024), (16, 64))
    assert [batch for entry, batch in resolved.cells if entry.name == "mlp_1_dual_triton"] == [128, 512, 1024]
    assert [batch for entry, batch in resolved.cells if entry.name == "mlp_1_prefill_triton"] == [16, 64]
    assert (resolved.used.device, resolved.device.type, resolved.dtype) == ("cuda", "cuda", torch.float16)
    assert resolved.notices == []
    assert resolved.asked.kernels is None
    assert resolved.nsys is None


@pytest.mark.usefixtures("on_cpu")
def test_defaults_on_a_cpu() -> None:
    resolved = settle()
    assert resolved.used.kernels == ("mlp_1_dual", "mlp_2_dual")
    assert (resolved.used.batches, resolved.used.prompt_batches) == ((1, 4), None)
    assert resolved.notices == [
        "device: no GPU found, measuring on the CPU",
        "kernels: Triton needs a GPU; mlp_1_dual, mlp_2_dual (PyTorch) are timed",
    ]


@pytest.mark.usefixtures("on_gpu")
def test_what_is_asked_for_is_used_in_its_order() -> None:
    resolved = settle(kernels="mlp_2_dual,mlp_1_dual_triton", batches="3", device="cuda", dtype="bfloat16")
    assert [entry.name for entry in resolved.entries] == ["mlp_2_dual", "mlp_1_dual_triton"]
    assert (resolved.used.batches, resolved.dtype) == ((3,), torch.bfloat16)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("asked", "batches", "prompt_batches"),
    [
        ({"kernels": "mlp_1_dual,mlp_1_prefill"}, (1, 4), (1,)),
        ({"kernels": "mlp_1_dual,mlp_1_prefill", "batches": "2,3"}, (2, 3), (2, 3)),
        ({"kernels": "mlp_1_dual,mlp_1_prefill", "prompt_batches": "2"}, (1, 4), (2,)),
        ({"kernels": "mlp_1_prefill", "batches": "5"}, None, (5,)),
        ({"kernels": "mlp_1_prefill", "prompt_batches": "5"}, None, (5,)),
    ],
)
def test_the_batches_of_steps_and_of_prompts(
    asked: dict[str, str], batches: tuple[int, ...] | None, prompt_batches: tuple[int, ...]
) -> None:
    resolved = settle(**asked, promptlen=40)
    assert (resolved.used.batches, resolved.used.prompt_batches) == (batches, prompt_batches)
    for entry, batch in resolved.cells:
        task = resolved.task(entry, batch)
        assert (task.mode, task.batch) == (entry.mode, batch)
        assert sum(task.calls) == (40 if entry.mode == "prefill" else 16)
    again = make_plan(resolved.used)
    assert again.used == resolved.used, "what was used can be asked for"


@pytest.mark.usefixtures("on_cpu")
def test_batches_that_no_kernel_takes_are_refused() -> None:
    assert refusal(kernels="mlp_1_dual", prompt_batches="2") == (
        "prompt_batches=2: none of the kernels takes a prompt; add one of mlp_1_prefill_triton, mlp_1_prefill, "
        "mlp_2_prefill_triton, mlp_2_prefill"
    )
    assert refusal(kernels="mlp_1_dual", promptlen="64").startswith("promptlen=64: none of the kernels takes a prompt")
    assert refusal(kernels="mlp_1_dual", intermediate="77") == (
        "intermediate=77: none of the kernels has it; omit it, or add kernels of the group layer"
    )
    assert refusal(kernels="mlp_1_dual", vocab="77").startswith("vocab=77: none of the kernels has it")
    assert refusal(kernels="mlp_1_prefill", batches="1,2", prompt_batches="3") == (
        "batches=1,2: all kernels take prompts, and prompt_batches=3 has their batches; give one of the two"
    )


@pytest.mark.usefixtures("on_cpu")
def test_triton_kernels_are_refused_on_a_cpu_all_at_once() -> None:
    assert refusal(kernels="mlp_1_dual,mlp_1_dual_triton,mlp_2_accumulate_triton").startswith(
        "kernels=mlp_1_dual_triton,mlp_2_accumulate_triton: they need a GPU, but the device is cpu; on a CPU, choose "
        "from mlp_1_dual, mlp_1_dual_compiled, mlp_1_prefill, mlp_2_dual, mlp_2_dual_compiled, mlp_2_prefill"
    )


@pytest.mark.usefixtures("on_gpu")
def test_they_are_refused_too_where_the_cpu_was_asked_for() -> None:
    assert "they need a GPU" in refusal(kernels="mlp_1_dual_triton", device="cpu")


@pytest.mark.usefixtures("on_cpu")
def test_a_gpu_that_is_not_there() -> None:
    assert refusal(device="cuda").startswith("device=cuda: PyTorch finds no GPU")


@pytest.mark.usefixtures("on_gpu")
def test_the_interpreter_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET=1 makes Triton run on the host" in refusal()


@pytest.mark.usefixtures("on_cpu")
def test_what_must_be_installed_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = refusal(kernels="mlp_1_dual_compiled,mlp_2_dual_compiled,mlp_1_dual").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["kernels=mlp_1_dual_compiled", "kernels=mlp_2_dual_compiled"]
    assert all("needs a C++ compiler" in line for line in lines)


def missing() -> Nsys:
    raise BadInput("profile=nsys: it is not found")


def test_a_missing_nsys_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine(monkeypatch, True)
    monkeypatch.setattr(model_plan, "find_nsys", missing)
    assert refusal(profile="nsys") == "profile=nsys: it is not found"
    assert settle(profile="none").nsys is None


def test_options_of_nsys_are_checked_first() -> None:
    assert refusal(profile="nsys", nsys_args="cuda").startswith("nsys_args=cuda: cuda is not an option")
    assert refusal(nsys_export="sqlite").startswith("nsys_export=sqlite: nsys is not requested")


def find(found: Nsys) -> Callable[[], Nsys]:
    return lambda: found


def test_nsys_is_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = Nsys(Path("/somewhere/nsys"), "2025.3")
    monkeypatch.setattr(model_plan, "find_nsys", find(nsys))
    on_machine(monkeypatch, True)
    assert settle(profile="nsys").nsys is nsys
    on_machine(monkeypatch, False)
    assert refusal(profile="nsys").startswith("profile=nsys: it records GPU activity, but the device is cpu")
