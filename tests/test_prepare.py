"""The prompt is the same in every process; a decoder that is ready starts at the prompt."""

import torch

from ttt_mlflow.config import RunConfig
from ttt_mlflow.prepare import EXTRA_STEPS, PROFILED_STEPS, make_prompt, make_ready
from ttt_mlflow.resolve import resolve

CPU = torch.device("cpu")


def test_the_prompt_is_that_of_the_seed() -> None:
    used = RunConfig.parse({"batch": 3, "promptlen": 5})
    prompt = make_prompt(used, 1000, CPU)
    assert prompt.shape == (3, 5)
    assert torch.equal(make_prompt(used, 1000, CPU), prompt)
    assert not torch.equal(make_prompt(used.model_copy(update={"seed": 1}), 1000, CPU), prompt)


def test_a_ready_decoder_has_room_for_a_profiling_pass() -> None:
    resolved = resolve(RunConfig.parse({"model_name": "ttt-tiny", "device": "cpu", "batch": 2, "genlen": 1}))
    lengths = []

    class Own:
        vocab_size = 10

        def decoder(self, batch: int, max_length: int, cuda_graph: bool) -> "Own":
            lengths.append(max_length)
            return self

        def prefill(self, prompt: torch.Tensor) -> torch.Tensor:
            return prompt[:, 0]

    make_ready(resolved.used, Own(), make_prompt(resolved.used, 10, CPU))
    # the prompt, a step to set the profiler up, those that are profiled, and the eager ones beside them
    assert lengths == [1 + 1 + EXTRA_STEPS]
    assert EXTRA_STEPS >= PROFILED_STEPS + 1 + 2
