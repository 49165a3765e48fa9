"""The configuration of a decode or prefill run."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from ttt_mlflow.config.base import Configuration, defaults_of
from ttt_mlflow.config.numbers import AT_MOST, LONGEST_S, Count, Fraction, Natural, Seconds, Whole
from ttt_mlflow.config.run_name import model_run_name
from ttt_mlflow.config.seed_spellings import in_our_words
from ttt_mlflow.config.values import (
    NSYS_ARGS,
    NSYS_EXPORT,
    THRESHOLDS,
    THRESHOLDS_TAKES,
    Auto,
    NsysArgs,
    NsysExport,
    Settings,
    Switch,
    as_profilers,
)
from ttt_mlflow.measurement.budget import Budget
from ttt_mlflow.measurement.thresholds import Thresholds

# The verdict also needs ten samples of the SM clock. NVML gives one in about 50 ms, on a busy host fewer.
SECTION_MARGIN = 2


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
    added: ClassVar[Mapping[str, tuple[Any, ...]]] = {"attn_impl": (None,), "decode_path": (None, "launches")}
    takes: ClassVar[Mapping[str, str]] = {
        "mode": "decode or prefill",
        "batch": f"a whole number of at least 1{AT_MOST}",
        "promptlen": f"a whole number of at least 1{AT_MOST}",
        "genlen": f"a whole number of at least 1{AT_MOST}",
        "inner_net": "auto, or an inner net of the model",
        "decode_path": "auto, or a decode path of the model",
        "attn_impl": "auto, or an attention of the model, or two as PROMPT+STEP",
        "dtype": "auto, float16, bfloat16 or float32",
        "use_compile": "auto, true or false",
        "cuda_graph": "auto, true or false",
        "profile": "none, or any of torch, nsys, memory, accuracy, comma-separated",
        "nsys_export": "none or sqlite",
        "device": "auto, cpu or cuda",
        "warmup": f"auto, or a whole number of at least 0{AT_MOST}",
        "repeats": f"auto, or a whole number of at least 1{AT_MOST}",
        "precision_pct": "a percentage above 0, in digits with at most one point and one exponent",
        "max_seconds": f"a number of seconds above 0, at most {LONGEST_S:.0f}",
        "thresholds": THRESHOLDS_TAKES,
        "retry_invalid": f"a whole number of at least 0{AT_MOST}",
        "seed": "a whole number of at least 0 and below 2**63, in digits alone",
    }

    model_name: str = Field(default="ttt-1b", description="model to measure; `ttt-mlflow models` lists them")
    mode: Literal["decode", "prefill"] = Field(default="decode", description="what is timed: decode or prefill")
    batch: Count = Field(default=64, description="sequences decoded together")
    promptlen: Count = Field(default=1, description="tokens of the prompt")
    genlen: Count = Field(default=512, description="decode steps; each yields one token per sequence (decode mode)")
    inner_net: Annotated[str | None, Auto] = Field(
        default=None, description="TTT inner net; auto: mlp_1_dual_triton on a GPU, mlp_1_dual on a CPU"
    )
    decode_path: Annotated[str | None, Auto] = Field(
        default=None,
        description="how a decode step runs: launches, or overlapped, whose starts overlap; auto: "
        "overlapped wherever it can run in a CUDA graph",
    )
    attn_impl: Annotated[str | None, Auto] = Field(
        default=None,
        description="attention of a model that has one, or PROMPT+STEP; auto: the fastest, measured on the GPU",
    )
    dtype: Annotated[Literal["float16", "bfloat16", "float32"] | None, Auto] = Field(
        default=None,
        description="float16, bfloat16 or float32; auto: float16 on a GPU, float32 on a CPU",
    )
    use_compile: Switch = Field(default=None, description="torch.compile the decode step; auto: on with a GPU")
    cuda_graph: Switch = Field(default=None, description="replay the decode step as a CUDA graph; auto: on with a GPU")
    profile: Annotated[tuple[Literal["torch", "nsys", "memory", "accuracy"], ...], BeforeValidator(as_profilers)] = (
        Field(
            default=(),
            description="passes after the measurement: the profilers torch, nsys and memory, and accuracy, which "
            "compares the predictions with float32; comma-separated, or none",
        )
    )
    nsys_args: NsysArgs = Field(default=None, description=NSYS_ARGS)
    nsys_export: NsysExport = Field(default="none", description=NSYS_EXPORT)
    device: Annotated[Literal["cpu", "cuda"] | None, Auto] = Field(
        default=None, description="cuda or cpu; auto: cuda on a machine with a GPU"
    )
    warmup: Annotated[Natural | None, Auto] = Field(
        default=None,
        description="untimed passes before the measurement, of up to 128 steps; auto: until times and clocks settle",
    )
    repeats: Annotated[Count | None, Auto] = Field(
        default=None, description="timed passes; auto: until precision_pct or max_seconds is reached"
    )
    precision_pct: Fraction = Field(
        default=0.5,
        gt=0,
        description="half-width of the confidence interval, in percent of the median, at which the measurement stops",
    )
    max_seconds: Seconds = Field(
        default=60.0,
        description="seconds for warm-up and timed passes; at least two passes are timed",
    )
    thresholds: Settings = Field(
        default=(),
        description=THRESHOLDS,
    )
    retry_invalid: Natural = Field(
        default=0,
        description="number of further measurements if the verdict is invalid, each when the GPU is idle and cool",
    )
    seed: Whole = Field(default=0, lt=2**63, description="random seed of the weights and the prompt")
    checkpoint: Annotated[str | None, Auto] = Field(
        default=None,
        description="safetensors file or folder with the published weight names; auto: random weights",
    )

    def __init__(self, **values: Any) -> None:
        """Validate ``values`` (strings or typed), also in the spellings of the scripts before. Raises BadInput."""
        super().__init__(**in_our_words(values))

    @property
    def budget(self) -> Budget:
        """The length of the measurement: long enough for each check of the verdict, if the time allows."""
        section_s = SECTION_MARGIN * Thresholds.parse(self.thresholds).section_s
        return Budget(self.warmup, self.repeats, self.precision_pct, self.max_seconds, section_s)

    @property
    def kind(self) -> str:
        return self.mode

    @property
    def run_name(self) -> str:
        return model_run_name(self.model_dump(), defaults_of(RunConfig))
