"""Triton kernels in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1.

Each kernel runs once in each way that differs in its code; more dtypes and head dimensions are marked long.
"""

import pytest
import torch
import triton
import triton.language as tl

from benchmarks import product_choices
from tests.kernels.block_cases import check_against_twins
from tests.kernels.decode_cases import KINDS, SIZE, check, check_state_between_folds, triton_step
from tests.kernels.persistent_cases import check_step, distance
from ttt_mlflow.kernels.block import fused, prefill, reference
from ttt_mlflow.kernels.overlapped import launch as overlapped
from ttt_mlflow.kernels.persistent import products
from ttt_mlflow.kernels.persistent.launch import Stuck, Tuning
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


@pytest.mark.parametrize(
    ("kind", "batch", "shape"),
    [
        # all norms in every program; rows in two parts
        pytest.param("linear", 1, {"intermediate": 520}, marks=pytest.mark.long),
        ("mlp", 3, {}),  # norms as stages of their own
        pytest.param("mlp", 2, {"heads": 3, "dim": 32, "vocab": 70}, marks=pytest.mark.long),
        pytest.param("linear", 9, {}, marks=pytest.mark.long),  # a batch of up to 16
    ],
    ids=str,
)
def test_a_whole_step(kind, batch, shape):
    check_step(kind, batch, tokens=3, position=14, **shape)


@pytest.mark.parametrize(
    ("kind", "batch", "shape"),
    [
        ("linear", 2, {"intermediate": 520, "tuning": overlapped.Tuning(down=overlapped.Tiling(columns=256, span=256))}),  # rows in three parts
        pytest.param("mlp", 1, {"tuning": overlapped.Tuning(head_warps=8)}, marks=pytest.mark.long),
        # the inner net's kernels of launches
        ("linear", 2, {"dim": 32, "layers": 1, "tuning": overlapped.Tuning(held=False)}),
        pytest.param("mlp", 2, {"dim": 32, "tuning": overlapped.Tuning(held=False)}, marks=pytest.mark.long),
        # each tile when the one before has come; two of four in registers
        pytest.param(
            "linear", 3,
            {"heads": 4, "dim": 64, "layers": 1, "tuning": overlapped.Tuning(normed=overlapped.Tiling(warps=2, span=64, tiles=2))},
            marks=pytest.mark.long,
        ),
        # more than 256 columns, of which a product that keeps no parts has all
        pytest.param(
            "linear", 9,
            {"heads": 4, "dim": 128, "vocab": 70, "tuning": overlapped.Tuning(*3 * [overlapped.Tiling(columns=256, span=256, tiles=3)])},
            marks=pytest.mark.long,
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_of_kernels_that_overlap(kind, batch, shape):
    check_step(kind, batch, tokens=2, position=15, whole=overlapped.OverlappedStep, **shape)


@pytest.mark.long
@pytest.mark.parametrize(("gated", "divided", "rows"), [(False, False, 70), (True, False, 96), (False, True, 64)])
def test_the_products_that_are_compared(gated, divided, rows):
    """Both kernels of the benchmark, with rows and columns that fill no last tile."""
    product = product_choices.Product("some", rows, 208, divided=divided, gated=gated)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(17, product.k, generator=generator).half()
    w = (torch.randn(product.n, product.k, generator=generator) * product.k**-0.5).half()
    found = product_choices.wide(product, product_choices.Wide(32, 64, 2, 4, 2 if divided else 1))(x, w)
    assert found.shape[0] == (2 if divided else 1)
    assert product_choices.distance(product, found, x, w) < 1e-3
    if rows % 16 == 0:
        found = product_choices.streaming(product)(x[:5], w)
        assert product_choices.distance(product, found, x[:5], w) < 1e-3


@pytest.mark.long
def test_a_whole_step_with_other_choices():
    """Two tiles before a program waits, the others after; wider tiles of the down projection."""
    check_step("linear", 2, tokens=2, position=15, intermediate=520, tuning=Tuning(True, 256, 512, 2))


@triton.jit
def product_kernel(x, w, out, best, batch, real_rows, N: tl.constexpr, K: tl.constexpr, GATED: tl.constexpr,
                   EARLY: tl.constexpr, GRID: tl.constexpr):  # fmt: skip
    tiles = products.first_tiles(w, N, K, 256, 8, GATED, EARLY, GRID)
    tiles = products.all_tiles(tiles, w, N, K, 256, 8, GATED, EARLY, GRID)
    width: tl.constexpr = N // 2 if GATED else N
    found = products.product(tiles, x, K, w, out, width, batch, real_rows, N, K, 8, 256, 8, GATED, not GATED, GRID)
    tl.store(best + tl.program_id(0) * 8 + tl.arange(0, 8), found)


@pytest.mark.parametrize(
    ("grid", "rows", "width", "gated", "early"),
    [
        (5, 16 * 6, 256, False, 4),  # one sixteen is left over, for four programs
        (5, 16 * 7, 512, True, 2),  # two, for two each
        (3, 16 * 5, 1024, False, 2),  # two, for one each
        (4, 16 * 8, 1536, True, 4),  # none; columns in eight parts, two of them empty
        (20, 16 * 2, 256, False, 4),  # fewer than programs
    ],
)
def test_products_are_shared_by_any_number_of_programs(grid, rows, width, gated, early):
    generator = torch.Generator().manual_seed(grid)
    x = torch.randn(3, width, generator=generator).half()
    w = (torch.randn(rows, width, generator=generator) * width**-0.5).half()
    written = rows // 2 if gated else rows
    out = torch.full((3, written), float("nan"), dtype=torch.float16)
    best = torch.zeros(grid, 8, dtype=torch.int64)
    real = written if gated else rows - 3  # the last rows are padding
    product_kernel[(grid,)](x, w, out, best, 3, real, rows, width, gated, early, grid)
    exact = x.double() @ w.double().T
    if gated:
        gate, up = exact.chunk(2, 1)
        exact = gate * gate.sigmoid() * up
    assert out[:, real:].isnan().all(), "padding was written"
    assert distance(out[:, :real], exact[:, :real]) < 1e-3
    if not gated:
        chosen = [0x7FFFFFFF - (int(value) & 0x7FFFFFFF) for value in best.max(0).values[:3]]
        assert chosen == out[:, :real].float().argmax(1).tolist()


@pytest.mark.parametrize("whole", ["overlapped", pytest.param("persistent", marks=pytest.mark.long)])
def test_a_model_decodes_either_way(whole):
    """The model with its own weights, state and arg-max: the functions of a layer, and the step as a whole."""
    tokens, states, models = [], [], []
    for path in ("launches", whole):
        request = ModelRequest(
            "ttt-tiny", "mlp_1_dual_triton", torch.float16, torch.device("cpu"), 0, None, decode_path=path
        )
        models.append(build(request))
        states.append(models[-1].new_state(2))
        tokens.append(torch.tensor([[3, 9], [500, 9]])[:, 0])  # with gaps, as a column of a prompt
    assert states[0].whole_step is None
    assert states[1].whole_step is not None
    for _ in range(2):
        launched, other = (model.step(fed, state) for model, fed, state in zip(models, tokens, states, strict=True))
        assert distance(other, launched) < 1e-3
        assert (states[0].position.item(), states[1].position.item()) in ((1, 1), (2, 2))
        tokens = [launched.argmax(-1)] * 2
    best = models[1].step(tokens[1], states[1]).argmax(-1)
    states[1].position.sub_(1)
    fed = tokens[1].clone()
    models[1].greedy_step(fed, states[1])
    assert fed.tolist() == best.tolist()
    with pytest.raises(ValueError, match="gaps"):
        states[1].whole_step(fed, torch.zeros(2, 2, dtype=torch.int64)[:, 0])
    if whole == "persistent":
        states[1].whole_step.failed.fill_(1)  # type: ignore[attr-defined]
        with pytest.raises(Stuck, match="decode_path=launches"):
            models[1].reset_state(states[1])


def test_a_model_whose_layers_kernels_overlap():
    """What the kernels of a whole step do not take: the same kernels as launches, so the same bits."""
    logits = []
    for path in ("launches", "overlapped"):
        model = build(
            ModelRequest("ttt-tiny", "mlp_1_dual_triton", torch.float32, torch.device("cpu"), 0, None, decode_path=path)
        )
        state = model.new_state(1)
        assert state.whole_step is None
        logits.append(model.step(torch.tensor([3]), state))
    assert torch.equal(*logits)


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


@pytest.mark.parametrize("inner_net", ["mlp_1_dual_triton", pytest.param("mlp_2_dual_triton", marks=pytest.mark.long)])
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
