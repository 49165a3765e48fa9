"""Decode runs of made figures over context lengths: a model whose steps cost the same, and two whose cache grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.report import h200
from ttt_mlflow.config import RunConfig
from ttt_mlflow.record.run_row import RunRow
from ttt_mlflow.record.sweep_file import SweepCell, SweepFile

TTT, MHA, GQA = "ttt-1b", "ttt-760m", "ttt-350m"  # the last two stand for models with a cache
PROMPTS = (1, 1984, 8128, 32704)
GENLEN = 129  # half of what follows is 64, so that the contexts are these and 65:
CONTEXTS = (65, 2048, 8192, 32768)
# step in ms and peak in GB, by model, at batch 16
STEPS = {
    TTT: ((1.60, 3.1), (1.60, 3.1), (1.61, 3.2), (1.60, 3.4)),
    MHA: ((1.44, 3.0), (2.83, 9.3), (7.09, 29.0), (24.1, 106.0)),
    GQA: ((1.42, 3.0), (1.81, 4.5), (2.90, 9.5), (7.15, 28.0)),
}


def rows(root: Path) -> list[RunRow]:
    found = []
    for model, values in STEPS.items():
        for prompt, (step, peak) in zip(PROMPTS, values, strict=True):
            found.append(run(root, model, prompt, step, peak))
    return found


def run(
    root: Path, model: str, prompt: int, step: float, peak: float, batch: int = 16, verdict: str = "valid"
) -> RunRow:
    rate = 1e3 * batch / step
    values = {"decode_tokens_per_s": rate, "decode_step_ms_p50": step, "peak_memory_allocated_gb": peak}
    told = {"ttt.verdict": verdict, "ttt.cost_grows": str(model != TTT).lower()}
    net = h200.LINEAR if model == TTT else "mlp_1_dual"
    asked: dict[str, Any] = {
        "batch": batch,
        "promptlen": prompt,
        "genlen": GENLEN,
        "model_name": model,
        "inner_net": net,
    }
    return h200.row(root, values, told=told, **asked)


def oom(root: Path, model: str, prompt: int, batch: int) -> RunRow:
    net = h200.LINEAR if model == TTT else "mlp_1_dual"
    asked: dict[str, Any] = {
        "batch": batch,
        "promptlen": prompt,
        "genlen": GENLEN,
        "model_name": model,
        "inner_net": net,
    }
    return h200.row(root, {}, "oom", {"ttt.message": "out of memory", "ttt.cost_grows": "true"}, **asked)


def predicted(model: str, prompts: Sequence[int], batch: int) -> SweepFile:
    """A sweep's cells that were not tried because they are predicted not to fit."""
    cells = []
    for prompt in prompts:
        chosen = {"inner_net": "mlp_1_dual", "dtype": "float16", "use_compile": True, "cuda_graph": True}
        config = RunConfig.parse({**chosen, "model_name": model, "promptlen": prompt, "genlen": GENLEN, "batch": batch})
        cells.append(
            SweepCell(
                key=f"{model}{prompt}{batch}",
                config=config.model_dump(mode="json"),
                state="predicted_oom",
                gpu=h200.GPU,
            )
        )
    return SweepFile(sweep_id="made", cells=tuple(cells))
