"""The inputs of a step: sizes, values, and that they may be used again and again."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.micro.cases import CPU, linear_accumulate, mlp_accumulate, prompt, shape
from ttt_mlflow.kernels.inner_layers import inner_flops
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill
from ttt_mlflow.micro.entry import Step
from ttt_mlflow.micro.inputs import make_inputs
from ttt_mlflow.micro.task import RandomSource, make_positions
from ttt_mlflow.micro.timing import run_calls

STEPS: dict[tuple[str, str], Callable[[], Step]] = {
    ("linear", "rank-1"): lambda: linear_decode,
    ("mlp", "rank-1"): lambda: mlp_decode,
    ("linear", "accumulating"): linear_accumulate,
    ("mlp", "accumulating"): mlp_accumulate,
}
KINDS = pytest.mark.parametrize(("layer_type", "form"), STEPS)


@KINDS
def test_a_step_takes_them(layer_type: str, form: str) -> None:
    inputs = make_inputs(shape(layer_type, form), RandomSource(0, CPU))
    step, positions = STEPS[layer_type, form](), make_positions(CPU)
    assert inputs.starts == tuple(range(16))
    for token in range(2):
        out = step(*inputs.arguments(token, positions))
        assert out.shape == (2, 32)
        assert torch.isfinite(out).all()


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_copy_takes_the_memory_that_is_reckoned_with(layer_type: str, form: str, dtype: torch.dtype) -> None:
    one = shape(layer_type, form, batch=3, dtype=dtype)
    inputs = make_inputs(one, RandomSource(0, CPU))
    tensors = [*(tensor for token in inputs.tokens for tensor in token), *inputs.state, *inputs.kept]
    assert one.copy_bytes == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_prompts_copy_and_its_floor(layer_type: str, dtype: torch.dtype) -> None:
    one = prompt(layer_type, batch=3, dtype=dtype)
    inputs = make_inputs(one, RandomSource(0, CPU))
    ((q, k, v, lr),) = inputs.tokens
    assert q.shape == k.shape == v.shape == (3, 40, 32)
    assert (lr.shape, inputs.starts) == ((3, 2, 40), (0,))
    assert one.copy_bytes == sum(part.nbytes for part in (q, k, v, lr, *inputs.state, *inputs.kept))
    # q, k, v, output and learning rate; the state, read and written; the vectors of eight tokens
    state = sum(part.numel() for part in inputs.state)
    vectors = sum(part.numel() for part in inputs.kept) // 2
    assert one.floor_bytes == dtype.itemsize * (4 * q.numel() + lr.numel() + 2 * state + vectors)
    assert one.flops == 3 * 2 * inner_flops(layer_type, 40, 16)


def test_pieces_of_a_prompt_begin_where_the_one_before_them_ended() -> None:
    inputs = make_inputs(prompt(), RandomSource(0, CPU), calls=(23, 28, 1))
    assert [call[0].shape[1] for call in inputs.tokens] == [23, 28, 1]
    assert inputs.starts == (0, 7, 3)
    assert int(inputs.arguments(1, make_positions(CPU))[5]) == 7


def test_what_a_step_must_not_read_is_nan_and_the_rest_is_not() -> None:
    inputs = make_inputs(shape("mlp"), RandomSource(0, CPU))
    assert all(torch.isnan(part).all() for part in inputs.kept)
    given = [*inputs.tokens[0], inputs.eta, *inputs.norm, *inputs.state]
    assert all(torch.isfinite(part).all() for part in given)
    assert not torch.allclose(inputs.norm[0], torch.ones_like(inputs.norm[0]), atol=0.1)


def test_the_seed_decides() -> None:
    first, again, other = (make_inputs(shape(), RandomSource(seed, CPU)) for seed in (1, 1, 2))
    assert torch.equal(first.state[0], again.state[0])
    assert not torch.equal(first.state[0], other.state[0])
    assert not torch.equal(first.tokens[0][0], first.tokens[1][0])


def test_positions_are_aligned_as_a_kernel_would_have_them() -> None:
    positions = make_positions(CPU)
    assert [int(position) for position in positions] == list(range(16))
    assert all(position.shape == (1,) and position.dtype == torch.int32 for position in positions)
    assert all(position.data_ptr() % 16 == 0 for position in positions)


@pytest.mark.parametrize("layer_type", ["linear", "mlp"])
def test_the_state_stays_finite_however_often_a_mini_batch_is_repeated(layer_type: str) -> None:
    one = shape(layer_type, head_dim=64, dtype=torch.float16)
    inputs = make_inputs(one, RandomSource(0, CPU))
    step, positions = STEPS[layer_type, "rank-1"](), make_positions(CPU)
    for _ in range(60):
        run_calls(step, [inputs], positions)
    earlier = [float(part.float().norm()) for part in inputs.state]
    for _ in range(60):
        run_calls(step, [inputs], positions)
    later = [float(part.float().norm()) for part in inputs.state]
    assert later == pytest.approx(earlier, rel=0.1)


@pytest.mark.parametrize(("layer_type", "prefill"), [("linear", linear_prefill), ("mlp", mlp_prefill)])
def test_the_state_stays_small_however_often_a_prompt_is_repeated(layer_type: str, prefill: Step) -> None:
    """It grows ever more slowly, because the gradient of a norm's input shrinks as that grows."""
    inputs = make_inputs(prompt(layer_type, tokens=160, batch=1, head_dim=64), RandomSource(0, CPU))

    def norms_after(times: int) -> list[float]:
        for _ in range(times):
            run_calls(prefill, [inputs], make_positions(CPU))
        return [float(part.float().norm()) for part in inputs.state]

    early, late = norms_after(20), norms_after(20)
    assert all(after < 1.3 * before for before, after in zip(early, late, strict=True))


def test_in_float64_they_are_the_same_values_elsewhere() -> None:
    inputs = make_inputs(shape(), RandomSource(0, CPU))
    wide = inputs.double()
    assert wide.state[0].dtype == wide.tokens[0][3].dtype == wide.eta.dtype == torch.float64
    assert torch.equal(wide.state[0].half(), inputs.state[0])
    wide.state[0].zero_()
    assert inputs.state[0].any()


def test_the_operations_of_a_step_are_the_mean_over_a_mini_batch() -> None:
    assert 16 * shape("mlp").flops == prompt("mlp", tokens=16).flops


def test_the_floor_is_the_same_for_both_forms() -> None:
    assert shape().floor_bytes == replace(shape(), form="accumulating").floor_bytes
