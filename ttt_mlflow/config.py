"""One decode configuration, defined once.

The command line, the MLproject file, the recorded parameters and the report columns all derive from
:class:`RunConfig` or are tested against it. A field that is ``None`` was not asked for: :mod:`ttt_mlflow.runner`
settles it for the machine (``auto``) and records what was really used.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ttt_mlflow.errors import BadInput

HOW_MEASURED = ("profile", "warmup", "repeats", "max_seconds")
TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")

Count = Annotated[int, Field(ge=1)]


def _unquoted(value: Any) -> Any:
    """``auto`` and the empty string both mean: not asked for."""
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in ("", "auto"):
            return None
    return value


def _switch(value: Any) -> Any:
    value = _unquoted(value)
    if isinstance(value, str):
        if value.lower() in TRUE_WORDS:
            return True
        if value.lower() in FALSE_WORDS:
            return False
    return value


def _profilers(value: Any) -> Any:
    if isinstance(value, str):
        words = [word.strip().lower() for word in value.split(",")]
        if words in ([""], ["none"]):
            return ()
        # the seed's bare --profile meant PyTorch's profiler
        return tuple(dict.fromkeys("torch" if word == "true" else word for word in words))
    return value


Auto = BeforeValidator(_unquoted)
Switch = Annotated[bool | None, BeforeValidator(_switch)]


class RunConfig(BaseModel):
    """One decode configuration, as it was asked for. ``None`` means ``auto``."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name: str = Field("ttt-1b", description="model to measure; `ttt-mlflow models` lists them")
    mode: Literal["decode", "prefill"] = Field("decode", description="what is timed")
    batch: Count = Field(64, description="sequences decoded together")
    promptlen: Count = Field(1, description="tokens of the prompt")
    genlen: Count = Field(512, description="decode steps, each one token a sequence (decode mode)")
    inner_net: Annotated[str | None, Auto] = Field(
        None, description="TTT inner net; auto: mlp_1_dual_triton on a GPU, mlp_1_dual on a CPU"
    )
    dtype: Annotated[Literal["float16", "bfloat16", "float32"] | None, Auto] = Field(
        None, description="weights and state; auto: float16 on a GPU, float32 on a CPU"
    )
    use_compile: Switch = Field(None, description="torch.compile the decode step; auto: on where a GPU is used")
    cuda_graph: Switch = Field(None, description="replay the decode step as a CUDA graph; auto: on with a GPU")
    profile: Annotated[tuple[Literal["torch", "nsys", "memory"], ...], BeforeValidator(_profilers)] = Field(
        (), description="profilers of a pass after the measurement, comma-separated; none for none"
    )
    device: Annotated[Literal["cpu", "cuda"] | None, Auto] = Field(None, description="auto: cuda where a GPU is found")
    warmup: Annotated[Annotated[int, Field(ge=0)] | None, Auto] = Field(
        None, description="untimed passes of up to 128 steps before the measurement; auto: until pass times settle"
    )
    repeats: Annotated[Count | None, Auto] = Field(
        None, description="timed passes; auto: until the interval is narrow or max_seconds is used up"
    )
    max_seconds: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="time for warm-up and timed passes; two are timed at least"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the random weights and of the prompt")
    checkpoint: Annotated[str | None, Auto] = Field(
        None, description="safetensors file or folder with the published weight names; empty: random weights"
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Validate ``values`` (strings or typed); raise :class:`BadInput` with one line a fault."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise BadInput("\n".join(_explain(fault, values) for fault in error.errors())) from None

    @property
    def config_id(self) -> str:
        """Hash of what decodes what: the same on every host, and however long it was measured or profiled."""
        text = json.dumps(self.model_dump(mode="json", exclude=set(HOW_MEASURED)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def run_name(self) -> str:
        """For example ``ttt-1b mlp_2_dual_triton decode b1024 p1 g2048``."""
        parts = [self.model_name, self.inner_net, self.mode, f"b{self.batch}", f"p{self.promptlen}"]
        if self.mode == "decode":
            parts.append(f"g{self.genlen}")
        return " ".join(part for part in parts if part)

    def as_params(self) -> dict[str, str]:
        """The configuration as MLflow parameters: every field as the text that would ask for it again."""
        return {name: as_text(value) for name, value in self.model_dump().items()}


def as_text(value: Any) -> str:
    """One field's value as the text that would ask for it again."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(value) or "none"
    return str(value)


def allowed(name: str) -> str:
    """What a field takes, in words."""
    fixed = {
        "mode": "decode or prefill",
        "inner_net": "auto, or an inner net of the model",
        "dtype": "auto, float16, bfloat16 or float32",
        "use_compile": "auto, true or false",
        "cuda_graph": "auto, true or false",
        "profile": "none, or any of torch, nsys, memory, comma-separated",
        "device": "auto, cpu or cuda",
        "warmup": "auto, or a whole number from 0",
        "repeats": "auto, or a whole number from 1",
        "max_seconds": "a number of seconds above 0",
        "seed": "a whole number from 0",
    }
    if name in fixed:
        return fixed[name]
    return "a whole number from 1" if name in ("batch", "promptlen", "genlen") else "a text"


def _explain(fault: Any, values: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        return f"{name}: no such parameter; there are {', '.join(RunConfig.model_fields)}"
    return f"{name}={values.get(name)!s}: not allowed; {name} takes {allowed(name)}"
