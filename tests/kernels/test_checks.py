"""Arguments that a kernel would read wrongly are refused, by name, before anything is launched."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import KINDS, SIZE, Case, make_case, triton_step

STEPS = {kind: triton_step(kind) for kind in KINDS}  # imported before the fixture's environment, or interpreted
BATCH, HEADS, DIM = 2, 3, 32
NAMES = {
    "linear": ["w", "b", "k_slots", "g_slots"],
    "mlp": ["w1", "b1", "w2", "b2", "k_slots", "g1_slots", "x2_slots", "g2_slots"],
    "linear_accumulate": ["w", "b", "w_sum", "b_sum"],
    "mlp_accumulate": ["w1", "b1", "w2", "b2", "w1_sum", "b1_sum", "w2_sum", "b2_sum"],
}
INPUTS = ["q", "k", "v", "lr", "eta", "position", "norm_weight", "norm_bias"]
EVERY_ARGUMENT = [(kind, name) for kind in KINDS for name in INPUTS + NAMES[kind]]


@pytest.fixture(autouse=True)
def _a_cpu_is_good_enough(monkeypatch):
    """As in the interpreter. The kernels themselves are not interpreted here: these calls must not get that far."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def arguments(kind: str, case: Case | None = None) -> dict[str, Tensor]:
    case = case or make_case(kind, BATCH, HEADS, DIM, torch.float16, tokens=1)
    position = torch.zeros(1, dtype=torch.int32)
    inputs = [case.q[0], case.k[0], case.v[0], case.lr[0], case.eta, position, case.gamma, case.beta]
    return dict(zip(INPUTS + NAMES[kind], [*inputs, *case.params, *case.slots], strict=True))


def refused(kind: str, values: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STEPS[kind](*values.values())


def refused_if(kind: str, name: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    values = arguments(kind)
    refused(kind, values | {name: change(values[name])}, message)


def spread(tensor: Tensor) -> Tensor:
    """The same values with a gap after each."""
    return torch.stack((tensor, tensor), -1)[..., 0]


@pytest.mark.parametrize(("kind", "name"), EVERY_ARGUMENT)
def test_a_wrong_shape(kind, name):
    values = arguments(kind)
    longer = torch.cat((values[name], values[name]))
    subject = f"^{name} has shape {re.escape(str(tuple(longer.shape)))}, expected"
    if name in ("b", "b2"):  # what the others must fit to: the first of them does not
        subject = r"^\w+ has shape \(\d+, .*\), expected \(4, "
    refused(kind, values | {name: longer}, subject)


@pytest.mark.parametrize(("kind", "name"), EVERY_ARGUMENT)
def test_a_wrong_dtype(kind, name):
    if name in ("b", "b2"):
        refused_if(kind, name, Tensor.double, rf"^{name} is float64, expected one of float16, bfloat16, float32")
    else:
        refused_if(kind, name, Tensor.double, rf"^{name} is float64, expected \w+")


@pytest.mark.parametrize(("kind", "name"), EVERY_ARGUMENT)
def test_a_wrong_device(kind, name):
    if name in ("b", "b2"):
        refused_if(kind, name, lambda x: x.to("meta"), r"^\w+ is on cpu, expected meta")
    else:
        refused_if(kind, name, lambda x: x.to("meta"), rf"^{name} is on meta, expected cpu")


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in EVERY_ARGUMENT if n not in ("v", "position")])
def test_wrong_strides(kind, name):
    refused_if(kind, name, spread, rf"^{name} has strides \(.*\) for shape \(.*\), must be contiguous")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_v_may_be_strided_but_not_their_elements(kind):
    assert not arguments(kind)["v"].is_contiguous()
    refused_if(kind, "v", spread, r"^v has strides \(.*\), its rows must be contiguous")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_of_dtypes(kind):
    """Not only dtypes that no kernel takes."""
    refused_if(kind, "k", Tensor.bfloat16, "^k is bfloat16, expected float16")


@pytest.mark.parametrize("dim", [8, 24, 36, 136])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unsupported_head_dimension(kind, dim):
    case = make_case(kind, BATCH, HEADS, dim, torch.float16, tokens=1)
    message = rf"^b2? has head dimension {dim}, a multiple of 8 from 32 to 128 is supported"
    refused(kind, arguments(kind, case), message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_without_heads(kind):
    name = "b" if kind.startswith("linear") else "b2"
    message = rf"^{name} has shape \(6, 32\), expected \(sequences, heads, head dimension\)"
    refused_if(kind, name, lambda x: x.flatten(0, 1), message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mini_batch_of_another_size(kind):
    refused_if(kind, "eta", lambda x: x[:8], rf"^eta has shape \(8,\), expected \({SIZE},\)")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cpu_without_the_interpreter(kind, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    refused(kind, arguments(kind), "^b2? is on cpu, this kernel needs a CUDA device")
