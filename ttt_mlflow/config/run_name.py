"""The names of runs. MLflow's table shows 30 characters, so what tells most runs apart comes first.

``values`` are the fields of a configuration by name, with Python types, and ``defaults`` those of an empty one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 30  # characters of a run's name in MLflow's table
FOR_THE_BATCH = 6  # of these: a space, b and four digits
MOST = 200  # characters; MLflow's store limits a name to 250
BATCHES_LISTED = 6

Values = Mapping[str, Any]


def model_run_name(values: Values, defaults: Values) -> str:
    """Model, inner net, batch, then what is not default: ``ttt-1b mlp_2_dual_triton b1024 g2048 bfloat16``.

    A default is what a run takes by itself on the same device. A model without inner nets may be one that cannot be
    compiled, so its name says that it is compiled, and not that it is not.
    """
    decode, on_gpu = values["mode"] == "decode", values["device"] != "cpu"
    parts = [_model_and_net(values["model_name"], values["inner_net"]), f"b{values['batch']}"]
    of_launches = values.get("decode_path") in (None, "launches")  # of others, some have nothing to compile
    if not of_launches:
        parts.append(values["decode_path"])
    if values.get("attn_impl"):  # records of before it have none
        parts.append(values["attn_impl"])
    if not decode:
        parts.append(values["mode"])
    if values["promptlen"] != defaults["promptlen"]:
        parts.append(f"p{values['promptlen']}")
    if decode and values["genlen"] != defaults["genlen"]:
        parts.append(f"g{values['genlen']}")
    if not on_gpu:
        parts.append("cpu")
    if values["dtype"] not in (None, "float16" if on_gpu else "float32"):
        parts.append(values["dtype"])
    if of_launches and values["use_compile"] not in (None, decode and on_gpu and values["inner_net"] is not None):
        parts.append("compile" if values["use_compile"] else "no compile")
    if values["cuda_graph"] not in (None, decode and on_gpu):
        parts.append("graph" if values["cuda_graph"] else "no graph")
    if values["checkpoint"]:
        parts.append(values["checkpoint"].rstrip("/").rpartition("/")[2])
    return _cut([*parts, *_seed(values, defaults)])


def micro_run_name(values: Values, defaults: Values) -> str:
    """Kernel, batches, then what is not default: ``mlp_1_dual_triton b128,512 bfloat16``.

    The batches of prompts are followed by the prompt's length: ``mlp_1_prefill_triton b16,64 p2048``.
    Several kernels are counted first, so that the batches come early, and named at the end.
    """
    kernels: Sequence[str] = values["kernels"] or ()
    several = ",".join(kernels) if len(kernels) > 1 else None
    parts = [f"{len(kernels)} kernels" if several else kernels[0] if kernels else "kernels"]
    parts += _batches(values["batches"])
    if prompt_batches := _batches(values["prompt_batches"]):
        parts += [*prompt_batches, f"p{values['promptlen']}"]
    if values["dtype"] != defaults["dtype"]:
        parts.append(values["dtype"])
    if any(values[name] != defaults[name] for name in ("heads", "head_dim")):
        parts.append(f"h{values['heads']}x{values['head_dim']}")
    for name, letter in (("intermediate", "i"), ("vocab", "v")):
        if values.get(name, defaults[name]) != defaults[name]:  # records of before have none
            parts.append(f"{letter}{values[name]}")
    if values["device"] == "cpu":
        parts.append("cpu")
    return _cut([*parts, *_seed(values, defaults), *([several] if several else [])])


def _batches(batches: Sequence[int] | None) -> list[str]:
    if not batches:
        return []
    if len(batches) > BATCHES_LISTED:
        return [f"b{batches[0]}…{batches[-1]}"]
    return [f"b{','.join(map(str, batches))}"]


def _model_and_net(model: str, inner_net: str | None) -> str:
    """Model and inner net, short enough to leave room for the batch: without the owner, and without ``_dual``."""
    model = model.rpartition("/")[2]
    if inner_net is None:
        return model
    whole = f"{model} {inner_net}"
    return whole if len(whole) <= SHOWN - FOR_THE_BATCH else f"{model} {inner_net.replace('_dual', '')}"


def _seed(values: Values, defaults: Values) -> list[str]:
    return [] if values["seed"] == defaults["seed"] else [f"seed {values['seed']}"]


def _cut(parts: list[str]) -> str:
    name = " ".join(parts)
    return name if len(name) <= MOST else f"{name[: MOST - 1]}…"
