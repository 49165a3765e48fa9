import time
from pathlib import Path

import pytest
import torch

from benchmarks.runs import record
from benchmarks.spin import SpinningModel, register_spinning, spin_on_host
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.registry import find_model

CPU = torch.device("cpu")
REQUEST = ModelRequest("ttt-tiny", "mlp_1_dual", torch.float32, CPU, 0, None)


def test_the_host_waits_as_long_as_it_is_told() -> None:
    ns, waited = torch.tensor([3_000_000]), torch.zeros(1, dtype=torch.int64)
    began = time.perf_counter_ns()
    spin_on_host(ns, waited)
    # no speed: a wait that ends early would be a slowdown that was not put in
    assert int(waited) >= 3_000_000
    assert time.perf_counter_ns() - began >= int(waited)


def test_each_pass_waits_as_its_schedule_says() -> None:
    model = SpinningModel(find_model("ttt-tiny").factory(REQUEST), CPU, lambda number: 10.0 * number)
    asked: list[int] = []
    model._spin = lambda ns, waited: asked.append(int(ns))
    state = model.new_state(1)
    tokens = torch.zeros(1, dtype=torch.int64)
    for _ in range(3):
        model.reset_state(state)
        model.step(tokens, state)
        model.step(tokens, state)
    assert asked == [0, 0, 10_000, 10_000, 20_000, 20_000]


def test_the_wait_changes_nothing_that_is_computed() -> None:
    plain = find_model("ttt-tiny").factory(REQUEST)
    spinning = SpinningModel(plain, CPU, lambda number: 1.0)
    tokens = torch.tensor([5, 7])
    states = plain.new_state(2), spinning.new_state(2)
    assert torch.equal(plain.step(tokens, states[0]), spinning.step(tokens, states[1]))
    assert spinning.parameter_count() == plain.parameter_count()  # type: ignore[attr-defined]


def test_a_run_of_a_spinning_model_is_slower_by_what_it_waits(tmp_path: Path) -> None:
    """No speed: the wait is the least that a step can take, whatever else the machine does."""
    name = register_spinning("ttt-tiny", "waiting", lambda number: 20_000.0)
    journal = record(
        tmp_path, {"model_name": name, "device": "cpu", "batch": 1, "genlen": 4, "warmup": 0, "repeats": 2}
    )
    assert journal.run_name == "ttt-tiny+waiting mlp_1 b1 g4 cpu"
    assert journal.metrics["decode_step_ms_mean"] >= 20
    assert journal.metrics["min_bytes_per_step"] > 0


def test_a_model_with_its_own_generation_is_refused() -> None:
    with pytest.raises(BadInput, match="its own generation code"):
        register_spinning("state-spaces/mamba-130m", "waiting", lambda number: 1.0)
