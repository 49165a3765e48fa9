"""The order in which `doctor --neighbors` measures: what drifts falls on both sides alike."""

from ttt_mlflow.app.neighbors.cases import cases
from ttt_mlflow.app.neighbors.turns import ALONE, TOGETHER, Turns

PLACES = ["0 (NVIDIA H200)", "1 (NVIDIA H200)"]


def test_each_case_alone_on_each_gpu_and_together_and_then_backwards() -> None:
    turns = Turns(cases(), PLACES).all()
    first, second = turns[:9], turns[9:]
    assert [(turn.case.name, turn.side, turn.places) for turn in first[:3]] == [
        ("launch-bound", ALONE, ("0 (NVIDIA H200)",)),
        ("launch-bound", ALONE, ("1 (NVIDIA H200)",)),
        ("launch-bound", TOGETHER, tuple(PLACES)),
    ]
    assert [(turn.case, turn.side, turn.places) for turn in second] == [
        (turn.case, turn.side, turn.places) for turn in reversed(first)
    ]
    assert {turn.round_number for turn in first} == {1}
    assert first[0].text.startswith("launch-bound, round 1 of 2: ttt-1b mlp_1_dual_triton b1 ")
    assert first[0].text.endswith("alone on GPU 0 (NVIDIA H200)")
    assert second[0].text.endswith("on all 2 GPUs at once")
