"""The configuration of a sweep: the values of each parameter of a run, comma-separated."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from ttt_mlflow.config.base import Configuration
from ttt_mlflow.config.presets import PRESETS
from ttt_mlflow.config.run import RunConfig
from ttt_mlflow.config.values import Switch, Word, unquoted

LARGEST = "max"  # instead of a batch: the largest that fits
# Each may have several values, which are multiplied. The other parameters hold for all runs of a sweep.
AXES = (
    *("model_name", "mode", "batch", "promptlen", "genlen", "inner_net", "decode_path", "attn_impl", "dtype"),
    *("use_compile", "cuda_graph", "checkpoint", "seed"),
)
BATCHES_NAMED = 3
NO_YARDSTICK = "none"


def _as_words(value: Any) -> Any:
    """Comma-separated text as its words. A word that is given twice is refused later, with its name."""
    value = unquoted(value)
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(","))
    return tuple(map(str, value)) if isinstance(value, list | tuple) else value


def _as_word(value: Any) -> Any:
    value = unquoted(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Values = Annotated[tuple[Word, ...] | None, BeforeValidator(_as_words)]
Value = Annotated[Word | None, BeforeValidator(_as_word)]


def _of_a_run(name: str) -> Any:
    """The field of a parameter of ``ttt-mlflow run``. Its words are checked when the runs are made of them."""
    described = str(RunConfig.model_fields[name].description)
    return Field(default=None, description=f"{described}; several, comma-separated" if name in AXES else described)


def _described() -> list[str]:
    return [f"{name}: {preset.meaning}" for name, preset in PRESETS.items()]


class SweepConfig(Configuration):
    """One sweep, as it was given. A field that is None was not given: it is the preset's, or the default of a run."""

    entry_point = "sweep"
    how_measured = (
        *("executor", "gpus", "any_gpu", "exclusive", "address", "redo", "try_all", "skip_missing", "yardstick"),
        "retry_invalid",
        *("profile", "nsys_args", "nsys_export", "warmup", "repeats", "precision_pct", "max_seconds", "thresholds"),
    )
    identity = (
        *("preset", "grid", "model_name", "mode", "batch", "promptlen", "genlen", "inner_net", "dtype", "use_compile"),
        *("cuda_graph", "device", "checkpoint"),
    )
    added: ClassVar[Mapping[str, tuple[Any, ...]]] = {"attn_impl": (None,), "decode_path": (None,)}
    takes: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(RunConfig.model_fields, "a text"),
        **dict.fromkeys(AXES, "values, comma-separated, none of them empty"),
        "preset": f"auto, or {' or '.join(PRESETS)}",
        "grid": "auto, or a YAML file",
        "executor": "process, inline or ray",
        "gpus": "auto, or numbers of GPUs, comma-separated",
        "any_gpu": "true or false",
        "exclusive": "true or false",
        "address": "auto, or the address of a Ray cluster",
        "redo": "none, invalid or all",
        "try_all": "true or false",
        "skip_missing": "true or false",
        "yardstick": "auto, none, or name=value words of a run, separated by spaces",
    }

    preset: Annotated[
        Literal["decode-2k", "published-prefill", "published-decode", "published-both", "crossing", "peers"] | None,
        BeforeValidator(unquoted),
    ] = Field(default=None, description=f"a grid with a name: {'; '.join(_described())}")
    grid: Value = Field(default=None, description="YAML file with the runs of a grid that is not full")
    model_name: Values = Field(
        default=None,
        description="models to measure, comma-separated; MODEL:INNER_NET is a model with an inner net of its own",
    )
    mode: Values = _of_a_run("mode")
    batch: Values = Field(
        default=None, description="sequences decoded together; several, comma-separated; max: the most that fit"
    )
    promptlen: Values = _of_a_run("promptlen")
    genlen: Values = _of_a_run("genlen")
    inner_net: Values = _of_a_run("inner_net")
    decode_path: Values = _of_a_run("decode_path")
    attn_impl: Values = _of_a_run("attn_impl")
    dtype: Values = _of_a_run("dtype")
    use_compile: Values = _of_a_run("use_compile")
    cuda_graph: Values = _of_a_run("cuda_graph")
    checkpoint: Values = _of_a_run("checkpoint")
    seed: Values = _of_a_run("seed")
    device: Value = _of_a_run("device")
    profile: Value = _of_a_run("profile")
    nsys_args: Value = _of_a_run("nsys_args")
    nsys_export: Value = _of_a_run("nsys_export")
    warmup: Value = _of_a_run("warmup")
    repeats: Value = _of_a_run("repeats")
    precision_pct: Value = _of_a_run("precision_pct")
    max_seconds: Value = _of_a_run("max_seconds")
    thresholds: Value = _of_a_run("thresholds")
    retry_invalid: Value = _of_a_run("retry_invalid")
    executor: Literal["process", "inline", "ray"] = Field(
        default="process",
        description="process: each GPU takes the next run, each run in a process of its own; inline: all in one "
        "process; ray: on a Ray cluster",
    )
    gpus: Values = Field(
        default=None, description="GPUs of this host that take part, by number, comma-separated; auto: all"
    )
    any_gpu: Switch = Field(
        default=False,
        description="also measure on a GPU that another process uses, or that differs from its siblings; the table "
        "marks its numbers",
    )
    exclusive: Switch = Field(
        default=False,
        description="measure the runs whose steps wait for kernel launches alone on the host, after the others",
    )
    address: Value = Field(default=None, description="address of the Ray cluster; auto: a local one")
    redo: Literal["none", "invalid", "all"] = Field(
        default="none", description="what to measure again: none, invalid (the runs with that verdict) or all"
    )
    try_all: Switch = Field(default=False, description="also try the runs that are predicted not to fit into memory")
    skip_missing: Switch = Field(
        default=False, description="leave out the models that need something that is not installed"
    )
    yardstick: Value = Field(
        default=None,
        description="a run that is measured at the beginning of each session of the sweep, as name=value words, for "
        "example model_name=ttt-1b batch=1024; auto: that of the grid; none: no such run",
    )

    @property
    def of_runs(self) -> dict[str, tuple[str, ...]]:
        """What was given for the runs, by parameter: one word, or several for an axis."""
        found: dict[str, tuple[str, ...]] = {}
        for name in RunConfig.model_fields:
            if (value := getattr(self, name)) is not None:
                found[name] = (value,) if isinstance(value, str) else value
        return found

    @property
    def run_name(self) -> str:
        """For example ``sweep decode-2k``, or ``sweep ttt-1b b128,256``."""
        source = self.preset or (self.grid or "").rpartition("/")[2].rpartition(".")[0]
        parts = ["sweep", source or ",".join(self.model_name or (str(RunConfig.model_fields["model_name"].default),))]
        batches = self.batch or ()
        if batches:
            several = batches if len(batches) <= BATCHES_NAMED else (f"{batches[0]}…{batches[-1]}",)
            parts.append(f"b{','.join(several)}")
        return " ".join(" ".join(parts).split())[:200]
