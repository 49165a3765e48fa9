"""Decoding on a GPU: every way to run the step gives the same tokens, and they are those of the equations."""

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import relative_error
from tests.models.generation import generate
from tests.models.ttt.cases import (
    assert_same_state,
    decode,
    leave_initial_values,
    make_model,
    make_tokens,
    published_logits,
)
from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.mamba import model as mamba
from ttt_mlflow.models.ttt.config import VOCAB_SIZE
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS
from ttt_mlflow.models.ttt.model import TTTModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda", 0)
BATCH, PROMPTLEN, GENLEN = 16, 5, 64  # four ends of a mini-batch
TRITON_NETS = [name for name, net in INNER_NETS.items() if net.triton]


def varied_model(inner_net: str, dtype: torch.dtype) -> TTTModel:
    """The 1b widths with 4 layers; the layers' outputs weigh enough for greedy tokens to vary."""
    model = leave_initial_values(make_model(inner_net, "ttt-profile", dtype, str(DEVICE)), scale=1.0)
    for layer in model.layers:
        layer.seq_modeling_block.o_proj.weight.mul_(4)
        layer.mlp.down_proj.weight.mul_(4)
    return model


def assert_same_tokens(tokens: Tensor, expected: Tensor) -> None:
    """Equal at every position; otherwise says how many are and where the first other one is."""
    same = tokens == expected
    first = int((~same).any(0).int().argmax())
    assert same.all(), f"{100 * float(same.float().mean()):.1f} % are the same, position {first} is the first other one"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inner_net", list(INNER_NETS))
def test_eager_compiled_and_graph_give_the_same_tokens(inner_net: str, dtype: torch.dtype) -> None:
    model = varied_model(inner_net, dtype)
    prompt = make_tokens(BATCH, PROMPTLEN, VOCAB_SIZE).to(DEVICE)
    decoder = ModelDecoder(model, BATCH, DEVICE)
    eager = generate(decoder, prompt, GENLEN)
    assert all(sequence.unique().numel() > GENLEN // 2 for sequence in eager), "tokens that hardly vary say nothing"
    assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.capture()
    assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.close()

    decoder = ModelDecoder(model, BATCH, DEVICE)
    decoder.compile()
    decoder.warm_up()
    with torch.compiler.set_stance("fail_on_recompile"):  # the warm-up compiles what every position needs
        assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
        decoder.capture()
        assert_same_tokens(generate(decoder, prompt, GENLEN), eager)
    decoder.close()


def test_a_capture_that_fails_costs_the_process_nothing() -> None:
    class Counts:
        def __init__(self, reads_back: bool) -> None:
            self.reads_back = reads_back

        def new_state(self, batch: int) -> Tensor:
            return torch.zeros(batch, 8, device=DEVICE)

        def reset_state(self, state: Tensor) -> None:
            state.zero_()

        def step(self, tokens: Tensor, state: Tensor) -> Tensor:
            if self.reads_back:  # waits for the device, which a capture forbids
                state.sum().item()
            return state.add_(1)

    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="captur"):
        ModelDecoder(Counts(reads_back=True), BATCH, DEVICE).capture()
    assert torch.cuda.current_stream() == stream
    torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    held = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held - (1 << 30), "the allocator takes itself to be capturing"
    decoder = ModelDecoder(Counts(reads_back=False), BATCH, DEVICE)
    decoder.capture()
    decoder.step()
    decoder.step()
    assert decoder.state.unique().tolist() == [2]


def test_a_graph_outlives_another_one() -> None:
    """What a destroyed graph gives back must not be what a living one works in."""
    model = varied_model("mlp_1_dual_triton", torch.float16)
    prompt = make_tokens(BATCH, PROMPTLEN, VOCAB_SIZE).to(DEVICE)
    living, destroyed = (ModelDecoder(model, BATCH, DEVICE) for _ in range(2))
    expected = generate(living, prompt, GENLEN)
    for decoder in (living, destroyed):
        decoder.capture()
    destroyed.close()
    torch.cuda.empty_cache()
    poison = torch.full((1 << 28,), float("nan"), device=DEVICE)  # where memory was given back
    assert_same_tokens(generate(living, prompt, GENLEN), expected)
    assert poison.isnan().all(), "the graph wrote into memory that is not its own"


@pytest.mark.parametrize("inner_net", TRITON_NETS)
def test_a_graph_goes_on_from_any_prompt(inner_net: str) -> None:
    """One graph after prompts that end at different places of a mini-batch, whole mini-batches in the dual form."""
    model = varied_model(inner_net, torch.float16)
    eager, replayed = (ModelDecoder(model, BATCH, DEVICE) for _ in range(2))
    replayed.capture()
    for length in (1, 15, 16, 17, 40):
        prompt = make_tokens(BATCH, length, VOCAB_SIZE, seed=length).to(DEVICE)
        assert_same_tokens(generate(replayed, prompt, 20), generate(eager, prompt, 20))


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str
)
@pytest.mark.parametrize("inner_net", TRITON_NETS)
def test_triton_models_match_the_equations_in_float64(inner_net: str, dtype: torch.dtype, limit: float) -> None:
    model = leave_initial_values(make_model(inner_net, "ttt-tiny", dtype, str(DEVICE)))
    tokens = make_tokens(3, 40)
    expected, _ = published_logits(model, tokens)
    logits = decode(model, tokens.to(DEVICE), model.new_state(3)).cpu()
    assert relative_error(logits, expected) < limit


@pytest.mark.parametrize("length", [16, 31, 40])
@pytest.mark.parametrize("inner_net", TRITON_NETS)
def test_a_prompt_leads_to_the_same_state_in_either_form(inner_net: str, length: int) -> None:
    model = leave_initial_values(make_model(inner_net, "ttt-tiny", torch.float32, str(DEVICE)))
    tokens = make_tokens(3, length).to(DEVICE)
    at_once, one_by_one = model.new_state(3), model.new_state(3)
    assert relative_error(model.prefill(tokens, at_once), decode(model, tokens, one_by_one)[:, -1]) < 1e-4
    assert_same_state(at_once, one_by_one, 1e-4)


def test_a_seed_gives_the_same_weights() -> None:
    one, again, other = (make_model("mlp_1_dual_triton", device=str(DEVICE), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


@pytest.mark.skipif(mamba.missing() is not None, reason="needs mamba-ssm and causal-conv1d")
def test_mamba_gives_the_same_tokens_with_and_without_its_graph() -> None:
    model = mamba.build(ModelRequest("state-spaces/mamba-130m", None, torch.float16, DEVICE, 0, None))
    for name, weight in model.model.named_parameters():
        if name.endswith("out_proj.weight"):
            weight.mul_(8)  # for tokens that vary
    prompt = make_tokens(8, PROMPTLEN, VOCAB_SIZE).to(DEVICE)
    plain = model.decoder(8, PROMPTLEN + GENLEN, cuda_graph=False)
    expected = generate(plain, prompt, GENLEN)
    assert expected.unique().numel() > 8
    plain.close()
    replayed = model.decoder(8, PROMPTLEN + GENLEN, cuda_graph=True)
    for _ in range(2):  # the cache of the graph serves the second generation as well
        assert_same_tokens(generate(replayed, prompt, GENLEN), expected)
    replayed.close()
