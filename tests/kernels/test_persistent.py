"""What a step as one kernel takes, and how it is divided. Its numbers: interpreted.py and tests/gpu."""

from dataclasses import replace

import pytest
import torch

from ttt_mlflow.kernels.persistent.launch import LARGEST_GROUP, StepShape, heads_together, unsupported

SHAPE = StepShape(2048, 5504, 64, 6208, 50304, is_mlp=False)
CPU = torch.device("cpu")


def reason(batch: int = 1, dtype: torch.dtype = torch.float16, **changed: object) -> str | None:
    return unsupported(replace(SHAPE, **changed), batch, dtype, CPU)  # type: ignore[arg-type]


def test_what_it_takes() -> None:
    assert [reason(batch) for batch in (1, 16)] == [None, None]
    assert reason(head_dim=128) is None
    assert reason(is_mlp=True) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": 17}, "batch=17: it takes 1 to 16 sequences"),
        ({"dtype": torch.float32}, "dtype=float32: it takes float16 and bfloat16"),
        ({"head_dim": 96}, "heads of 96: it takes powers of two from 16 on"),
        ({"head_dim": 128, "is_mlp": True}, "TTT-MLP with heads of 128: it takes up to 64"),
        ({"width": 2056}, "hidden size of 2056: it takes multiples of 16"),
        ({"intermediate": 5500}, "feed-forward of 5500: it takes multiples of 8"),
    ],
    ids=str,
)
def test_what_it_refuses(given: dict[str, object], said: str) -> None:
    assert reason(**given) == said  # type: ignore[arg-type]


@pytest.mark.parametrize("programs", [1, 108, 132, 148])
@pytest.mark.parametrize("heads", [1, 2, 3, 12, 16, 32])
@pytest.mark.parametrize("batch", [1, 7, 16])
def test_heads_that_a_program_has_at_once_are_of_one_sequence(batch: int, heads: int, programs: int) -> None:
    together = heads_together(batch * heads, heads, programs)
    assert heads % together == 0
    assert together in (1, 2, LARGEST_GROUP)
    # no more than are needed for all heads at once
    assert together == 1 or (together // 2) * programs < batch * heads
