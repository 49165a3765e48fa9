"""Is a peer as fast here as in its own package? `python -m benchmarks.peer_loops OUTPUT --model-name NAME [...]`.

For each batch, this project's decoder and the package's own fastest loop generate the same number of tokens from the
same prompt, with the same weights, in alternation: ours, theirs, theirs, ours. The time is wall time around prompt and
decode, on both sides, as for `generation_tokens_per_s`; the prompt is counted alike. One untimed generation of each
comes first. Sides that do not fit into the memory together are timed one after the other. Mamba and Mamba-2:
mamba-ssm's `generate(cg=True)`. Gated delta networks and RWKV-7: flash-linear-attention has no loop with a graph; its
model, called token by token with its cache, is the faster of its loops.
"""

import argparse
import gc
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.runs import ROOT
from ttt_mlflow.errors import BadInput, one_line
from ttt_mlflow.models.decoder import ModelDecoder, make_decoder
from ttt_mlflow.models.entry import Decoder, ModelRequest
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7
from ttt_mlflow.models.mamba.model import MambaModel
from ttt_mlflow.models.registry import find_model

PACKAGES = ("torch", "triton", "mamba-ssm", "causal-conv1d", "flash-linear-attention", "transformers")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDS = 3
Generate = Callable[[Tensor], Tensor]  # prompt [B, P] -> the tokens [B, G] that follow


@dataclass(frozen=True)
class Side:
    """One of the two loops, and what ends it."""

    generate: Generate
    close: Callable[[], None] = lambda: None


Make = Callable[[], Side]


def own_loop(decoder: Decoder, tokens: int) -> Generate:
    def generate(prompt: Tensor) -> Tensor:
        made = [decoder.prefill(prompt).clone()]
        made += [decoder.step().clone() for _ in range(tokens - 1)]
        return torch.stack(made, 1)

    return generate


def mamba_loop(model: Any, tokens: int) -> Generate:
    """mamba-ssm's ``generate``. It shares the graph and its state with our decoder."""

    def generate(prompt: Tensor) -> Tensor:
        length = prompt.shape[1] + tokens
        found = model.model.generate(input_ids=prompt, max_length=length, cg=True, top_k=1, vocab_size=model.vocab_size)
        return found[:, prompt.shape[1] :]

    return generate


def package_model(model: Any, name: str) -> Any:
    """fla's own model, with the weights of ours."""
    from ttt_mlflow.models.fla import gated_delta, rwkv7
    from ttt_mlflow.models.fla.package import block_classes, empty_layers

    settings: dict[str, Any]
    if name in GATED_DELTA:
        kind, settings = "gated_deltanet", gated_delta.package_settings(GATED_DELTA[name])
    else:
        kind, settings = "rwkv7", rwkv7.package_settings(RWKV7[name])
    config, block = block_classes(kind)
    classes = vars(sys.modules[block.__module__])
    whole = classes["GatedDeltaNetForCausalLM" if kind == "gated_deltanet" else "RWKV7ForCausalLM"]
    with empty_layers():
        made = whole(config(**settings))
    made.load_state_dict(model.package_weights(), strict=True, assign=True)
    return made.eval().requires_grad_(False)


def fla_loop(package: Any, vocab: int, tokens: int) -> Generate:
    """fla's model, token by token: what its ``generate`` does, without what that adds to a step."""

    @torch.no_grad()
    def generate(prompt: Tensor) -> Tensor:
        cache, given, made = None, prompt, []
        for _ in range(tokens):
            found = package(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = found.past_key_values
            made.append(found.logits[:, -1, :vocab].argmax(-1))
            given = made[-1].unsqueeze(1)
        return torch.stack(made, 1)

    return generate


def our_side(model: Any, batch: int, length: int, tokens: int, device: torch.device) -> Side:
    if isinstance(model, MambaModel):
        model.steps_one_token = False  # theirs is a prompt of mamba-ssm's, and the prompt is counted alike
    decoder = make_decoder(model, batch, length, device, cuda_graph=True)
    if isinstance(decoder, ModelDecoder):
        decoder.compile()
        decoder.warm_up()
        decoder.capture()
    return Side(own_loop(decoder, tokens), decoder.close)


def their_side(name: str, model: Any, tokens: int) -> Side:
    if isinstance(model, MambaModel):
        return Side(mamba_loop(model, tokens))
    return Side(fla_loop(package_model(model, name), model.vocab_size, tokens))


def seconds_of(generate: Generate, prompt: Tensor) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    generate(prompt)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(sides: Mapping[str, Make], prompt: Tensor, tokens: int, rounds: int) -> str:
    """One untimed generation of each, then ``rounds`` times ours, theirs, theirs, ours. Returns the result's lines."""
    with ExitStack() as opened:
        made = {name: _open(make, opened) for name, make in sides.items()}
        first_s, tokens_of = _first(made, prompt)
        times: dict[str, list[float]] = {name: [] for name in sides}
        for name in ("ours", "theirs", "theirs", "ours") * rounds:
            times[name].append(seconds_of(made[name], prompt))
    return _lines(prompt, tokens, first_s, times, tokens_of)


def compare_apart(sides: Mapping[str, Make], prompt: Tensor, tokens: int, rounds: int) -> str:
    """The same with one side after the other, as often each: the memory of the first is released before the second."""
    first_s = 0.0
    tokens_of: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {}
    for name, make in sides.items():
        with ExitStack() as opened:
            made = {name: _open(make, opened)}
            seconds, found = _first(made, prompt)
            first_s, tokens_of = first_s + seconds, tokens_of | found
            times[name] = [seconds_of(made[name], prompt) for _ in range(2 * rounds)]
        del made
        _release()
    return _lines(prompt, tokens, first_s, times, tokens_of)


def _open(make: Make, opened: ExitStack) -> Generate:
    side = make()
    opened.callback(side.close)
    return side.generate


def _first(made: Mapping[str, Generate], prompt: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Seconds and tokens of one generation of each."""
    began = time.perf_counter()
    found = {name: generate(prompt) for name, generate in made.items()}
    torch.cuda.synchronize()
    return time.perf_counter() - began, found


def _release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _lines(
    prompt: Tensor, tokens: int, first_s: float, times: Mapping[str, list[float]], tokens_of: Mapping[str, Tensor]
) -> str:
    made = len(prompt) * tokens
    lines = [f"batch {len(prompt)}, prompt {prompt.shape[1]}, {tokens} tokens; first generations {first_s:.1f} s"]
    for side, taken in times.items():
        all_of_them = ", ".join(f"{made / one:,.1f}" for one in taken)
        lines.append(
            f"  {side:6}  {made / min(taken):>12,.1f} tokens/s at best, {made / statistics.median(taken):>12,.1f} in "
            f"the median, {1e3 * min(taken) / tokens:.4f} ms a token; all: {all_of_them}"
        )
    ratio = statistics.median(times["theirs"]) / statistics.median(times["ours"])
    same = float((tokens_of["ours"] == tokens_of["theirs"]).float().mean())
    lines.append(f"  ours / theirs {ratio:.4f}; {100 * same:.1f} % of the tokens are the same")
    return "\n".join(lines)


def compare_at(batch: int, name: str, model: Any, args: argparse.Namespace, device: torch.device) -> str:
    """The lines of one batch. Sides that do not fit together are timed one after the other.

    If not even one fits, the line says so, and it costs no other batch.
    """
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(model.vocab_size, (batch, args.promptlen), generator=generator).to(device)
    sides: dict[str, Make] = {
        "ours": partial(our_side, model, batch, args.promptlen + args.genlen, args.genlen, device),
        "theirs": partial(their_side, name, model, args.genlen),
    }
    with suppress(torch.OutOfMemoryError):
        return compare(sides, prompt, args.genlen, args.rounds)
    _release()  # the error, which is gone, had held what it met
    try:
        apart = compare_apart(sides, prompt, args.genlen, args.rounds)
    except torch.OutOfMemoryError as error:
        return f"batch {batch}: not compared, because one side alone does not fit into the memory: {one_line(error)}"
    return f"{apart}; one side after the other, because both do not fit into the memory at once"


def facts(program: str, arguments: list[str]) -> str:
    """The first lines of a result: command, commit, GPU, driver and versions."""

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.split()
    return "\n".join(
        [
            f"$ python -m benchmarks.{program} {shlex.join(arguments)}",
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit or 'unknown'}, {torch.cuda.get_device_name()}, "
            f"driver {driver[0] if driver else 'unknown'}, Python {platform.python_version()}",
            ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
        ]
    )


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="file for the results, which are also printed")
    parser.add_argument("--model-name", action="append", required=True, help="a peer; may be given several times")
    parser.add_argument("--batch", type=numbers, default=[1, 16, 128, 1024], help="comma-separated (1,16,128,1024)")
    parser.add_argument("--promptlen", type=int, default=1)
    parser.add_argument("--genlen", type=int, default=256)
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of four generations each")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.peer_loops needs a CUDA GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    with args.output.open("w") as file:

        def tell(text: str) -> None:
            print(text, flush=True)
            print(text, file=file, flush=True)

        tell(facts("peer_loops", sys.argv[1:]))
        for name in args.model_name:
            tell(f"\n{name}, {args.dtype}")
            model = _build(name, DTYPES[args.dtype], device)
            for batch in args.batch:
                tell(compare_at(batch, name, model, args, device))
                _release()
            del model


def _build(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        entry = find_model(name)
    except BadInput as error:
        raise SystemExit(str(error)) from None
    if missing := entry.missing():
        raise SystemExit(f"{name}: {missing}")
    if not (entry.own_generation or name in GATED_DELTA or name in RWKV7):
        raise SystemExit(f"{name} is no peer from another package")
    return entry.factory(ModelRequest(name, None, dtype, device, 0, None))


if __name__ == "__main__":
    main()
