"""A prompt on a GPU: the tensor-core kernels against float64, the functions around them, and the whole model."""

import pytest
import torch

from tests.kernels.block_cases import check_against_twins
from tests.kernels.decode_cases import EXTREMES, relative_error
from tests.kernels.prefill_cases import NETS, PIECES, check, triton_prefill
from tests.models.ttt.cases import assert_same_state, decode, leave_initial_values, make_model, make_tokens
from ttt_mlflow.kernels import launch
from ttt_mlflow.kernels.block import prefill
from ttt_mlflow.models.decoder import ModelDecoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
INNER_NETS = ("mlp_1_dual_triton", "mlp_2_dual_triton")
SIXTEEN_BIT = (torch.float16, torch.bfloat16)


@pytest.fixture(params=[2, 4])
def warps(request, monkeypatch):
    """TTT-Linear's kernel with each number of warps, whatever the batch."""
    monkeypatch.setattr("ttt_mlflow.kernels.ttt_linear.prefill_tensor_cores.warps_of_a_chain", lambda *_: request.param)


@pytest.mark.usefixtures("warps")
@pytest.mark.parametrize("dtype", SIXTEEN_BIT, ids=str)
@pytest.mark.parametrize("pieces", [*PIECES, (160,), (2048,)], ids=str)
@pytest.mark.parametrize("net", NETS)
def test_tensor_cores_match_float64(net, pieces, dtype):
    assert launch.on_tensor_cores(f"ttt_{net}_prefill_tensor", torch.device("cuda"), dtype, 64)
    check(net, triton_prefill(net), dtype, pieces, batch=2, heads=3, dim=64, gpu=1)


@pytest.mark.usefixtures("warps")
@pytest.mark.parametrize("scale", [1e-3, 30.0])
@pytest.mark.parametrize("net", NETS)
def test_large_and_tiny_inputs(net, scale):
    assert {scale for dtype, scale in EXTREMES if dtype == torch.float16} == {1e-3, 30.0}
    check(net, triton_prefill(net), torch.float16, (20, 19), scale, batch=2, heads=2, dim=64, gpu=1)


@pytest.mark.parametrize(("dtype", "dim"), [(torch.float16, 96), (torch.bfloat16, 96), (torch.float32, 64)], ids=str)
@pytest.mark.parametrize("net", NETS)
def test_other_heads_match_float64(net, dtype, dim):
    check(net, triton_prefill(net), dtype, (7, 40, 1), batch=2, heads=2, dim=dim, gpu=1)


@pytest.mark.parametrize("dtype", [*SIXTEEN_BIT, torch.float32], ids=str)
@pytest.mark.parametrize(("heads", "dim"), [(32, 64), (16, 96), (2, 64)])
@pytest.mark.parametrize(("length", "start"), [(1, 0), (3, 5), (4, 15), (150, 6), (512, 0)])
def test_the_block_matches_its_twins(length, start, heads, dim, dtype):
    check_against_twins(prefill, dtype, length, start, heads, dim, device="cuda")


@pytest.mark.parametrize("length", [2, 33, 512])
@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_prompt_leads_to_the_state_of_its_steps(inner_net, length):
    """In float16; against float64, the prompt's state, rounded once, is not the farther of the two."""
    models = {
        dtype: leave_initial_values(make_model(net, dtype=dtype, device="cuda"), scale=2.0)
        for dtype, net in ((torch.float16, inner_net), (torch.float64, inner_net.removesuffix("_triton")))
    }
    tokens = make_tokens(3, length).cuda()
    narrow, wide = models[torch.float16], models[torch.float64]
    for mine, copy in zip(narrow.parameters(), wide.parameters(), strict=True):
        copy.copy_(mine)
    wide.weights_changed()
    at_once, one_by_one, reference = narrow.new_state(3), narrow.new_state(3), wide.new_state(3)
    prompt, steps = narrow.prefill(tokens, at_once), decode(narrow, tokens, one_by_one)[:, -1]
    exact = wide.prefill(tokens, reference)
    assert relative_error(prompt, exact) < max(1.5 * relative_error(steps, exact), 5e-3)
    assert_same_state(at_once, reference, 2e-2)
    for layer, stepped, theirs in zip(at_once.layers, one_by_one.layers, reference.layers, strict=True):
        for found, step, want in zip(layer.inner, stepped.inner, theirs.inner, strict=True):
            assert relative_error(found, want) < max(1.5 * relative_error(step, want), 2e-3)


@pytest.mark.parametrize("inner_net", INNER_NETS)
def test_a_prompt_of_2047_tokens_then_decoding(inner_net):
    """Eager, compiled and replayed decode give the same tokens after a prompt that ends within a mini-batch."""
    model = leave_initial_values(make_model(inner_net, dtype=torch.float16, device="cuda"))
    prompt = make_tokens(4, 2047).cuda()

    def tokens(decoder):
        return torch.stack([decoder.prefill(prompt).clone(), *(decoder.step().clone() for _ in range(40))], 1)

    decoder = ModelDecoder(model, 4, torch.device("cuda"))
    eager = tokens(decoder)
    assert all(sequence.unique().numel() > 10 for sequence in eager)
    decoder.compile()
    decoder.warm_up()
    assert torch.equal(tokens(decoder), eager)
    decoder.capture()
    assert torch.equal(tokens(decoder), eager)


def test_a_long_prompt_needs_no_more_memory_than_a_short_one():
    model = make_model("mlp_1_dual_triton", dtype=torch.float16, device="cuda")
    peaks = []
    for length in (32768, 131072):
        state, tokens = model.new_state(1), make_tokens(1, length).cuda()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.prefill(tokens, state)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] <= 1.01 * peaks[0]
