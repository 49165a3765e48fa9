"""The types of configuration fields: how text becomes a value, and what is allowed.

A field that is ``None`` was not given (``auto``).
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ttt_mlflow.measurement import thresholds
from ttt_mlflow.measurement.thresholds import Thresholds

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")

Word = Annotated[str, Field(min_length=1)]


def unquoted(value: Any) -> Any:
    """``auto`` and the empty string both mean that no value was given."""
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in ("", "auto"):
            return None
    return value


def as_switch(value: Any) -> Any:
    value = unquoted(value)
    if isinstance(value, str):
        if value.lower() in TRUE_WORDS:
            return True
        if value.lower() in FALSE_WORDS:
            return False
    return value


def as_list(value: Any) -> Any:
    """Comma-separated text as a tuple of its words, without duplicates."""
    value = unquoted(value)
    if isinstance(value, str):
        return tuple(dict.fromkeys(word.strip() for word in value.split(",")))
    return value


def rising(numbers: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The points of an axis in ascending order, without duplicates."""
    return None if numbers is None else tuple(sorted(set(numbers)))


def as_profilers(value: Any) -> Any:
    if isinstance(value, str):
        words = [word.strip().lower() for word in value.split(",")]
        if words in ([""], ["none"]):
            return ()
        # legacy flags: --profile without a value meant PyTorch's profiler
        return tuple(dict.fromkeys("torch" if word == "true" else word for word in words))
    return value


def as_nsys(value: Any) -> Any:
    if isinstance(value, str):
        word = value.strip().lower()
        return () if word in ("", "none") else ("nsys" if word == "true" else word,)
    return value


def as_settings(value: Any) -> Any:
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",")]
        value = () if words in ([""], ["none"]) else tuple(words)
    return value


def checked(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Thresholds in one canonical form, so that equal settings have equal text."""
    Thresholds.parse(settings)
    return tuple(sorted("=".join(part.strip() for part in setting.split("=")) for setting in settings))


Auto = BeforeValidator(unquoted)
Settings = Annotated[tuple[str, ...], BeforeValidator(as_settings), AfterValidator(checked)]
THRESHOLDS_TAKES = (
    f"none, or name=value, comma-separated, with numbers of at least 0 and the names {', '.join(thresholds.NAMES)}"
)
Switch = Annotated[bool | None, BeforeValidator(as_switch)]
NsysArgs = Annotated[str | None, Auto]
NsysExport = Literal["none", "sqlite"]
NSYS_ARGS = "options for `nsys profile`; they replace the tool's own options of the same name"
THRESHOLDS = "limits of the verdict that differ from the defaults, as name=value, comma-separated; or none"
NSYS_EXPORT = "sqlite: also keep the SQLite export of Nsight Systems; or none"


def without_sign(value: Any) -> Any:
    value = unquoted(value)
    return value.removesuffix("%").strip() if isinstance(value, str) else value
