"""Mamba-2 without mamba-ssm: what is said then, what it is built with, and the names in a profile."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.mamba.installation import missing
from ttt_mlflow.models.mamba.model import named_parts
from ttt_mlflow.models.mamba2.model import MAMBA2, SIZES, build
from ttt_mlflow.models.registry import find_model
from ttt_mlflow.workload import Workload, named_by


@pytest.mark.parametrize("name", SIZES)
def test_entries_say_what_they_are(name: str) -> None:
    entry = find_model(name)
    assert entry.needs_cuda
    assert entry.own_generation
    assert entry.missing is missing, "the same packages as Mamba"
    assert entry.inner_nets == ()
    assert entry.description.startswith("Mamba-2, ")


def test_built_from_the_published_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeModel(nn.Module):
        def __init__(self, config: dict[str, object], device: torch.device, dtype: torch.dtype) -> None:
            super().__init__()
            self.config, self.weight = config, nn.Parameter(torch.randn(4, device=device, dtype=dtype))

    contents: dict[str, dict[str, object]] = {
        "mamba_ssm": {},
        "mamba_ssm.models": {},
        "mamba_ssm.models.config_mamba": {"MambaConfig": dict},
        "mamba_ssm.models.mixer_seq_simple": {"MambaLMHeadModel": FakeModel},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    request = ModelRequest("state-spaces/mamba2-1.3b", None, torch.float16, torch.device("cpu"), 0, None)
    model = build(request)
    assert model.model.config == {
        "d_model": 2048,
        "n_layer": 48,
        "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "pad_vocab_size_multiple": 16,
    }
    assert model.vocab_size == 50277
    assert not model.model.training
    assert torch.equal(build(request).model.weight, model.model.weight)
    assert model.steps_one_token
    assert not build(replace(request, workload=Workload("prefill", 1, 1, 1))).steps_one_token


def test_its_own_functions_are_named_while_a_profiler_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []

    def noting(name: str) -> object:
        def function(x: Tensor) -> Tensor:
            noted.append(name)
            return x

        return function

    block = ModuleType("mamba_ssm.modules.mamba2")
    vars(block).update({name: noting(name) for name in MAMBA2.functions})
    modules = ModuleType("mamba_ssm.modules")
    for name, module in {"": ModuleType("mamba_ssm"), ".modules": modules, ".modules.mamba2": block}.items():
        monkeypatch.setitem(sys.modules, f"mamba_ssm{name}", module)

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return block.mamba_chunk_scan_combined(block.causal_conv1d_fn(x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Module()
            self.backbone.layers = nn.ModuleList([Layer()])

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone.layers[0](x)  # type: ignore[index, operator]

    @contextmanager
    def named(name: str):
        noted.append(f"<{name}>")
        yield

    model = Model()
    with named_by(named), named_parts(model, MAMBA2):
        model(torch.ones(1))
    assert noted == [
        "<embeddings and head>", "<layer 0>", "<projections>", "<convolution state>", "causal_conv1d_fn",
        "<inner net state>", "mamba_chunk_scan_combined",
    ]  # fmt: skip
