"""The spellings of the benchmark scripts that this program replaces, in this program's words.

They exist in several versions. What they meant is recorded under this project's names.
"""

from collections.abc import Mapping
from typing import Any

from ttt_mlflow.errors import BadInput

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
PARAMETERS = {"prompt_len": "promptlen", "generate_len": "genlen"}
# name -> model, inner net
MODELS: Mapping[str, tuple[str, str | None]] = {
    "ttt-linear": ("ttt-1b", "mlp_1_dual"),
    "ttt-mlp": ("ttt-1b", "mlp_2_dual"),
    "ttt-linear-fast": ("ttt-1b", "mlp_1_dual_triton"),
    "ttt-mlp-fast": ("ttt-1b", "mlp_2_dual_triton"),
    "mamba": ("state-spaces/mamba-1.4b", None),
}
TRANSFORMERS = ("transformer-vllm",)
TRANSFORMER = "a transformer through vLLM, which is not here; use transformer-1b or transformer-1b-gqa4"


def full_name(dtype: Any) -> Any:
    """``float16`` of ``fp16``; anything else is left to the validation."""
    return DTYPES.get(_word(dtype), dtype)


def in_our_words(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of a run under this project's names. Raises BadInput for what has no counterpart here."""
    ours = dict(values)
    faults = []
    for theirs, name in PARAMETERS.items():
        if theirs in ours and name in ours:
            faults.append(f"{theirs}={ours[theirs]}: {name}={ours[name]} is given too, which means the same; give one")
        if theirs in ours:
            ours[name] = ours.pop(theirs)
    if "dtype" in ours:
        ours["dtype"] = full_name(ours["dtype"])
    if _word(ours.get("model_name")) in TRANSFORMERS:
        faults.append(f"model_name={ours.pop('model_name')}: {TRANSFORMER}")
    faults += _with_model(ours)
    net = _word(ours.get("inner_net"))
    if net.endswith("_tk") or "whole_loop" in net:
        counterpart = f"mlp_{2 if '2' in net.partition('_dual')[0] else 1}_dual_triton"
        faults.append(
            f"inner_net={ours.pop('inner_net')}: another kernel for the same mathematics, which is not here; "
            f"use {counterpart}"
        )
    if faults:
        raise BadInput("\n".join(faults))
    return ours


def _with_model(ours: dict[str, Any]) -> list[str]:
    """Replace a model's old name by the model and its inner net. Returns what contradicts it."""
    given = _word(ours.get("model_name"))
    if given not in MODELS:
        return []
    ours["model_name"], net = MODELS[given]
    asked = _word(ours.get("inner_net"))
    if net and asked not in ("", "auto", net):
        return [
            f"inner_net={asked}: model_name={given} means {ours['model_name']} with {net}; give {ours['model_name']}"
        ]
    if net:
        ours["inner_net"] = net
    return []


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
