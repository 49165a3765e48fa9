"""The same model with the same weights in another dtype."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.ttt.cases import INNER_NETS
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.models.entry import ModelEntry, ModelRequest
from ttt_mlflow.models.reference import Twins, copy_weights
from ttt_mlflow.models.registry import find_model

CPU = torch.device("cpu")
REQUEST = ModelRequest("ttt-tiny", "mlp_1_dual", torch.float16, CPU, 3, None)


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_twin_has_the_weights_and_what_is_made_of_them(inner_net: str) -> None:
    entry, request = find_model("ttt-tiny"), replace(REQUEST, inner_net=inner_net)
    model: Any = entry.factory(request)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 8)
    model.weights_changed()
    twin: Any = Twins(entry, request).build(model, torch.float32)
    values, others = dict(model.named_parameters()), dict(twin.named_parameters())
    assert values.keys() == others.keys()
    for name, value in values.items():
        assert others[name].dtype == torch.float32
        assert torch.equal(others[name], value.float()), name
    eta = model.layers[1].seq_modeling_block.eta
    assert torch.equal(twin.layers[1].seq_modeling_block.eta, eta)
    # fused weights are views of the same memory, so that the products see what was copied
    assert torch.equal(twin.layers[0].mlp.gate_up, model.layers[0].mlp.gate_up.float())
    assert torch.equal(twin.model.table, model.model.table.float())


def test_the_twin_of_a_triton_net_is_in_pytorch() -> None:
    entry = find_model("ttt-tiny")
    twins = Twins(entry, replace(REQUEST, inner_net="mlp_2_dual_triton"))
    assert twins.is_plain
    twin: Any = twins.build(entry.factory(replace(REQUEST, inner_net="mlp_2_dual")), torch.float32)
    assert twin.net.name == "mlp_2_dual"


def test_a_model_without_a_plain_one() -> None:
    asked: list[str | None] = []

    def build(request: ModelRequest) -> Any:
        asked.append(request.inner_net)
        return nn.Linear(2, 2, dtype=request.dtype)

    linear: Any = nn.Linear(2, 2)
    with_nets = ModelEntry("own", build, "", inner_nets=("fast_triton", "fast", "odd_triton"))
    for net, is_plain, expected in (("fast_triton", True, "fast"), ("odd_triton", False, "odd_triton")):
        twins = Twins(with_nets, replace(REQUEST, inner_net=net))
        assert twins.is_plain is is_plain
        twins.build(linear, torch.float32)
        assert asked[-1] == expected
    assert not Twins(ModelEntry("own", build, ""), replace(REQUEST, inner_net=None)).is_plain


def test_weights_that_do_not_correspond() -> None:
    with pytest.raises(RunFailed, match=r"^the weights cannot be copied into the float32 model \(RuntimeError: Error"):
        copy_weights(nn.Linear(2, 2), nn.Linear(2, 3))
    with pytest.raises(RunFailed, match="has no state_dict"):
        copy_weights(object(), nn.Linear(2, 2))
