"""Launches every decode kernel for a whole mini-batch, including its fold, for sanitize.sh under compute-sanitizer.

Run from the repository's root with `python -m benchmarks.sanitize [TEXT ...]`: all kernels, or those whose line of
output contains one of the texts. It uses no torch.compile and no graph. Inputs are made on the CPU, so that hardly any
other kernel is checked too. With PYTORCH_NO_CUDA_MEMORY_CACHING=1, which sanitize.sh sets, every tensor is a separate
allocation, so reads and writes beyond a tensor are detected. What a kernel must not read (unused slots, and the sums of
a mini-batch that has not begun) is left uninitialized.
"""

import sys
from dataclasses import replace

import torch

from tests.kernels.decode_cases import KINDS, SIZE, Case, make_case, triton_step
from ttt_mlflow.kernels.launch import RESIDENT

HEADS = 8
# head dimension and dtype; 16-bit state with heads of 64 uses the tensor-core kernels in the rank-1 form
SHAPES = [(64, torch.float16), (64, torch.bfloat16), (64, torch.float32), (96, torch.float16), (40, torch.float16)]


def sequences() -> int:
    """More than two heads per multiprocessor, so that some persistent programs process three."""
    return 1 + 2 * torch.cuda.get_device_properties(0).multi_processor_count // HEADS


def on_gpu(case: Case) -> Case:
    moved = {name: getattr(case, name).cuda() for name in ("lr", "eta", "gamma", "beta")}
    return replace(
        case,
        q=case.q.cuda(),
        k=case.k.cuda(),
        v=case.v.cuda(),
        params=[p.cuda() for p in case.params],
        slots=[torch.empty(s.shape, dtype=s.dtype, device="cuda") for s in case.slots],
        **moved,
    )


def launch(kind: str, dim: int, dtype: torch.dtype) -> bool:
    """Launch for each token of a mini-batch. Returns whether all outputs and the folded state are finite."""
    case = on_gpu(make_case(kind, sequences(), HEADS, dim, dtype, tokens=SIZE, seed=0))
    position = torch.zeros(1, dtype=torch.int32, device="cuda")
    step = triton_step(kind)
    outputs = []
    for t in range(SIZE):
        position.fill_(t)
        token = (case.q[t], case.k[t], case.v[t], case.lr[t])
        outputs.append(step(*token, case.eta, position, case.gamma, case.beta, *case.params, *case.slots).cpu())
    return all(bool(x.isfinite().all()) for x in (*outputs, *(p.cpu() for p in case.params)))


def main(texts: list[str]) -> int:
    if not torch.cuda.is_available():
        print("benchmarks.sanitize needs a CUDA GPU, but torch finds none", file=sys.stderr)
        return 2
    failed = False
    RESIDENT.update({kernel: (1, shared_bytes) for kernel, (_, shared_bytes) in RESIDENT.items()})
    for kind in KINDS:
        for dim, dtype in SHAPES:
            name = f"{kind} F={dim} {dtype}"
            if texts and not any(text in name for text in texts):
                continue
            finite = launch(kind, dim, dtype)
            failed |= not finite
            print("OK" if finite else "NOT FINITE", name, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
