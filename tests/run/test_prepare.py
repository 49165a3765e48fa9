"""The prompt is the same in every process; a decoder that is ready starts at the prompt."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.run import prepare
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.prepare import clock_warmup_steps, make_prompt, make_ready, warm_clocks
from ttt_mlflow.workload import EAGER_STEPS, profiled_steps

CPU = torch.device("cpu")


def test_the_prompt_is_that_of_the_seed() -> None:
    used = RunConfig.parse({"batch": 3, "promptlen": 5})
    prompt = make_prompt(used, 1000, CPU)
    assert prompt.shape == (3, 5)
    assert torch.equal(make_prompt(used, 1000, CPU), prompt)
    assert not torch.equal(make_prompt(used.model_copy(update={"seed": 1}), 1000, CPU), prompt)


def test_a_ready_decoder_has_room_for_a_profiling_pass() -> None:
    plan = make_plan(RunConfig.parse({"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 1}))
    lengths = []

    class Own:
        vocab_size = 10

        def decoder(self, batch: int, max_length: int, cuda_graph: bool) -> "Own":
            lengths.append(max_length)
            return self

        def prefill(self, prompt: torch.Tensor) -> torch.Tensor:
            return prompt[:, 0]

    for period in (16, 24):
        entry = replace(plan.entry, period=period)
        make_ready(replace(plan, entry=entry), cast(Any, Own()), make_prompt(plan.used, 10, CPU))
    assert lengths == [1 + 1 + 16 + EAGER_STEPS, 1 + 1 + 24 + EAGER_STEPS]
    assert EAGER_STEPS >= 2, "the eager ones beside those that are profiled after a pass"


@pytest.mark.parametrize(("period", "steps"), [(1, 16), (5, 20), (16, 16), (24, 24), (100, 100)])
def test_whole_periods_are_profiled(period: int, steps: int) -> None:
    assert profiled_steps(period) == steps


def test_settling_takes_a_second_or_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    steps: list[float] = []

    def step() -> None:
        steps.append(now[0])
        now[0] += 0.3

    monkeypatch.setattr(prepare.time, "perf_counter", lambda: now[0])
    warm_clocks(step, 100, CPU)
    assert len(steps) == 4
    warm_clocks(step, 2, CPU)
    assert len(steps) == 6


def test_a_gpu_settles_and_a_cpu_is_set_up() -> None:
    used = RunConfig.parse({"genlen": 7})
    assert clock_warmup_steps(used, CPU) == 1
    assert clock_warmup_steps(used, torch.device("cuda", 0)) == 7
    prefill = RunConfig.parse({"genlen": 7, "mode": "prefill"})
    assert clock_warmup_steps(prefill, torch.device("cuda", 0)) > 7
