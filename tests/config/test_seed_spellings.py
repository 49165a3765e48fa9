"""The words of the scripts before: understood, and recorded under this project's names."""

from typing import Any

import pytest
from click.testing import CliRunner

from ttt_mlflow.cli import cli
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"dtype": "fp16"}, {"dtype": "float16"}),
        ({"dtype": "bf16"}, {"dtype": "bfloat16"}),
        ({"dtype": "fp32"}, {"dtype": "float32"}),
        ({"prompt_len": "7", "generate_len": 9}, {"promptlen": 7, "genlen": 9}),
        ({"model_name": "ttt-linear"}, {"model_name": "ttt-1b", "inner_net": "mlp_1_dual"}),
        ({"model_name": "ttt-mlp"}, {"model_name": "ttt-1b", "inner_net": "mlp_2_dual"}),
        ({"model_name": "ttt-linear-fast"}, {"model_name": "ttt-1b", "inner_net": "mlp_1_dual_triton"}),
        (
            {"model_name": "ttt-mlp-fast", "inner_net": "auto"},
            {"model_name": "ttt-1b", "inner_net": "mlp_2_dual_triton"},
        ),
        (
            {"model_name": "ttt-mlp-fast", "inner_net": "mlp_2_dual_triton"},
            {"model_name": "ttt-1b", "inner_net": "mlp_2_dual_triton"},
        ),
        ({"model_name": "mamba"}, {"model_name": "state-spaces/mamba-1.4b"}),
    ],
)
def test_what_they_meant(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert RunConfig.parse(given) == RunConfig.parse(meant)
    assert RunConfig.parse(given).config_id() == RunConfig.parse(meant).config_id()


def test_a_kernel_alone_too() -> None:
    assert MicroConfig.parse({"dtype": "bf16"}).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"inner_net": "mlp_1_dual_tk"},
            "inner_net=mlp_1_dual_tk: another kernel for the same mathematics, which is not here; "
            "use mlp_1_dual_triton",
        ),
        (
            {"inner_net": "mlp_2_dual_triton_whole_loop"},
            "inner_net=mlp_2_dual_triton_whole_loop: another kernel for the same mathematics, which is not here; "
            "use mlp_2_dual_triton",
        ),
        (
            {"model_name": "transformer-vllm"},
            "model_name=transformer-vllm: a transformer through vLLM, which is not here; use transformer-1b or "
            "transformer-1b-gqa4",
        ),
        (
            {"prompt_len": 1, "promptlen": 2},
            "prompt_len=1: promptlen=2 is given too, which means the same; give one",
        ),
        (
            {"model_name": "ttt-linear", "inner_net": "mlp_2_dual"},
            "inner_net=mlp_2_dual: model_name=ttt-linear means ttt-1b with mlp_1_dual; give ttt-1b",
        ),
    ],
)
def test_what_has_no_counterpart(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        RunConfig.parse(given)
    assert str(refused.value) == said


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        RunConfig.parse({"inner_net": "x_tk", "model_name": "transformer-vllm"})
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt_len", "0"], "promptlen=0: not allowed"),
        (["--generate-len=0"], "genlen=0: not allowed"),
        (["--attn_impl", "flash"], "attn_impl=flash: ttt-1b has no attention; omit attn_impl"),
        (
            ["--model-name=transformer-1b", "--attn-impl", "flashinfer"],
            "attn_impl=flashinfer: no such attention; transformer-1b has split_kv_triton, cudnn, flash, efficient, "
            "math, or two of them as PROMPT+STEP",
        ),
        (
            ["--model-name=transformer-1b", "--attn-impl", "split_kv_triton+cudnn", "--device=cpu"],
            "attn_impl=split_kv_triton+cudnn: Triton needs a GPU",
        ),
        (
            ["--model-name=transformer-1b", "--attn-impl", "flash+flash", "--device=cpu"],
            "attn_impl=flash+flash: flash is no attention for a decode step; those are split_kv_triton, cudnn",
        ),
        (
            ["--model-name=transformer-1b", "--attn-impl", "cudnn", "--device=cpu"],
            "attn_impl=cudnn: cudnn needs a GPU; on a CPU, use flash or math",
        ),
    ],
)
def test_on_the_command_line(words: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["run", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {said}")
    assert "--prompt" not in CliRunner().invoke(cli, ["run", "--help"]).stdout.replace("--promptlen", "")
