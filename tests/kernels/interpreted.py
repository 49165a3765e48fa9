"""Triton kernels in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1.

Each kernel runs once in each way that differs in its code; more dtypes and head dimensions are marked long.
"""

import pytest
import torch

from benchmarks import product_choices
from tests.kernels.block_cases import check_against_twins
from tests.kernels.decode_cases import KINDS, SIZE, check, check_state_between_folds, triton_step
from tests.kernels.step_cases import check_flight, check_step, distance
from ttt_mlflow.kernels.block import fused, prefill, reference
from ttt_mlflow.kernels.overlapped import launch as overlapped
from ttt_mlflow.kernels.overlapped.tiles import index_in
from ttt_mlflow.kernels.overlapped.tuning import Tiling, Tuning, padded_batch
from ttt_mlflow.kernels.ttt_mlp import accumulate as ttt_mlp_accumulate
from ttt_mlflow.kernels.ttt_mlp import decode as ttt_mlp_decode
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.sizes import build

# The interpreter multiplies the bits of bfloat16 as integers in tl.dot, with which the rank-1 kernels fold: not these.
# It also cuts float32 off at bfloat16 where a GPU rounds, which over several mini-batches would be too much.
BFLOAT16 = [(kind, torch.bfloat16, 64) for kind in KINDS if kind.endswith("_accumulate")]
FLOAT16 = [(kind, torch.float16, 64) for kind in KINDS]
OTHERS = [(kind, dtype, dim) for kind in KINDS for dtype, dim in ((torch.float16, 96), (torch.float32, 64))]
SHAPES = [*FLOAT16, *(pytest.param(*shape, marks=pytest.mark.long) for shape in (*OTHERS, *BFLOAT16))]


@pytest.fixture(autouse=True)
def _large_tiles(monkeypatch):
    """The interpreter's time goes with the number of operations: fewer tiles; one test below has the kernels' own."""
    monkeypatch.setattr(ttt_mlp_decode, "TILE", 128)
    monkeypatch.setattr(ttt_mlp_accumulate, "tiles", lambda dim, dtype: (128, 1))


@pytest.mark.parametrize(("kind", "dtype", "dim"), SHAPES, ids=str)
def test_decode_matches_float64(kind, dtype, dim):
    check(kind, triton_step(kind), dtype, batch=1, heads=2, dim=dim, tokens=SIZE + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_over_three_mini_batches(kind):
    check(kind, triton_step(kind), torch.float32, batch=1, heads=1, dim=32, tokens=3 * SIZE)


@pytest.mark.parametrize("dim", [40, pytest.param(120, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", KINDS)
def test_head_dimensions(kind, dim):
    check(kind, triton_step(kind), torch.float16, batch=1, heads=1, dim=dim, tokens=SIZE)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mlp", "mlp_accumulate"])
def test_the_kernels_own_tiles(kind, monkeypatch):
    monkeypatch.setattr(ttt_mlp_decode, "TILE", 16)
    monkeypatch.setattr(ttt_mlp_accumulate, "tiles", lambda dim, dtype: (16, 4))
    check(kind, triton_step(kind), torch.float16, batch=1, heads=1, dim=40, tokens=SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_state_changes_at_the_end_of_a_mini_batch_only(kind):
    check_state_between_folds(kind, triton_step(kind), torch.float16, batch=1, heads=1, dim=32)


WIDE, HALF = Tiling(columns=512, span=128), Tiling(columns=256, span=128, tiles=2)
THIRD = Tiling(columns=256, span=256, tiles=3)
TWO = Tiling(warps=2, span=64, tiles=2)
CHOICES = [
    ("mlp", 3, {}),
    pytest.param("linear", 1, {"intermediate": 520}, marks=pytest.mark.long),
    pytest.param("mlp", 2, {"heads": 3, "dim": 32, "vocab": 70}, marks=pytest.mark.long),
    pytest.param("linear", 9, {}, marks=pytest.mark.long),  # a batch of up to 16
    # rows in three parts
    ("linear", 2, {"intermediate": 520, "layers": 1, "tuning": Tuning(down=Tiling(columns=256, span=256))}),
    pytest.param("mlp", 1, {"tuning": Tuning(head_warps=8)}, marks=pytest.mark.long),
    # the inner net's kernels of launches
    ("linear", 2, {"dim": 32, "layers": 1, "tuning": Tuning(held=False)}),
    pytest.param("mlp", 2, {"dim": 32, "tuning": Tuning(held=False)}, marks=pytest.mark.long),
    # each tile when the one before has come; two of four in registers
    pytest.param(
        "linear", 3,
        {"heads": 4, "dim": 64, "layers": 1, "tuning": Tuning(TWO, gate_up=TWO)},
        marks=pytest.mark.long,
    ),
    # more than 256 columns, of which a product that keeps no parts has all
    pytest.param(
        "linear", 9,
        {"heads": 4, "dim": 128, "vocab": 70, "tuning": Tuning(THIRD, THIRD, THIRD, THIRD, THIRD)},
        marks=pytest.mark.long,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "batch", "shape"), CHOICES, ids=str)
def test_a_whole_step(kind, batch, shape):
    check_step(kind, batch, tokens=2, position=15, **shape)


@pytest.mark.parametrize(
    ("tiling", "n", "k", "kind"),
    [
        (WIDE, 32, 512, {}),
        (HALF, 16, 600, {"partial": True}),  # parts of two tiles, of which the last is empty but for some columns
        (TWO, 48, 248, {"gated": True}),  # two of four tiles in registers
    ],
    ids=str,
)
def test_tiles_on_their_way_change_no_bit(tiling, n, k, kind):
    check_flight(tiling, n, k, **kind)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 16])
def test_the_largest_logit_of_each_program(count):
    """Of equal ones the first; words beyond the last are none."""
    generator = torch.Generator().manual_seed(count)
    x = torch.randint(-2, 3, (count, 96), generator=generator).half()
    w = torch.randint(-2, 3, (48, 96), generator=generator).half()
    w[20:40] = w[:20]
    out = torch.full((count, 48), float("nan"), dtype=torch.float16)
    best = torch.zeros(padded_batch(count), 3, dtype=torch.int64)
    overlapped.product(x, w, out, best=best, words=45, tiling=Tiling(), overlap=False)
    exact = x.double() @ w.double().T
    assert torch.equal(out.double(), exact)
    assert index_in(best.amax(1))[:count].tolist() == exact[:, :45].argmax(1).tolist()


@pytest.mark.long
@pytest.mark.parametrize(("gated", "divided"), [(False, False), (True, False), (False, True)])
def test_the_products_that_are_compared(gated, divided):
    """Those of the benchmark, with columns that fill no last tile."""
    product = product_choices.Product("some", 96, 208, divided=divided, gated=gated)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, product.k, generator=generator).half()
    w = (torch.randn(product.n, product.k, generator=generator) * product.k**-0.5).half()
    for tiling in product_choices.IN_REGISTERS.values():
        found = product_choices.by_kernel(product, tiling)(x, w)
        assert product_choices.distance(product, found, x, w) < 1e-3


@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_model_decodes_either_way(steps):
    """The model with its own weights, state and arg-max: the functions of a layer, and the step as a whole."""
    tokens, states, models = [], [], []
    for path in ("launches", "overlapped"):
        request = ModelRequest(
            "ttt-tiny", "mlp_1_dual_triton", torch.float16, torch.device("cpu"), 0, None, decode_path=path
        )
        models.append(build(request))
        states.append(models[-1].new_state(2))
        tokens.append(torch.tensor([[3, 9], [500, 9]])[:, 0])  # with gaps, as a column of a prompt
    assert states[0].whole_step is None
    assert states[1].whole_step is not None
    fed = tokens[1].clone()
    best = []
    for step in range(1, steps + 1):
        launched, other = (model.step(one, state) for model, one, state in zip(models, tokens, states, strict=True))
        assert distance(other, launched) < 1e-3
        assert (states[0].position.item(), states[1].position.item()) == (step, step)
        tokens = [other.argmax(-1)] * 2
        best.append(tokens[0].tolist())
    models[1].reset_state(states[1])
    for expected in best:
        models[1].greedy_step(fed, states[1])
        assert fed.tolist() == expected
    with pytest.raises(ValueError, match="gaps"):
        states[1].whole_step(fed, torch.zeros(2, 2, dtype=torch.int64)[:, 0])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_whole_steps_over_a_mini_batch(kind):
    check_step(kind, 1, tokens=SIZE + 2, layers=1)


def twins(name, *arguments):
    """The Triton function and its twin on the same arguments, each with its own copies; all that they wrote."""
    results = []
    for module in (fused, reference):
        copies = [a.clone() if torch.is_tensor(a) and a.is_contiguous() else a for a in arguments]
        out = getattr(module, name)(*copies)
        results.append([*(out if isinstance(out, tuple) else [out]), *(c for c in copies if torch.is_tensor(c))])
    return results


def check_twins(name, *arguments):
    for mine, theirs in zip(*twins(name, *arguments), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("position", [0, 1, 6, 15])
def test_stages_match_their_twins(dtype, position):
    batch, heads, dim = 3, 3, 24
    width = heads * dim

    def x(*shape):
        return torch.randn(shape).to(dtype)

    now = torch.tensor([position], dtype=torch.int32)
    check_twins("add_rms_norm", x(batch, width), x(batch, width), x(width))
    weights = (x(width), x(4, width), x(width), x(width))
    check_twins("conv_rms_norm", x(batch, width), x(batch, width), x(batch, 4, width), now, *weights)
    projected = x(batch, 2 * width + heads)
    table = torch.randn(16, dim // 2)
    check_twins(
        "qk_conv_rotary", projected[:, :width], projected[:, -heads:], x(batch, 4, width), now,
        x(4, width), x(width), x(4, width), x(width), x(heads), table.cos(), table.sin(), 0.5,
    )  # fmt: skip
    check_twins("gated_layer_norm", x(batch, width), projected[:, width : 2 * width], x(width), x(width))
    check_twins("swiglu", x(batch, 2 * 1100))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("length", "start"), [(1, 0), (3, 5), (4, 15), (23, 6)])
def test_stages_of_a_prompt_match_their_twins(length, start, dtype, monkeypatch):
    # several programs, the last of them not full
    for name, value in {"TOKENS": 8, "QK_TOKENS": 4, "ROWS": 4, "COLUMNS": 64}.items():
        monkeypatch.setattr(prefill, name, value)
    check_against_twins(prefill, dtype, length, start, heads=3, dim=24)


@pytest.mark.long
@pytest.mark.parametrize("inner_net", ["mlp_1_dual_triton", "mlp_2_dual_triton"])
def test_a_prompt_leads_to_the_same_state_either_way(inner_net, monkeypatch):
    monkeypatch.setattr(ttt_mlp_decode, "TILE", 256)
    request = ModelRequest("ttt-tiny", inner_net, torch.float32, torch.device("cpu"), 0, None)
    model = build(request)
    prompt = torch.randint(model.vocab_size, (2, 18))
    at_once, by_token = model.new_state(2), model.new_state(2)
    logits = model.prefill(prompt, at_once)
    for token in prompt.unbind(1):
        expected = model.step(token, by_token)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    for one, other in zip(at_once.layers, by_token.layers, strict=True):
        for a, b in zip((*one.inner, one.conv, one.qk_conv), (*other.inner, other.conv, other.qk_conv), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
