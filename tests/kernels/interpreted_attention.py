"""The attention kernels in Triton's interpreter, on a CPU. Run by test_interpreter.py with TRITON_INTERPRET=1.

The interpreter multiplies the bits of bfloat16 as integers in tl.dot: bfloat16 only where no other token is there.
"""

from contextlib import nullcontext

import pytest
import torch

from tests.kernels.attention_cases import check_decode, check_rotation, make_case
from tests.kernels.step_cases import check_transformer_step, distance
from tests.models.generation import generate
from tests.models.transformer.cases import GQA, make_model, make_tokens, plain_logits
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.kernels.attention import decode
from ttt_mlflow.kernels.overlapped.tuning import Tiling, Tuning
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.transformer import attention, choice
from ttt_mlflow.models.transformer.attention import SPLIT_KV
from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.models.ttt.config import LAUNCHES, OVERLAPPED
from ttt_mlflow.workload import Workload

CPU = torch.device("cpu")
HEADS = [(2, 2), (6, 2)]  # of a group of three, one row is padded
BLOCK = 16


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The interpreter cuts bfloat16 off where a GPU rounds: of one in seven inputs this is more than the tolerance."""
    torch.manual_seed(0)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("position", [0, 1, BLOCK, 3 * BLOCK, 3 * BLOCK + 1, 63])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_decode_matches_float64(heads, kv_heads, position, splits):
    """Empty, at the ends of a block and of a part, and in the last position of the cache."""
    case = make_case(torch.float16, 2, heads, kv_heads, 16, 64, position)
    check_decode(case, heads, splits=splits, block=BLOCK)


@pytest.mark.parametrize(("dtype", "position"), [(torch.float32, 37), (torch.bfloat16, 0)], ids=str)
def test_other_dtypes(dtype, position):
    check_decode(make_case(dtype, 1, 4, 1, 32, 40, position), 4, splits=2, block=BLOCK)


def test_a_position_beyond_the_cache_writes_nothing():
    case = make_case(torch.float16, 1, 2, 2, 16, 32, 32)
    k, v = case[4].clone(), case[5].clone()
    case[1].fill_(35)  # the position
    decode.decode_attention(*case, 2, splits=2, block=BLOCK)
    assert torch.equal(case[4], k)
    assert torch.equal(case[5], v)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("tokens", "position"), [(1, 0), (1, 31), (19, 3)])
def test_rotation_matches_its_twin(tokens, position, dtype):
    check_rotation(make_case(dtype, 2, 6, 3, 16, 32, position), tokens, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": lambda k: k[..., :8].contiguous()}, "k has head dimension 8, a power of two"),
        ({"v": lambda v: v[:, :, :9]}, "v has shape"),
        ({"k": lambda k: k.transpose(1, 2).contiguous().transpose(1, 2)}, "k has strides"),
        ({"position": lambda position: position.long()}, "position is int64"),
        ({"cos": lambda cos: cos[:5]}, "cos has shape"),
        ({"qkv": lambda qkv: qkv[:, 1:]}, "qkv has shape"),
        ({"k": lambda k: k.double()}, "k is float64"),
    ],
)
def test_what_a_kernel_would_read_incorrectly_is_refused(change, said):
    names = ("qkv", "position", "cos", "sin", "k", "v")
    case = zip(names, make_case(torch.float16, 2, 2, 2, 16, 32, 3), strict=True)
    qkv, position, cos, sin, k, v = (change.get(name, torch.Tensor.detach)(tensor) for name, tensor in case)
    with pytest.raises(ValueError, match=said):
        decode.decode_attention(qkv, position, cos, sin, k, v, 2)


def test_the_model_decodes_with_the_kernels():
    model, prompt = make_model(GQA, attn_impl=SPLIT_KV), make_tokens(2, 3)
    decoder = ModelDecoder(model, 2, CPU, 8)
    tokens = generate(decoder, prompt, 5)
    fed = torch.cat((prompt, tokens[:, :-1]), 1)
    assert torch.equal(plain_logits(model, fed)[:, 2:].argmax(-1), tokens)


THIRDS = Tiling(columns=256, span=256)


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        (1, {"heads": 4, "kv_heads": 2, "splits": 2, "position": 15}),
        (3, {"position": 0}),
        pytest.param(9, {"heads": 6, "kv_heads": 2, "layers": 1, "position": 17}, marks=pytest.mark.long),
        # rows in three parts
        pytest.param(2, {"intermediate": 520, "tuning": Tuning(down=THIRDS), "position": 3}, marks=pytest.mark.long),
        pytest.param(1, {"heads": 2, "dim": 128, "splits": 3, "vocab": 70, "position": 16}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_a_whole_step(batch, shape):
    """From an empty cache, and across the end of a block."""
    check_transformer_step(batch, tokens=3, **shape)


TINY = TransformerConfig(64, 96, 2, 4, 2, vocab_size=101)


@pytest.mark.parametrize(
    "attn_impl", [SPLIT_KV, *(pytest.param(name, marks=pytest.mark.long) for name in ("efficient", "math"))]
)
def test_a_model_decodes_either_way(attn_impl, monkeypatch):
    """With its own weights, cache, attention and arg-max: the functions of a layer, and the step as a whole."""
    monkeypatch.setattr(attention, "using", lambda name: nullcontext())  # efficient is for a GPU
    model, tokens = make_model(TINY, torch.float16, attn_impl=SPLIT_KV, scale=3.0), make_tokens(2, 5, 101)
    model.choice.step = attn_impl
    logits = {}
    for path in (LAUNCHES, OVERLAPPED):
        model.use(path)
        state = model.new_cache(2, 9)
        assert (state.whole_step is not None) == (path == OVERLAPPED)
        model.prefill(tokens[:, :3], state)
        logits[path] = torch.cat([model.step(token, state) for token in tokens[:, 3:].unbind(1)])  # with gaps
        assert state.position.tolist() == [5]
    assert distance(logits[OVERLAPPED], logits[LAUNCHES]) < 3e-3
    fed = tokens[:, 4].clone()
    state.position.sub_(1)
    model.greedy_step(fed, state)
    assert fed.tolist() == logits[OVERLAPPED][2:].argmax(-1).tolist()
    assert state.position.tolist() == [5]


@pytest.mark.long
def test_tokens_are_those_of_the_functions_of_a_layer():
    model, prompt, found = make_model(TINY, torch.float16, attn_impl=SPLIT_KV), make_tokens(2, 1, 101), []
    for path in (LAUNCHES, OVERLAPPED, OVERLAPPED):
        model.use(path)
        found.append(generate(ModelDecoder(model, 2, CPU, 12), prompt, 10))
    assert found[0].unique().numel() > 10, "tokens that hardly vary say nothing"
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])


def test_the_choice_takes_the_fastest_launch(monkeypatch):
    """With a clock that knows the launches; the attentions that a CPU does not have are left out."""
    workload = Workload("decode", 2, 3, 4)
    model = make_model(GQA, torch.float16, attn_impl=SPLIT_KV, workload=workload)
    called, launches = [], []
    kernel = model.functions.cache.decode_attention

    def noted(*tensors, **launch):
        launches.append(launch)
        return kernel(*tensors, **launch)

    def eager_ms(call, device):
        called.append(call())
        return 1.0

    def graph_ms(bench, one):
        kept = bench.state.layers[0]
        one(bench.qkv, bench.state.position, bench.state.cos, bench.state.sin, kept.k, kept.v)
        return 1.0 + abs(launches[-1]["splits"] - 4) + (launches[-1]["warps"] != 8)

    monkeypatch.setattr(model.functions.cache, "decode_attention", noted)
    monkeypatch.setattr(choice._Bench, "_graph_ms", graph_ms)
    monkeypatch.setattr(choice, "_eager_ms", eager_ms)
    monkeypatch.setattr(choice, "multiprocessors_of", lambda device: 4)
    state = model.new_cache(2, 600)
    choice.choose(model, state, workload)
    assert model.choice.prompt == "flash"
    assert model.attn_impl == "flash+split_kv_triton"
    assert len(called) == 1, "cuDNN and the memory-efficient attention do not run on a CPU"
    assert model.choice.launch == {"splits": 4, "block": 128, "warps": 8, "stages": 3, "early": True, "ahead": 0}
    assert int(state.position) == 0


def test_an_attention_that_was_asked_for_and_does_not_run(monkeypatch):
    workload = Workload("decode", 2, 3, 4)
    model = make_model(GQA, workload=workload)
    model.asked = choice.attention.Asked("cudnn", None)
    with pytest.raises(RunFailed, match=r"attn_impl=cudnn: the attention of a prompt does not run here \(cudnn: "):
        choice.choose(model, model.new_cache(2, 40), workload)
