"""The configuration of a micro-benchmark."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ttt_mlflow.config.base import Configuration, defaults_of
from ttt_mlflow.config.numbers import AT_MOST, LONGEST_S, Count, Seconds, Whole
from ttt_mlflow.config.run_name import micro_run_name
from ttt_mlflow.config.seed_spellings import full_name
from ttt_mlflow.config.values import (
    NSYS_ARGS,
    NSYS_EXPORT,
    THRESHOLDS,
    THRESHOLDS_TAKES,
    Auto,
    NsysArgs,
    NsysExport,
    Settings,
    Word,
    as_list,
    as_nsys,
    rising,
)


class MicroConfig(Configuration):
    """One micro-benchmark, as it was given. It times every kernel with every batch of its mode."""

    entry_point = "micro"
    how_measured = ("profile", "nsys_args", "nsys_export", "seconds", "thresholds")
    identity = ("kernels", "batches", "heads", "head_dim", "dtype", "device")
    added: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "promptlen": (2048,),
        "prompt_batches": (None,),
        "intermediate": (5504,),
        "vocab": (50277,),
    }
    takes: ClassVar[Mapping[str, str]] = {
        "kernels": "auto, or names that `ttt-mlflow micro --list` shows, comma-separated",
        "batches": f"auto, or whole numbers of at least 1, comma-separated{AT_MOST}",
        "promptlen": f"a whole number of at least 1{AT_MOST}",
        "prompt_batches": f"auto, or whole numbers of at least 1, comma-separated{AT_MOST}",
        "heads": f"a whole number of at least 1{AT_MOST}",
        "head_dim": f"a whole number of at least 1{AT_MOST}",
        "intermediate": f"a whole number of at least 1{AT_MOST}",
        "vocab": f"a whole number of at least 1{AT_MOST}",
        "dtype": "float16, bfloat16 or float32",
        "device": "auto, cpu or cuda",
        "seconds": f"a number of seconds above 0, at most {LONGEST_S:.0f}",
        "thresholds": THRESHOLDS_TAKES,
        "seed": "a whole number of at least 0 and below 2**63, in digits alone",
        "profile": "none or nsys",
        "nsys_export": "none or sqlite",
    }

    kernels: Annotated[tuple[Word, ...] | None, BeforeValidator(as_list)] = Field(
        default=None,
        description="kernels to time, comma-separated; layer: those outside the inner nets; auto: of the inner nets, "
        "the Triton kernels on a GPU, the PyTorch kernels on a CPU",
    )
    batches: Annotated[tuple[Count, ...] | None, BeforeValidator(as_list), AfterValidator(rising)] = Field(
        default=None,
        description="batches for each kernel, comma-separated; auto: 128,512,1024 on a GPU, 1,4 on a CPU",
    )
    promptlen: Count = Field(default=2048, description="tokens of the prompt of each sequence (prefill kernels)")
    prompt_batches: Annotated[tuple[Count, ...] | None, BeforeValidator(as_list), AfterValidator(rising)] = Field(
        default=None,
        description="batches for each prefill kernel, comma-separated; auto: those of batches if they are given, else "
        "16,64 on a GPU, 1 on a CPU",
    )
    heads: Count = Field(default=32, description="heads of the layer")
    head_dim: Count = Field(default=64, description="dimension of a head")
    intermediate: Count = Field(default=5504, description="width of the feed-forward (kernels of group `layer`)")
    vocab: Count = Field(default=50277, description="words of the head (kernels of group `layer`)")
    dtype: Annotated[Literal["float16", "bfloat16", "float32"], BeforeValidator(full_name)] = Field(
        default="float16", description="float16, bfloat16 or float32"
    )
    device: Annotated[Literal["cpu", "cuda"] | None, Auto] = Field(
        default=None, description="cuda or cpu; auto: cuda on a machine with a GPU"
    )
    seconds: Seconds = Field(
        default=1.0,
        description="seconds for timing each kernel with each batch; the warm-up before it takes a quarter of that",
    )
    thresholds: Settings = Field(
        default=(),
        description=THRESHOLDS,
    )
    seed: Whole = Field(default=0, lt=2**63, description="random seed of the inputs")
    profile: Annotated[tuple[Literal["nsys"], ...], BeforeValidator(as_nsys)] = Field(
        default=(), description="nsys: a pass under Nsight Systems after the measurement; or none"
    )
    nsys_args: NsysArgs = Field(default=None, description=NSYS_ARGS)
    nsys_export: NsysExport = Field(default="none", description=NSYS_EXPORT)

    @property
    def run_name(self) -> str:
        return micro_run_name(self.model_dump(), defaults_of(MicroConfig))
