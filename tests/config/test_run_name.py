"""Run names: the first 30 characters have model, inner net and batch, and the whole has what is not default."""

from typing import Any

import pytest

from ttt_mlflow.config import Configuration, MicroConfig, RunConfig
from ttt_mlflow.config.run_name import MOST, SHOWN
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS
from ttt_mlflow.models.ttt.sizes import SIZES

GPU = {"inner_net": "mlp_1_dual_triton", "dtype": "float16", "use_compile": True, "cuda_graph": True, "device": "cuda"}
CPU = {"inner_net": "mlp_1_dual", "dtype": "float32", "use_compile": False, "cuda_graph": False, "device": "cpu"}
MAMBA = {**GPU, "model_name": "state-spaces/mamba-1.4b", "inner_net": None, "use_compile": False}
PROMPT = {"mode": "prefill", "batch": 16, "promptlen": 2048, "use_compile": False, "cuda_graph": False}


@pytest.mark.parametrize(
    ("used", "name"),
    [
        ({**GPU, "batch": 1024, "inner_net": "mlp_2_dual_triton"}, "ttt-1b mlp_2_dual_triton b1024"),
        ({**MAMBA, "batch": 128}, "mamba-1.4b b128"),
        ({**MAMBA, "cuda_graph": False}, "mamba-1.4b b64 no graph"),
        ({**GPU, **PROMPT}, "ttt-1b mlp_1_dual_triton b16 prefill p2048"),
        ({**GPU, "promptlen": 5, "genlen": 16}, "ttt-1b mlp_1_dual_triton b64 p5 g16"),
        ({**GPU, "dtype": "bfloat16", "use_compile": False}, "ttt-1b mlp_1_dual_triton b64 bfloat16 no compile"),
        ({**GPU, "decode_path": "overlapped", "use_compile": False}, "ttt-1b mlp_1_dual_triton b64 overlapped"),
        ({**CPU, "use_compile": True, "genlen": 8}, "ttt-1b mlp_1_dual b64 g8 cpu compile"),
        ({**CPU, "dtype": "float16", "seed": 3}, "ttt-1b mlp_1_dual b64 cpu float16 seed 3"),
        ({**GPU, "checkpoint": "/weights/step-5000/"}, "ttt-1b mlp_1_dual_triton b64 step-5000"),
        ({**GPU, "model_name": "ttt-profile", "batch": 8192}, "ttt-profile mlp_1_triton b8192"),
        ({}, "ttt-1b b64"),  # a run that ended before it chose
    ],
)
def test_decode_and_prefill(used: dict[str, Any], name: str) -> None:
    assert RunConfig.parse(used).run_name == name


@pytest.mark.parametrize("inner_net", INNER_NETS)
@pytest.mark.parametrize("model", SIZES)
def test_thirty_characters_have_model_inner_net_and_batch(model: str, inner_net: str) -> None:
    shown = {
        batch: RunConfig.parse({**GPU, "model_name": model, "inner_net": inner_net, "batch": batch})
        for batch in (8, 8192)
    }
    for batch, config in shown.items():
        assert config.run_name[:SHOWN].split()[0] == model
        assert config.run_name[:SHOWN].split()[-1] == f"b{batch}"
    assert len({config.run_name.split()[1] for config in shown.values()}) == 1, "written alike with every batch"


def test_no_two_inner_nets_share_a_name() -> None:
    for model in SIZES:
        names = {RunConfig.parse({**GPU, "model_name": model, "inner_net": net}).run_name for net in INNER_NETS}
        assert len(names) == len(INNER_NETS)


OTHERS: list[tuple[type[Configuration], dict[str, Any], dict[str, Any]]] = [
    (RunConfig, GPU, {"mode": "prefill"}),
    *((RunConfig, GPU, {name: value}) for name, value in {
        "model_name": "ttt-125m", "batch": 65, "promptlen": 2, "genlen": 513, "inner_net": "mlp_2_dual_triton",
        "dtype": "bfloat16", "use_compile": False, "cuda_graph": False, "device": "cpu", "checkpoint": "/a",
    }.items()),
    *((MicroConfig, {"kernels": "a", "batches": "1", "device": "cuda"}, {name: value}) for name, value in {
        "kernels": "b", "batches": "1,2", "heads": 31, "head_dim": 32, "dtype": "bfloat16", "device": "cpu",
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "one", "change"), OTHERS)
def test_each_field_of_what_is_measured_changes_the_name(
    kind: type[Configuration], one: dict[str, Any], change: dict[str, Any]
) -> None:
    assert kind.parse(one).run_name != kind.parse({**one, **change}).run_name


def test_every_such_field_is_tried() -> None:
    for kind in (RunConfig, MicroConfig):
        assert {name for other, _, change in OTHERS for name in change if other is kind} == set(kind.identity)


def test_micro() -> None:
    many = {"kernels": ",".join("abcd"), "batches": ",".join(map(str, range(1, 99))), "device": "cuda"}
    assert MicroConfig.parse(many).run_name == "4 kernels b1…98 a,b,c,d"
    one = {"kernels": "mlp_1_dual_triton", "batches": "128,512"}
    assert MicroConfig.parse(one).run_name == "mlp_1_dual_triton b128,512"
    other = {**one, "dtype": "bfloat16", "heads": "4", "device": "cpu", "seed": "2"}
    assert MicroConfig.parse(other).run_name == "mlp_1_dual_triton b128,512 bfloat16 h4x64 cpu seed 2"
    assert MicroConfig.parse({}).run_name == "kernels"
    prompts = {"kernels": "mlp_1_prefill_triton", "prompt_batches": "16,64"}
    assert MicroConfig.parse(prompts).run_name == "mlp_1_prefill_triton b16,64 p2048"
    both = {"kernels": "a,b", "batches": "1,2", "prompt_batches": "4", "promptlen": "7"}
    assert MicroConfig.parse(both).run_name == "2 kernels b1,2 b4 p7 a,b"
    widths = {"kernels": "head_stream", "batches": "1", "intermediate": "352", "vocab": "512"}
    assert MicroConfig.parse(widths).run_name == "head_stream b1 i352 v512"


def test_a_name_fits_into_mlflows_store() -> None:
    assert len(MicroConfig.parse({"kernels": ",".join(f"kernel_{i}" for i in range(99))}).run_name) == MOST
    assert len(RunConfig.parse({"checkpoint": "x" * 999}).run_name) == MOST
