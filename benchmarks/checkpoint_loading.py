"""What does loading a checkpoint take? `python -m benchmarks.checkpoint_loading OUTPUT`.

Random weights of the 1b size are written to OUTPUT in the published layout: once as one file, and once as three shards
with their index, each with a config.json. Each is loaded in a process of its own. Their files were just written, so the
disk is not part of the time. Do both decode the tokens of the model that was written, and how much does the memory of
the host grow, against the bytes of the checkpoint?
"""

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.load_once import Loaded, Order, tokens_of
from benchmarks.runs import ROOT, last_line
from ttt_mlflow.models.ttt.initialization import initialize
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.published_config import FIXED, SIZES
from ttt_mlflow.models.ttt.sizes import config_of

SHARDS = 3
VOCABULARY = 32_000  # of the published models
SCALE = 4.0  # of the layers' outputs, so that greedy tokens vary


def random_model(order: Order, **sizes: int) -> TTTModel:
    """The model of ``order`` with random weights, whose greedy tokens vary. sizes: where they are not the standard."""
    net, request = INNER_NETS[order.inner_net], order.request
    config = replace(config_of(order.model_name, net.layer_type), **sizes)  # type: ignore[arg-type]
    model = TTTModel(config, net, request.dtype, request.device)
    initialize(model, 0)
    with torch.no_grad():
        for layer in model.layers:
            layer.seq_modeling_block.o_proj.weight.mul_(SCALE)
            layer.mlp.down_proj.weight.mul_(SCALE)
    model.weights_changed()
    return model.eval()


def write(model: TTTModel, folder: Path) -> tuple[Path, Path]:
    """Write ``model`` as one file and in shards. Returns the two folders."""
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in model.named_parameters()}
    whole, sharded = folder / "whole", folder / "sharded"
    for one in (whole, sharded):
        one.mkdir(parents=True)
        (one / "config.json").write_text(json.dumps(_published_config(model), indent=1))
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    _write_shards(weights, sharded)
    return whole, sharded


def _write_shards(weights: Mapping[str, Tensor], folder: Path) -> None:
    names = list(weights)
    places: dict[str, str] = {}  # weight -> file
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        begin, end = (bound * len(names) // SHARDS for bound in (shard, shard + 1))
        part = {name: weights[name] for name in names[begin:end]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(weight.nbytes for weight in weights.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _published_config(model: TTTModel) -> dict[str, object]:
    """The configuration as the class of the published model writes it."""
    config = model.config
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    layer = {"ttt_layer_type": config.layer_type, "ttt_base_lr": config.inner_layer.base_lr}
    return {"architectures": ["TTTForCausalLM"], "model_type": "ttt", **FIXED, **sizes, **layer}


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("output", type=Path, help="folder for the checkpoints; it must not exist, and is removed")
    parser.add_argument("--model-name", default="ttt-1b", help="default: ttt-1b")
    parser.add_argument("--inner-net", default="mlp_1_dual_triton" if on_gpu else "mlp_1_dual", help="TTT inner net")
    parser.add_argument("--dtype", default="float16" if on_gpu else "float32", help="of the checkpoint and the model")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help=f"tokens (default: {VOCABULARY:,})")
    asked = parser.parse_args()
    device = "cuda" if on_gpu else "cpu"
    asked.output.mkdir(parents=True)
    print(f"$ python -m benchmarks.checkpoint_loading {shlex.join(sys.argv[1:])}")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}, {_device()}")
    print(f"python {platform.python_version()}, torch {torch.__version__}")
    try:
        order = Order("", asked.model_name, asked.inner_net, asked.dtype, device)
        model = random_model(order, vocab_size=asked.vocabulary)
        parameters, expected = model.parameter_count(), tokens_of(model).tolist()
        began = time.perf_counter()
        whole, sharded = write(model, asked.output)
        print(
            f"{asked.model_name} {asked.inner_net} {asked.dtype}, {parameters:,} parameters, vocabulary "
            f"{asked.vocabulary:,}; written twice in {time.perf_counter() - began:.1f} s"
        )
        del model
        if on_gpu:
            torch.cuda.empty_cache()
        for label, folder in (("one file", whole), (f"{SHARDS} shards", sharded)):
            one = replace(order, checkpoint=str(folder))
            loaded = Loaded(**json.loads(last_line("benchmarks.load_once", json.dumps(asdict(one)))))
            print(_text(label, bytes_of(folder), loaded, expected), flush=True)
    finally:
        shutil.rmtree(asked.output)


def _text(label: str, size: int, loaded: Loaded, expected: list[list[int]]) -> str:
    same = "the tokens of the model that was written" if loaded.tokens == expected else "OTHER TOKENS"
    return (
        f"  {label:<9} {size / 1e9:6.3f} GB   loaded in {loaded.seconds:5.2f} s   host memory "
        f"+{loaded.host_bytes / 1e9:.3f} GB, {loaded.host_bytes / size:.2f} of the checkpoint   {same}"
    )


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
