"""The two configurations, a decode run and a micro-benchmark, each defined once.

The command line, the MLproject file, the recorded parameters and the report columns are derived from
:class:`RunConfig` and :class:`MicroConfig`, or are tested against them. A field that is ``None`` was not given
(``auto``): the run chooses the value for this machine and records it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement import thresholds
from ttt_mlflow.measurement.budget import Budget
from ttt_mlflow.measurement.thresholds import Thresholds
from ttt_mlflow.run_name import micro_run_name, model_run_name

DEFAULT_LOGDIR = "./ttt_runs"  # the folder of the records
TRUE_WORDS = ("true", "1", "yes", "on")
CONFIG_ID_LENGTH = 16  # ids of version 0.1, which follow another rule, have 12 characters
FALSE_WORDS = ("false", "0", "no", "off")

Count = Annotated[int, Field(ge=1)]
Word = Annotated[str, Field(min_length=1)]


def _unquoted(value: Any) -> Any:
    """``auto`` and the empty string both mean that no value was given."""
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


def _list(value: Any) -> Any:
    """Comma-separated text as a tuple of its words, without duplicates."""
    value = _unquoted(value)
    if isinstance(value, str):
        return tuple(dict.fromkeys(word.strip() for word in value.split(",")))
    return value


def _rising(numbers: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The points of an axis in ascending order, without duplicates."""
    return None if numbers is None else tuple(sorted(set(numbers)))


def _profilers(value: Any) -> Any:
    if isinstance(value, str):
        words = [word.strip().lower() for word in value.split(",")]
        if words in ([""], ["none"]):
            return ()
        # legacy flags: --profile without a value meant PyTorch's profiler
        return tuple(dict.fromkeys("torch" if word == "true" else word for word in words))
    return value


def _nsys(value: Any) -> Any:
    if isinstance(value, str):
        word = value.strip().lower()
        return () if word in ("", "none") else ("nsys" if word == "true" else word,)
    return value


def _settings(value: Any) -> Any:
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",")]
        value = () if words in ([""], ["none"]) else tuple(words)
    return value


def _checked(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Thresholds in one canonical form, so that equal settings have equal text."""
    Thresholds.parse(settings)
    return tuple(sorted("=".join(part.strip() for part in setting.split("=")) for setting in settings))


Auto = BeforeValidator(_unquoted)
Settings = Annotated[tuple[str, ...], BeforeValidator(_settings), AfterValidator(_checked)]
THRESHOLDS_TAKES = (
    f"none, or name=value, comma-separated, with numbers of at least 0 and the names {', '.join(thresholds.NAMES)}"
)
Switch = Annotated[bool | None, BeforeValidator(_switch)]
NsysArgs = Annotated[str | None, Auto]
NsysExport = Literal["none", "sqlite"]
NSYS_ARGS = "options for `nsys profile`; they replace the tool's own options of the same name"
THRESHOLDS = "limits of the verdict that differ from the defaults, as name=value, comma-separated; or none"
RUN_NAME_LENGTH = 200
SIDE_TAKES = (
    "a run id, a run name, a local record, a parent run, a git commit or tag, an MLflow filter, latest or latest~1"
)
NSYS_EXPORT = "sqlite: also keep the SQLite export of Nsight Systems; or none"


class Configuration(BaseModel):
    """The parameters of one command, one field each. ``None`` means ``auto``."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    entry_point: ClassVar[str]  # of the MLproject file
    how_measured: ClassVar[tuple[str, ...]]  # fields that only set how long and with which tools to measure
    identity: ClassVar[tuple[str, ...]]  # fields that every config_id covers; this never changes
    # Fields that came later -> the value that the program worked with before it had the field. A field enters the
    # config_id only with another value, so that a new field changes no id. The value never follows a new default.
    added: ClassVar[Mapping[str, Any]] = {}
    takes: ClassVar[Mapping[str, str]]  # field -> its allowed values, in words

    def __init__(self, **values: Any) -> None:
        """Validate ``values`` (strings or typed). Raises :class:`BadInput` with one line for each fault."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            faults = {str(fault["loc"][0]): fault for fault in error.errors()}
            raise BadInput("\n".join(self._explain(name, fault, values) for name, fault in faults.items())) from None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of ``values`` (strings or typed). Raises :class:`BadInput`, one line for each fault."""
        return cls(**values)

    @classmethod
    def no_such_parameter(cls, given: str) -> str:
        """The message for an unknown parameter, in one line."""
        return f"{given}: no such parameter; the parameters are {', '.join(cls.model_fields)}"

    @classmethod
    def _explain(cls, name: str, fault: Any, values: Mapping[str, Any]) -> str:
        if fault["type"] == "extra_forbidden":
            return cls.no_such_parameter(name)
        return f"{name}={values.get(name)!s}: not allowed; {name} takes {cls.takes.get(name, 'a text')}"

    def config_id(self, checkpoint_id: str | None = None) -> str:
        """Hash of what is measured. It does not depend on the host, the measurement's length, profilers or the seed.

        checkpoint_id: hash of the checkpoint's content, which stands for its path.
        """
        values = self.model_dump(mode="json")
        covered = {name: values[name] for name in self.identity}
        covered |= {name: values[name] for name, before in self.added.items() if values[name] != before}
        if covered.get("checkpoint") is not None:
            covered["checkpoint"] = checkpoint_id or covered["checkpoint"]
        text = json.dumps({"entry_point": self.entry_point, **covered}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:CONFIG_ID_LENGTH]

    @property
    def kind(self) -> str:
        """What a run of this configuration is: decode, prefill or micro."""
        return self.entry_point

    @property
    def run_name(self) -> str:
        """The name of the MLflow run."""
        raise TypeError(f"{type(self).__name__} has no run name")

    def as_params(self) -> dict[str, str]:
        """The configuration as MLflow parameters. Each field has the text that the command line accepts for it."""
        return {name: as_text(value) for name, value in self.model_dump().items()}


class RunConfig(Configuration):
    """One decode configuration, as it was given."""

    entry_point = "main"
    how_measured = (
        *("profile", "nsys_args", "nsys_export", "warmup", "repeats", "precision_pct", "max_seconds"),
        *("thresholds", "retry_invalid"),
    )
    identity = (
        *("model_name", "mode", "batch", "promptlen", "genlen", "inner_net", "dtype", "use_compile", "cuda_graph"),
        *("device", "checkpoint"),
    )
    takes: ClassVar[Mapping[str, str]] = {
        "mode": "decode or prefill",
        "batch": "a whole number of at least 1",
        "promptlen": "a whole number of at least 1",
        "genlen": "a whole number of at least 1",
        "inner_net": "auto, or an inner net of the model",
        "dtype": "auto, float16, bfloat16 or float32",
        "use_compile": "auto, true or false",
        "cuda_graph": "auto, true or false",
        "profile": "none, or any of torch, nsys, memory, comma-separated",
        "nsys_export": "none or sqlite",
        "device": "auto, cpu or cuda",
        "warmup": "auto, or a whole number of at least 0",
        "repeats": "auto, or a whole number of at least 1",
        "precision_pct": "a percentage above 0",
        "max_seconds": "a number of seconds above 0",
        "thresholds": THRESHOLDS_TAKES,
        "retry_invalid": "a whole number of at least 0",
        "seed": "a whole number of at least 0",
    }

    model_name: str = Field(default="ttt-1b", description="model to measure; `ttt-mlflow models` lists them")
    mode: Literal["decode", "prefill"] = Field(default="decode", description="what is timed: decode or prefill")
    batch: Count = Field(default=64, description="sequences decoded together")
    promptlen: Count = Field(default=1, description="tokens of the prompt")
    genlen: Count = Field(default=512, description="decode steps; each yields one token per sequence (decode mode)")
    inner_net: Annotated[str | None, Auto] = Field(
        default=None, description="TTT inner net; auto: mlp_1_dual_triton on a GPU, mlp_1_dual on a CPU"
    )
    dtype: Annotated[Literal["float16", "bfloat16", "float32"] | None, Auto] = Field(
        default=None,
        description="float16, bfloat16 or float32; auto: float16 on a GPU, float32 on a CPU",
    )
    use_compile: Switch = Field(default=None, description="torch.compile the decode step; auto: on with a GPU")
    cuda_graph: Switch = Field(default=None, description="replay the decode step as a CUDA graph; auto: on with a GPU")
    profile: Annotated[tuple[Literal["torch", "nsys", "memory"], ...], BeforeValidator(_profilers)] = Field(
        default=(),
        description="profilers to run after the measurement: torch, nsys, memory, comma-separated; or none",
    )
    nsys_args: NsysArgs = Field(default=None, description=NSYS_ARGS)
    nsys_export: NsysExport = Field(default="none", description=NSYS_EXPORT)
    device: Annotated[Literal["cpu", "cuda"] | None, Auto] = Field(
        default=None, description="cuda or cpu; auto: cuda on a machine with a GPU"
    )
    warmup: Annotated[Annotated[int, Field(ge=0)] | None, Auto] = Field(
        default=None,
        description="untimed passes before the measurement, of up to 128 steps; auto: until times and clocks settle",
    )
    repeats: Annotated[Count | None, Auto] = Field(
        default=None, description="timed passes; auto: until precision_pct or max_seconds is reached"
    )
    precision_pct: float = Field(
        default=0.5,
        gt=0,
        allow_inf_nan=False,
        description="half-width of the confidence interval, in percent of the median, at which the measurement stops",
    )
    max_seconds: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds for warm-up and timed passes; at least two passes are timed",
    )
    thresholds: Settings = Field(
        default=(),
        description=THRESHOLDS,
    )
    retry_invalid: int = Field(
        default=0,
        ge=0,
        description="number of further measurements if the verdict is invalid, each when the GPU is idle and cool",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="random seed of the weights and the prompt")
    checkpoint: Annotated[str | None, Auto] = Field(
        default=None,
        description="safetensors file or folder with the published weight names; auto: random weights",
    )

    @property
    def budget(self) -> Budget:
        """The length of the measurement."""
        return Budget(self.warmup, self.repeats, self.precision_pct, self.max_seconds)

    @property
    def kind(self) -> str:
        return self.mode

    @property
    def run_name(self) -> str:
        return model_run_name(self.model_dump(), _defaults(RunConfig))


class MicroConfig(Configuration):
    """One micro-benchmark, as it was given. It times every kernel with every batch."""

    entry_point = "micro"
    how_measured = ("profile", "nsys_args", "nsys_export", "seconds", "thresholds")
    identity = ("kernels", "batches", "heads", "head_dim", "dtype", "device")
    takes: ClassVar[Mapping[str, str]] = {
        "kernels": "auto, or names that `ttt-mlflow micro --list` shows, comma-separated",
        "batches": "auto, or whole numbers of at least 1, comma-separated",
        "heads": "a whole number of at least 1",
        "head_dim": "a whole number of at least 1",
        "dtype": "float16, bfloat16 or float32",
        "device": "auto, cpu or cuda",
        "seconds": "a number of seconds above 0",
        "thresholds": THRESHOLDS_TAKES,
        "seed": "a whole number of at least 0",
        "profile": "none or nsys",
        "nsys_export": "none or sqlite",
    }

    kernels: Annotated[tuple[Word, ...] | None, BeforeValidator(_list)] = Field(
        default=None,
        description="kernels to time, comma-separated; auto: the Triton kernels on a GPU, the PyTorch kernels on a CPU",
    )
    batches: Annotated[tuple[Count, ...] | None, BeforeValidator(_list), AfterValidator(_rising)] = Field(
        default=None,
        description="batches for each kernel, comma-separated; auto: 128,512,1024 on a GPU, 1,4 on a CPU",
    )
    heads: Count = Field(default=32, description="heads of the layer")
    head_dim: Count = Field(default=64, description="dimension of a head")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        default="float16", description="float16, bfloat16 or float32"
    )
    device: Annotated[Literal["cpu", "cuda"] | None, Auto] = Field(
        default=None, description="cuda or cpu; auto: cuda on a machine with a GPU"
    )
    seconds: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds for timing each kernel with each batch; the warm-up before it takes a quarter of that",
    )
    thresholds: Settings = Field(
        default=(),
        description=THRESHOLDS,
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="random seed of the inputs")
    profile: Annotated[tuple[Literal["nsys"], ...], BeforeValidator(_nsys)] = Field(
        default=(), description="nsys: a pass under Nsight Systems after the measurement; or none"
    )
    nsys_args: NsysArgs = Field(default=None, description=NSYS_ARGS)
    nsys_export: NsysExport = Field(default="none", description=NSYS_EXPORT)

    @property
    def run_name(self) -> str:
        return micro_run_name(self.model_dump(), _defaults(MicroConfig))


def _defaults(kind: type[Configuration]) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items()}


def _texts(value: Any) -> Any:
    """One text, or several; a text may hold commas."""
    return (value,) if isinstance(value, str) else value


def _percentage(value: Any) -> Any:
    value = _unquoted(value)
    return value.removesuffix("%").strip() if isinstance(value, str) else value


Texts = Annotated[tuple[Word, ...], BeforeValidator(_texts)]
Limit = Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, BeforeValidator(_percentage)]


class CompareConfig(Configuration):
    """One comparison of two sides, as it was given."""

    entry_point = "compare"
    how_measured = (
        "resolution",
        "strict",
        "include_invalid",
        "fail_above",
        "inconclusive_ok",
        "allow_missing",
        "format",
    )
    identity = ("baseline", "candidate")
    takes: ClassVar[Mapping[str, str]] = {
        "baseline": SIDE_TAKES,
        "candidate": SIDE_TAKES,
        "resolution": "a percentage above 0",
        "strict": "true or false",
        "include_invalid": "true or false",
        "fail_above": "a percentage of at least 0, for example 2%",
        "inconclusive_ok": "true or false",
        "allow_missing": "true or false",
        "format": "text, markdown, json, junit or html",
    }

    baseline: Texts = Field(default=(), description=f"what is compared with: {SIDE_TAKES}")
    candidate: Texts = Field(default=(), description=f"what may be faster or slower: {SIDE_TAKES}")
    resolution: Annotated[float, BeforeValidator(_percentage), Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="a confidence interval wider than ± this percentage says nothing: cannot tell"
    )
    strict: Switch = Field(default=False, description="a condition that differs makes its pair *cannot tell*")
    include_invalid: Switch = Field(default=False, description="compare invalid runs like others")
    fail_above: Limit = Field(
        default=None, description="percentage; exit code 1 if a pair is slower by more, 5 if that cannot be told"
    )
    inconclusive_ok: Switch = Field(default=False, description="*cannot tell* passes the gate")
    allow_missing: Switch = Field(default=False, description="a baseline without a candidate passes the gate")
    format: Literal["text", "markdown", "json", "junit", "html"] = Field(
        default="text", description="text, markdown, json, junit or html"
    )

    @property
    def run_name(self) -> str:
        """For example ``compare v1.0 with latest``."""
        sides = (texts[0] if len(texts) == 1 else f"{len(texts)} runs" for texts in (self.baseline, self.candidate))
        return " with ".join(sides).join(("compare ", ""))[:RUN_NAME_LENGTH]


CONFIGURATIONS: dict[str, type[Configuration]] = {
    kind.entry_point: kind for kind in (RunConfig, MicroConfig, CompareConfig)
}


def as_text(value: Any) -> str:
    """The value of one field as the text that the command line accepts for it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return str(value)
