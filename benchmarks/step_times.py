"""How long is a decode step at each batch? For two versions in turns: `python -m benchmarks.step_times [BATCH ...]`

It prints the median step of ttt-1b in a CUDA graph, fp16, for each inner net and batch, and can run in the folder of an
older version too (`cd OLDER && python NEWER/benchmarks/step_times.py`), which makes a table of both.
"""

import statistics
import sys
import time

import torch

from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.sizes import build

BATCHES = {"mlp_1_dual_triton": (128, 512, 1024, 2048, 4096), "mlp_2_dual_triton": (128, 512, 1024)}
STEPS, PASSES, WARM_UP_S = 64, 7, 1.5


def step_ms(model: object, batch: int, device: torch.device) -> float:
    decoder = ModelDecoder(model, batch, device)
    decoder.warm_up()
    decoder.capture()
    decoder.prefill(torch.zeros(batch, 1, dtype=torch.int64, device=device))
    began = time.monotonic()
    while time.monotonic() - began < WARM_UP_S:
        for _ in range(STEPS):
            decoder.step()
        torch.cuda.synchronize()
    times = []
    for _ in range(PASSES):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(STEPS):
            decoder.step()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last) / STEPS)
    decoder.close()
    return statistics.median(times)


def main() -> int:
    device = torch.device("cuda")
    for inner_net, batches in BATCHES.items():
        model = build(ModelRequest("ttt-1b", inner_net, torch.float16, device, 0, None))
        for batch in [int(text) for text in sys.argv[1:]] or batches:
            print(f"{inner_net} batch {batch}: {step_ms(model, batch, device):.4f} ms a step", flush=True)
            torch.cuda.empty_cache()
        del model
    return 0


if __name__ == "__main__":
    sys.exit(main())
