"""Settling a configuration for a machine: what is asked for is honoured or refused, a mere default is left off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity

from ttt_mlflow.config import RunConfig
from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels import launch
from ttt_mlflow.models import registry
from ttt_mlflow.models.entry import DecodeModel, ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model, models, register_model
from ttt_mlflow.profilers.nsys import Nsys
from ttt_mlflow.run import plan as resolve_module
from ttt_mlflow.run.plan import Plan, make_plan
from ttt_mlflow.workload import Workload

NO_GPU = "device: no GPU found, measuring on the CPU"
NO_TRITON = "inner_net: Triton needs a GPU; mlp_1_dual (PyTorch) is used"
NO_COMPILE = "use_compile: off; on a CPU it is on only if requested"
NO_GRAPH = "cuda_graph: off; there are no CUDA graphs on a CPU"


def never_built(request: ModelRequest) -> DecodeModel:
    raise AssertionError(f"{request.name} was built")


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is built; beside the standard ones there are some of every other kind."""
    known = {name: replace(entry, factory=never_built) for name, entry in models().items()}
    monkeypatch.setattr(registry, "_registered", known)
    register_model(ModelEntry("plain", never_built, "no inner net, no checkpoint"))
    register_model(ModelEntry("by_sixteen", never_built, "prompts by sixteen tokens", prefill_multiple=16))
    register_model(ModelEntry("other-nets", never_built, "inner nets of its own", inner_nets=("fast", "slow")))
    register_model(ModelEntry("peer", never_built, "generates itself", needs_cuda=True, own_generation=True))
    register_model(ModelEntry("absent", never_built, "to be installed", missing=lambda: "pip install absent"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CXX", "g++")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch, "_capability", lambda device: (8, 0))  # an A100, whose launches do not overlap


def settle(**asked: Any) -> Plan:
    return make_plan(RunConfig.parse({"model_name": "ttt-tiny", **asked}))


def refusal(**asked: Any) -> str:
    with pytest.raises(BadInput) as refused:
        settle(**asked)
    return str(refused.value)


def switches(resolved: Plan) -> tuple[Any, ...]:
    used = resolved.used
    return used.device, used.inner_net, used.dtype, used.use_compile, used.cuda_graph


# Without a GPU


@pytest.mark.usefixtures("on_cpu")
def test_defaults_on_a_cpu() -> None:
    resolved = settle()
    assert switches(resolved) == ("cpu", "mlp_1_dual", "float32", False, False)
    assert resolved.notices == [NO_GPU, NO_TRITON, NO_COMPILE, NO_GRAPH]
    request = ModelRequest("ttt-tiny", "mlp_1_dual", torch.float32, torch.device("cpu"), 0, None)
    assert resolved.request == replace(request, workload=resolved.workload, decode_path="launches")
    assert resolved.entry is find_model("ttt-tiny")


@pytest.mark.usefixtures("on_cpu")
def test_the_workload_is_that_of_what_is_used() -> None:
    assert settle(batch=4, promptlen=3, genlen=5).workload == Workload("decode", 4, 3, 5)
    assert settle(batch=4, promptlen=3, genlen=5, mode="prefill").workload == Workload("prefill", 4, 3, 5)


@pytest.mark.usefixtures("on_cpu")
def test_decode_steps_of_a_prompt_alone_have_no_effect_and_that_is_said() -> None:
    notice = "genlen=5: it has no effect, as a prefill run decodes nothing"
    assert notice in settle(promptlen=3, genlen=5, mode="prefill").notices
    assert not any("genlen" in one for one in settle(promptlen=3, mode="prefill").notices)


def test_what_was_asked_for_is_kept_beside_what_is_used() -> None:
    resolved = settle(batch=3, seed=5)
    assert resolved.asked == RunConfig.parse({"model_name": "ttt-tiny", "batch": 3, "seed": 5})
    changed = {name for name in RunConfig.model_fields if getattr(resolved.asked, name) != getattr(resolved.used, name)}
    assert changed == {"device", "inner_net", "decode_path", "dtype", "use_compile", "cuda_graph"}
    left_open = {name for name in changed if getattr(resolved.used, name) is None}
    assert not left_open
    assert resolved.request.seed == 5


@pytest.mark.usefixtures("on_cpu")
def test_all_that_a_cpu_has_may_be_asked_for() -> None:
    resolved = settle(
        device="cpu", inner_net="mlp_2_dual", dtype="bfloat16", use_compile="true", cuda_graph="false", profile="torch"
    )
    assert switches(resolved) == ("cpu", "mlp_2_dual", "bfloat16", True, False)
    assert resolved.notices == []
    assert resolved.request.dtype == torch.bfloat16
    assert resolved.used.profile == ("torch",)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes_on_a_cpu(dtype: str) -> None:
    assert settle(dtype=dtype).used.dtype == dtype


@pytest.mark.usefixtures("on_cpu")
def test_a_notice_is_given_for_a_default_only() -> None:
    assert settle(device="cpu").notices == [NO_TRITON, NO_COMPILE, NO_GRAPH]
    assert settle(inner_net="mlp_1_dual").notices == [NO_GPU, NO_COMPILE, NO_GRAPH]
    assert settle(use_compile=False).notices == [NO_GPU, NO_TRITON, NO_GRAPH]
    assert settle(cuda_graph=False).notices == [NO_GPU, NO_TRITON, NO_COMPILE]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"device": "cuda"},
            "device=cuda: PyTorch finds no GPU on this machine; use device=cpu, or a machine with a GPU",
        ),
        (
            {"inner_net": "mlp_2_dual_triton"},
            "inner_net=mlp_2_dual_triton: Triton needs a GPU (or TRITON_INTERPRET=1, which is slow); "
            "on a CPU, use mlp_2_dual",
        ),
        (
            {"inner_net": "mlp_3_dual"},
            "inner_net=mlp_3_dual: no such inner net; "
            "ttt-tiny has mlp_1_dual, mlp_2_dual, mlp_1_dual_triton, mlp_2_dual_triton",
        ),
        (
            {"cuda_graph": "true"},
            "cuda_graph=true: there are no CUDA graphs on a CPU; omit cuda_graph, or set it to false",
        ),
        (
            {"cuda_graph": "true", "mode": "prefill", "promptlen": "32"},
            "cuda_graph=true: there are no CUDA graphs on a CPU; omit cuda_graph, or set it to false",
        ),
        (
            {"use_compile": "true", "mode": "prefill", "promptlen": "32"},
            "use_compile=true: processing the prompt is not compiled; omit use_compile, or set it to false",
        ),
        ({"model_name": "peer"}, "model_name=peer: it needs a GPU, but the device is cpu; use a GPU, or another model"),
        ({"model_name": "absent"}, "model_name=absent: pip install absent"),
        (
            {"model_name": "plain", "inner_net": "mlp_1_dual"},
            "inner_net=mlp_1_dual: plain has no inner net; omit inner_net",
        ),
        (
            {"model_name": "plain", "checkpoint": "weights"},
            "checkpoint=weights: plain only supports random weights; omit checkpoint",
        ),
        (
            {"checkpoint": "/nowhere/weights"},
            "checkpoint=/nowhere/weights: no such file or folder; give a safetensors file or a folder of them",
        ),
        (
            {"profile": "nsys"},
            "profile=nsys: it records GPU activity, but the device is cpu; remove nsys from profile",
        ),
        (
            {"profile": "torch,memory,nsys"},
            "profile=memory: it records PyTorch's GPU allocator, but the device is cpu; remove memory from "
            "profile\n"
            "profile=nsys: it records GPU activity, but the device is cpu; remove nsys from profile",
        ),
        (
            {"nsys_args": "-t cuda"},
            "nsys_args=-t cuda: nsys is not requested; add profile=nsys, or omit nsys_args",
        ),
        (
            {"nsys_export": "sqlite", "profile": "torch"},
            "nsys_export=sqlite: nsys is not requested; add profile=nsys, or omit nsys_export",
        ),
        (
            {"profile": "nsys", "nsys_args": "-o elsewhere"},
            "nsys_args=-o elsewhere: the tool sets where the report goes; leave out -o",
        ),
    ],
)
def test_refused_on_a_cpu(asked: dict[str, str], message: str) -> None:
    assert refusal(**asked) == message


@pytest.mark.usefixtures("on_cpu")
def test_prefill_on_a_cpu() -> None:
    resolved = settle(mode="prefill", promptlen=32)
    assert switches(resolved) == ("cpu", "mlp_1_dual", "float32", False, False)
    assert resolved.notices == [NO_GPU, NO_TRITON, "use_compile: off; processing the prompt is not compiled", NO_GRAPH]


@pytest.mark.usefixtures("on_cpu")
def test_compiling_for_a_cpu_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = "compiling for a CPU needs a C++ compiler (g++ or clang++), but none was found"
    assert refusal(use_compile="true") == f"use_compile=true: {reason}; omit use_compile, or set it to false"
    assert f"use_compile: off; {reason}" in settle().notices
    (tmp_path / "clang++").touch(mode=0o755)
    assert settle(use_compile="true").used.use_compile is True


@pytest.mark.usefixtures("on_cpu")
def test_models_without_our_inner_nets() -> None:
    plain = settle(model_name="plain")
    assert plain.used.inner_net is None
    assert plain.notices == [NO_GPU, NO_COMPILE, NO_GRAPH]
    assert settle(model_name="plain", use_compile="true").used.use_compile is True
    assert settle(model_name="other-nets").used.inner_net == "fast"
    assert settle(model_name="other-nets", inner_net="slow").used.inner_net == "slow"
    assert refusal(model_name="other-nets", inner_net="mlp_1_dual").endswith("other-nets has fast, slow")


@pytest.mark.usefixtures("on_cpu")
def test_triton_in_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    resolved = settle()
    assert switches(resolved) == ("cpu", "mlp_1_dual_triton", "float32", False, False)
    assert resolved.notices == [NO_GPU, "use_compile: off; code in Triton's interpreter cannot be compiled", NO_GRAPH]
    assert settle(inner_net="mlp_2_dual_triton").used.inner_net == "mlp_2_dual_triton"
    assert refusal(use_compile="true").startswith("use_compile=true: code in Triton's interpreter cannot be compiled")
    assert settle(inner_net="mlp_1_dual", use_compile="true").used.use_compile is True


@pytest.mark.usefixtures("on_cpu")
def test_an_attention_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = settle(model_name="transformer-1b")
    assert (resolved.used.attn_impl, resolved.request.attn_impl) == (None, None), "it is chosen at set-up"
    assert settle(model_name="transformer-1b", attn_impl="flash+math").request.attn_impl == "flash+math"
    assert refusal(attn_impl="math") == "attn_impl=math: ttt-tiny has no attention; omit attn_impl"
    triton = {"model_name": "transformer-1b", "attn_impl": "math+split_kv_triton"}
    assert refusal(**triton) == (
        "attn_impl=math+split_kv_triton: Triton needs a GPU (or TRITON_INTERPRET=1, which is slow); on a CPU, omit "
        "attn_impl"
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert settle(**triton).request.attn_impl == "math+split_kv_triton"
    assert refusal(**triton, use_compile="true").startswith("use_compile=true: code in Triton's interpreter")


@pytest.mark.usefixtures("on_cpu")
def test_a_checkpoint_is_looked_at_before_anything_is_built(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"model.unknown.weight": torch.zeros(2)}, file)
    assert refusal(checkpoint=str(file)).startswith(f"checkpoint={file}: does not fit ttt-tiny mlp_1_dual; weights ")


@pytest.mark.usefixtures("on_cpu")
def test_the_decode_path(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = settle()
    assert (resolved.used.decode_path, resolved.request.decode_path) == ("launches", "launches")
    assert settle(decode_path="launches").used.config_id() == resolved.used.config_id(), "it is the same measurement"
    assert settle(model_name="plain").used.decode_path is None
    assert refusal(model_name="plain", decode_path="launches") == (
        "decode_path=launches: plain has no such decode path; it has one alone; omit decode_path"
    )
    assert refusal(decode_path="fast") == (
        "decode_path=fast: ttt-tiny has no such decode path; it has launches, overlapped"
    )
    assert refusal(decode_path="overlapped") == (
        "decode_path=overlapped: inner_net=mlp_1_dual is PyTorch; it takes mlp_1_dual_triton; change that, or set "
        "decode_path to launches"
    )
    monkeypatch.setattr(resolve_module, "interpreting", lambda: True)
    triton = {"decode_path": "overlapped", "inner_net": "mlp_1_dual_triton"}
    assert "dtype=float32: it takes float16 and bfloat16; change that" in refusal(**triton, batch=1)
    assert "batch=17: it takes 1 to 16 sequences; change that" in refusal(**triton, dtype="float16", batch=17)
    found = settle(**triton, dtype="bfloat16", batch=16)
    assert found.request.decode_path == "overlapped"
    kernels = "the step has kernels alone, which torch.compile leaves as they are"
    assert f"use_compile: off; decode_path=overlapped: {kernels}" in found.notices
    assert kernels in refusal(**triton, dtype="float16", batch=16, use_compile="true")
    assert found.used.config_id() != settle(inner_net="mlp_1_dual", dtype="bfloat16", batch=16).used.config_id()


# On a GPU, or what pretends to be one


@pytest.mark.usefixtures("on_gpu")
def test_defaults_on_a_gpu() -> None:
    resolved = settle()
    assert switches(resolved) == ("cuda", "mlp_1_dual_triton", "float16", True, True)
    assert resolved.notices == []
    request = ModelRequest("ttt-tiny", "mlp_1_dual_triton", torch.float16, torch.device("cuda"), 0, None)
    assert resolved.request == replace(request, workload=resolved.workload, decode_path="launches")


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("asked", "capability", "reason"),
    [
        ({"batch": 16}, (9, 0), None),
        ({"batch": 1, "dtype": "bfloat16", "promptlen": 100}, (10, 0), None),
        ({"batch": 128}, (9, 0), None),
        ({"batch": 129}, (9, 0), "batch=129: it takes 1 to 128 sequences"),
        ({"batch": 17}, (10, 0), "batch=17: it takes 1 to 16 sequences"),
        ({"batch": 1}, (8, 0), "the GPU has compute capability 8.0; it needs 9.0"),  # an A100
        ({"batch": 1, "dtype": "float32"}, (9, 0), "dtype=float32: it takes float16 and bfloat16"),
        ({"batch": 1, "inner_net": "mlp_1_dual"}, (9, 0), "it takes mlp_1_dual_triton"),
    ],
    ids=str,
)
def test_where_kernels_can_overlap(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], capability: tuple[int, int], reason: str | None
) -> None:
    monkeypatch.setattr(launch, "_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    asked = {"model_name": "ttt-1b", "decode_path": "overlapped", **asked}
    if reason:
        assert reason in refusal(**asked)
    else:
        assert settle(**asked).used.decode_path == "overlapped"


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("asked", "capability", "path"),
    [
        ({"batch": 16}, (9, 0), "overlapped"),
        ({"batch": 1, "dtype": "bfloat16", "promptlen": 100}, (10, 0), "overlapped"),
        ({"batch": 1, "decode_path": "launches"}, (9, 0), "launches"),
        ({"batch": 128}, (9, 0), "overlapped"),
        ({"batch": 129}, (9, 0), "launches"),
        ({"batch": 17}, (10, 0), "launches"),
        ({"batch": 1}, (8, 0), "launches"),  # an A100, whose launches do not overlap
        ({"batch": 1, "dtype": "float32"}, (9, 0), "launches"),
        ({"batch": 1, "inner_net": "mlp_1_dual"}, (9, 0), "launches"),
        ({"batch": 1, "mode": "prefill", "promptlen": 64}, (9, 0), "launches"),
        ({"batch": 1, "use_compile": "true"}, (9, 0), "launches"),  # there is something to compile
        ({"batch": 1, "cuda_graph": "false"}, (9, 0), "launches"),  # the host would be what is measured
        ({"batch": 1, "cuda_graph": "false", "decode_path": "overlapped"}, (9, 0), "overlapped"),
    ],
    ids=str,
)
def test_the_decode_path_that_a_gpu_takes_by_itself(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], capability: tuple[int, int], path: str
) -> None:
    monkeypatch.setattr(launch, "_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert settle(model_name="ttt-1b", **asked).used.decode_path == path


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("model_name", ["transformer-1b", "transformer-1b-gqa4", "transformer-tiny"])
@pytest.mark.parametrize(
    ("asked", "capability", "reason"),
    [
        ({"batch": 16}, (9, 0), None),
        ({"batch": 16, "attn_impl": "cudnn"}, (9, 0), None),
        ({"batch": 1, "dtype": "bfloat16", "promptlen": 100}, (10, 0), None),
        ({"batch": 128}, (9, 0), None),
        ({"batch": 129}, (9, 0), "batch=129: it takes 1 to 128 sequences"),
        ({"batch": 17}, (10, 0), "batch=17: it takes 1 to 16 sequences"),
        ({"batch": 1}, (8, 0), "the GPU has compute capability 8.0; it needs 9.0"),
        ({"batch": 1, "dtype": "float32"}, (9, 0), "dtype=float32: it takes float16 and bfloat16"),
    ],
    ids=str,
)
def test_where_a_transformer_can_overlap(
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    capability: tuple[int, int],
    reason: str | None,
    model_name: str,
) -> None:
    """By itself it does wherever it can, and what cannot be is refused."""
    monkeypatch.setattr(launch, "_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    asked = {"model_name": model_name, **asked}
    by_itself = settle(**asked)
    assert by_itself.used.decode_path == by_itself.request.decode_path == ("launches" if reason else "overlapped")
    assert by_itself.used.use_compile == bool(reason), "a step of kernels alone has nothing to compile"
    assert by_itself.used.cuda_graph
    if reason:
        said = f"decode_path=overlapped: {reason}; change that, or set decode_path to launches"
        assert refusal(**asked, decode_path="overlapped") == said
    else:
        assert settle(**asked, decode_path="overlapped").used.decode_path == "overlapped"
        assert settle(**asked, decode_path="launches").used.use_compile
        assert settle(**asked, use_compile="true").used.decode_path == "launches"
        assert refusal(**asked, decode_path="overlapped", use_compile="true").startswith("use_compile=true: ")
        assert settle(**asked | {"mode": "prefill", "promptlen": 64}).used.decode_path == "launches"


@pytest.mark.usefixtures("on_cpu")
def test_a_transformer_overlaps_in_the_interpreter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model_name": "transformer-tiny", "decode_path": "overlapped", "dtype": "float16", "batch": 2}
    assert settle(model_name="transformer-tiny").used.decode_path == "launches"
    assert refusal(**asked) == (
        "decode_path=overlapped: on a CPU, the step is PyTorch, but with attn_impl=split_kv_triton; change that, or "
        "set decode_path to launches"
    )
    monkeypatch.setattr(resolve_module, "interpreting", lambda: True)
    assert settle(**asked, attn_impl="split_kv_triton").request.decode_path == "overlapped"


@pytest.mark.usefixtures("on_gpu")
def test_asked_for_on_a_gpu() -> None:
    asked = {"inner_net": "mlp_2_dual", "dtype": "bfloat16", "use_compile": "false", "cuda_graph": "false"}
    resolved = settle(**asked)
    assert switches(resolved) == ("cuda", "mlp_2_dual", "bfloat16", False, False)
    assert resolved.notices == []
    both = settle(device="cuda", use_compile="true", cuda_graph="true", dtype="float32")
    assert switches(both) == ("cuda", "mlp_1_dual_triton", "float32", True, True)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("attn_impl", ["split_kv_triton", "cudnn", "flash", "flash+split_kv_triton", "math+efficient"])
def test_an_attention_on_a_gpu(attn_impl: str) -> None:
    resolved = settle(model_name="transformer-1b-gqa4", attn_impl=attn_impl)
    assert switches(resolved) == ("cuda", None, "float16", True, True)
    assert resolved.request.attn_impl == resolved.used.attn_impl == attn_impl
    assert resolved.used.run_name == f"transformer-1b-gqa4 b64 {attn_impl} compile"


@pytest.mark.usefixtures("on_gpu")
def test_the_cpu_of_a_machine_with_a_gpu() -> None:
    resolved = settle(device="cpu")
    assert switches(resolved) == ("cpu", "mlp_1_dual", "float32", False, False)
    assert resolved.notices == [NO_TRITON, NO_COMPILE, NO_GRAPH]
    assert refusal(device="cpu", inner_net="mlp_1_dual_triton").startswith("inner_net=mlp_1_dual_triton: Triton needs")
    assert refusal(device="cpu", cuda_graph="true").startswith("cuda_graph=true: there are no CUDA graphs on a CPU")
    assert refusal(device="cpu", model_name="peer") == (
        "model_name=peer: it needs a GPU, but the device is cpu; use a GPU, or another model"
    )


@pytest.mark.usefixtures("on_gpu")
def test_prefill_on_a_gpu() -> None:
    """A prompt of TTT goes through at once; another package's model says nothing of its prompts."""
    resolved = settle(mode="prefill", promptlen=32)
    assert switches(resolved) == ("cuda", "mlp_1_dual_triton", "float16", False, False)
    assert resolved.notices == [
        "use_compile: off; processing the prompt is not compiled",
        "cuda_graph: off; processing the prompt is not captured",
    ]
    refused = refusal(mode="prefill", promptlen=32, cuda_graph="true")
    assert refused.startswith("cuda_graph=true: processing the prompt is not captured")
    assert switches(settle(model_name="plain", mode="prefill", promptlen=2))[-2:] == (False, False)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(("model_name", "promptlen"), [("ttt-1b", 1), ("plain", 1), ("by_sixteen", 35)])
def test_tokens_that_are_not_taken_at_once_run_as_a_decode_step_does(model_name: str, promptlen: int) -> None:
    resolved = settle(model_name=model_name, mode="prefill", promptlen=promptlen)
    assert switches(resolved)[-2:] == (True, True)
    assert resolved.notices == []
    eager = settle(model_name=model_name, mode="prefill", promptlen=promptlen, use_compile="false", cuda_graph="false")
    assert switches(eager)[-2:] == (False, False)


@pytest.mark.usefixtures("on_gpu")
def test_a_model_with_its_own_generation() -> None:
    resolved = settle(model_name="peer")
    assert switches(resolved) == ("cuda", None, "float16", False, True)
    assert resolved.notices == ["use_compile: off; peer decodes with its own generation code"]
    assert refusal(model_name="peer", use_compile="true") == (
        "use_compile=true: peer decodes with its own generation code; omit use_compile, or set it to false"
    )
    assert settle(model_name="peer", cuda_graph="false").used.cuda_graph is False


@pytest.mark.usefixtures("on_gpu")
def test_a_gpu_and_the_interpreter_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    message = "device=cuda: TRITON_INTERPRET=1 makes Triton run on the host; unset it, or use device=cpu"
    assert refusal() == message
    assert refusal(device="cuda") == message
    assert settle(device="cpu").used.inner_net == "mlp_1_dual_triton"


# Profilers


def on_gpu_with(monkeypatch: pytest.MonkeyPatch, found: Nsys | BadInput) -> None:
    def find_nsys() -> Nsys:
        if isinstance(found, BadInput):
            raise found
        return found

    monkeypatch.setattr(resolve_module, "find_nsys", find_nsys)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {ProfilerActivity.CUDA})
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")


@pytest.mark.usefixtures("on_gpu")
def test_profilers_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = Nsys(Path("/somewhere/nsys"), "2025.3")
    on_gpu_with(monkeypatch, nsys)
    resolved = settle(profile="torch,nsys,memory", nsys_export="sqlite")
    assert resolved.nsys is nsys
    assert resolved.notices == []
    assert settle(profile="torch").nsys is None


@pytest.mark.usefixtures("on_gpu")
def test_what_cannot_be_had_is_said_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu_with(monkeypatch, BadInput("profile=nsys: it is not found"))
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {ProfilerActivity.CPU})
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    lines = refusal(profile="torch,memory,nsys").splitlines()
    assert [line.split(":")[0] for line in lines] == ["profile=torch", "profile=memory", "profile=nsys"]
    assert "PYTORCH_CUDA_ALLOC_CONF selects cudaMallocAsync" in lines[1]
    assert lines[2] == "profile=nsys: it is not found"


@pytest.mark.usefixtures("on_gpu")
def test_an_importer_that_lacks_a_library_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu_with(monkeypatch, Nsys(Path("/somewhere/nsys"), "2025.3"))
    monkeypatch.setattr(resolve_module, "importer_fault", lambda nsys: "its importer needs libdw.so.1")
    (notice,) = settle(profile="nsys").notices
    assert notice == ("profile=nsys: its importer needs libdw.so.1; until then, the recording remains a .qdstrm file")
