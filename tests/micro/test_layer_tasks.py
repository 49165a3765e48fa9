"""What the kernels of a layer outside its inner net are given: sizes, bytes, copies; and what the check sees."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tests.micro.layer_cases import layer_errors, sizes
from ttt_mlflow.kernels.block import reference
from ttt_mlflow.micro.check import TOLERANCE, worst
from ttt_mlflow.micro.entry import KernelEntry, Step
from ttt_mlflow.micro.layer_entries import LAYER
from ttt_mlflow.micro.layer_tasks import TASKS, LayerInputs
from ttt_mlflow.micro.layer_tasks import head as head_task
from ttt_mlflow.micro.operations import LAYER_TITLES
from ttt_mlflow.micro.task import LayerSizes, RandomSource, make_positions
from ttt_mlflow.micro.timing import L2_SIZES, copies_for, run_calls
from ttt_mlflow.models.ttt.sizes import config_of

CPU = torch.device("cpu")
TTT_1B = LayerSizes(32, 64, 5504, 50277, 1, torch.float16)
L2, FREE = 60_000_000, 140_000_000_000  # of an H200


def entry(operation: str, step: Step) -> KernelEntry:
    return KernelEntry("k", operation, "none", lambda: step, "")


def of(operation: str, batch: int = 2) -> LayerInputs:
    return TASKS[operation](sizes(), batch).inputs(RandomSource(0, CPU))


def test_the_sizes_are_those_of_ttt_1b() -> None:
    config = config_of("ttt-1b", "linear")
    assert (config.hidden_size, config.intermediate_size) == (TTT_1B.width, TTT_1B.intermediate)
    assert (config.num_heads, config.vocab_size) == (TTT_1B.heads, TTT_1B.vocab)


@pytest.mark.parametrize(
    ("operation", "rows", "columns", "returned"),
    [
        ("projection", 6208, 2048, 6208),
        ("o_proj", 2048, 2048, 2048),
        ("gate_up", 11008, 2048, 5504),
        ("down_proj", 2048, 5504, 2048),
        ("head", 50304, 2048, 50277 + 1),
    ],
)
@pytest.mark.parametrize("batch", [1, 16, 128])
def test_a_product_reads_its_weight_and_no_copy_finds_it_in_the_l2(
    operation: str, rows: int, columns: int, returned: int, batch: int
) -> None:
    task = TASKS[operation](TTT_1B, batch)
    assert task.floor_bytes == 2 * (rows * columns + batch * (columns + returned))
    assert task.flops == 2 * batch * rows * columns
    assert task.copy_bytes == 2 * (rows * columns + batch * columns)
    copies = copies_for(task, L2, FREE)
    others = (copies - 1) * rows * columns * 2
    assert others > 2 * L2, "the weights that are read between two launches with the same one"


@pytest.mark.parametrize("operation", list(LAYER_TITLES))
@pytest.mark.parametrize("batch", [1, 16, 128])
def test_the_copies_of_small_kernels_go_beyond_the_l2_too(operation: str, batch: int) -> None:
    task = TASKS[operation](TTT_1B, batch)
    assert copies_for(task, L2, FREE) * task.floor_bytes >= L2_SIZES * L2


def test_bytes_of_the_small_kernels() -> None:
    """In rows of the layer's width, each of 4,096 bytes: per sequence, and of the weights."""
    expected = {
        "conv_rms_norm": (2 + 4 + 2, 7),  # hidden and delta, the ring, two results; two norms, taps, bias
        "gated_layer_norm": (3, 2),
        "add_rms_norm": (4, 1),
        "swiglu": (3 * 5504 / 2048, 0),
        "qk_conv_rotary": (1 + 4 + 2 + 32 * (2 + 4) / 4096, 10 + (32 * 2 + 2 * 32 * 4) / 4096),
    }
    for operation, (of_a_sequence, weights) in expected.items():
        for batch in (1, 128):
            task = TASKS[operation](TTT_1B, batch)
            assert task.floor_bytes == pytest.approx(4096 * (batch * of_a_sequence + weights)), operation
            assert task.flops == 0


@pytest.mark.parametrize("operation", list(LAYER_TITLES))
def test_a_copy_takes_the_memory_that_is_reckoned_with(operation: str) -> None:
    task, inputs = TASKS[operation](sizes(), 3), of(operation, 3)
    (given,) = inputs.given
    tensors = [value for value in given.values() if isinstance(value, Tensor)]
    assert task.copy_bytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_every_copy_has_weights_of_its_own_and_each_is_launched_once() -> None:
    task, source = TASKS["o_proj"](sizes(), 2), RandomSource(0, CPU)
    copies = [task.inputs(source) for _ in range(3)]
    seen: list[int] = []

    def step(x: Tensor, weight: Tensor) -> Tensor:
        seen.append(weight.data_ptr())
        return linear(x, weight)

    run_calls(step, copies, make_positions(CPU))
    assert len(set(seen)) == len(seen) == 3


def test_what_the_projection_makes_has_the_strides_that_a_model_has() -> None:
    (given,) = of("qk_conv_rotary").given
    assert (given["x"].stride(0), given["lr_logits"].stride(0)) == (256, 256), "3 x 64 + 2, padded"
    assert of("gated_layer_norm").given[0]["gate"].stride(0) == 256


def test_a_rings_calls_share_it_and_begin_before_a_mini_batch_ends() -> None:
    task = TASKS["conv_rms_norm"](sizes(), 2)
    inputs = task.inputs(RandomSource(0, CPU), task.checked_calls)
    assert inputs.starts == (14, 15, 0, 1, 2)
    assert len({call["ring"].data_ptr() for call in inputs.given}) == 1
    assert len({call["hidden"].data_ptr() for call in inputs.given}) == 5
    assert int(inputs.arguments(1, make_positions(CPU))[3]) == 15
    assert "ring" not in inputs.read_only(0, make_positions(CPU))
    exact = task.exact(inputs)
    assert exact.given[0]["ring"] is exact.given[4]["ring"]
    assert {value.dtype for value in exact.given[0].values() if value is not None} == {torch.float64}


# What is right passes, and what is wrong is seen


def chosen(returned: tuple[Tensor, Tensor], *_: object) -> tuple[Tensor, Tensor]:
    logits, token = returned
    return logits, logits.gather(1, token[:, None]).squeeze(1)


def head(x: Tensor, weight: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    logits = linear(x, weight)[:, :vocab]
    return logits, logits.argmax(1)


@pytest.mark.parametrize("operation", ["conv_rms_norm", "qk_conv_rotary", "gated_layer_norm", "add_rms_norm", "swiglu"])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_the_twin_in_another_dtype_passes(operation: str, dtype: torch.dtype) -> None:
    errors = layer_errors(entry(operation, getattr(reference, operation)), sizes(dtype))
    assert 0 < worst(errors) <= TOLERANCE[dtype]
    rings = sum(name.startswith("state 0 after ") for name in errors)
    assert rings == (5 if operation in ("conv_rms_norm", "qk_conv_rotary") else 0)


def test_a_product_of_a_wrong_column_is_seen() -> None:
    def without_the_last(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x[:, :-1], weight[:, :-1])

    assert worst(layer_errors(entry("o_proj", linear), sizes())) <= TOLERANCE[torch.float16]
    assert worst(layer_errors(entry("o_proj", without_the_last), sizes())) > 0.01


def test_a_word_that_is_not_the_largest_is_seen() -> None:
    def second(x: Tensor, weight: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
        logits, _ = head(x, weight, vocab)
        return logits, logits.topk(2).indices[:, 1]

    for step, least, most in ((head, 0.0, TOLERANCE[torch.float16]), (second, 0.01, inf)):
        one = KernelEntry("k", "head", "none", lambda step=step: step, "", finished=chosen)  # type: ignore[misc]
        errors = layer_errors(one, sizes())
        assert errors["logits"] <= TOLERANCE[torch.float16]
        assert least <= errors["largest"] <= most


def test_padding_of_the_embedding_is_no_word() -> None:
    """The largest logit is one of padding; the word is another."""
    task = head_task(sizes(vocab=100), 2)
    inputs = task.inputs(RandomSource(0, CPU))
    assert inputs.given[0]["weight"].shape == (128, 64)
    inputs.given[0]["weight"][100:] = 100 * inputs.given[0]["x"][0].sign()
    logits, largest = task.twin(*task.exact(inputs).arguments(0, make_positions(CPU)))
    assert logits.shape == (2, 100)
    assert float(largest[0]) < 10


def test_a_slot_that_is_not_written_is_seen() -> None:
    def forgets(x: Tensor, lr_logits: Tensor, ring: Tensor, *others: Any) -> object:
        return reference.qk_conv_rotary(x, lr_logits, ring.clone(), *others)

    errors = layer_errors(entry("qk_conv_rotary", forgets), sizes())
    assert errors["state 0 after 1 tokens"] > 0.1
    assert errors["q"] > 0.1
    assert errors["lr"] < TOLERANCE[torch.float16]


def test_a_result_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="it returns 1 results, not 2: hidden, normed"):
        layer_errors(entry("add_rms_norm", lambda hidden, delta, weight: hidden), sizes())


def test_every_operation_of_a_layer_has_a_task_and_a_kernel() -> None:
    assert list(TASKS) == list(LAYER_TITLES)
    assert {one.layer_type for one in LAYER} == set(TASKS)
