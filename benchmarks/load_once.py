"""Loads a checkpoint in this process, and prints what it took: ``python -m benchmarks.load_once JSON``.

JSON has the fields of :class:`Order`; the last line of output has those of :class:`Loaded`.
"""

import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ttt_mlflow.models.decoder import ModelDecoder
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import build

BATCH, PROMPTLEN, GENLEN = 4, 17, 32


@dataclass(frozen=True)
class Order:
    """The model to build from ``checkpoint``. dtype: its name in torch."""

    checkpoint: str
    model_name: str
    inner_net: str
    dtype: str
    device: str

    @property
    def request(self) -> ModelRequest:
        dtype, device = getattr(torch, self.dtype), torch.device(self.device)
        return ModelRequest(self.model_name, self.inner_net, dtype, device, 0, self.checkpoint)


@dataclass(frozen=True)
class Loaded:
    """seconds: to build the model with its weights. host_bytes: by how much the host's memory grew at the peak."""

    seconds: float
    host_bytes: int
    tokens: list[list[int]]


def load(order: Order) -> Loaded:
    torch.zeros(1, device=order.device)  # the libraries of the GPU have their memory before
    with suppress(OSError):  # Linux resets the peak; without the right to it, the peak before stays in
        Path("/proc/self/clear_refs").write_text("5")
    before, began = _status("VmRSS"), time.perf_counter()
    model = build(order.request)
    if order.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return Loaded(seconds, _status("VmHWM") - before, tokens_of(model).tolist())


def tokens_of(model: TTTModel) -> Tensor:
    """What ``model`` decodes after a fixed prompt: [B, 1 + GENLEN]."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(model.vocab_size, (BATCH, PROMPTLEN), generator=generator).to(model.device)
    decoder = ModelDecoder(model, BATCH, model.device)
    tokens = [decoder.prefill(prompt).clone()]
    tokens += [decoder.step().clone() for _ in range(GENLEN)]
    return torch.stack(tokens, 1)


def _status(name: str) -> int:
    """Bytes from ``/proc/self/status``."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


if __name__ == "__main__":
    print(json.dumps(asdict(load(Order(**json.loads(sys.argv[1]))))))
