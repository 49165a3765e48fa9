"""What the JSON files of a record hold, and the check that a file holds it."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.record.files import read_inside

STATUSES = ("running", "ok", "oom", "error", "killed")
DEEPEST = 32  # lists and objects within each other; a record's files have a few
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character, which no file or terminal can hold
MOST = 2**63 - 1  # the largest whole number that a store can hold


def _time(text: str) -> str:
    """An ISO time that every calculation with times can take."""
    when = datetime.fromisoformat(text)
    if not 1970 < when.year < 9999:
        raise ValueError("not the time of a run")
    return text


Time = Annotated[str, AfterValidator(_time)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=-MOST, le=MOST)]
Text = Annotated[str, Field(strict=True)]


class _File(BaseModel):
    """An object with at least these fields. A newer version may have more."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Process(_File):
    host: str
    boot_id: str
    pid_namespace: str
    pid: Annotated[int, Field(ge=1, le=MOST)]
    start_ticks: Whole | None


class _Status(_File):
    status: Literal["running", "ok", "oom", "error", "killed"]
    message: str | None
    started_at: Time
    ended_at: Time | None
    exit_code: Whole | None
    process: _Process

    def model_post_init(self, context: Any) -> None:
        if self.status != "running" and self.ended_at is None:
            raise ValueError("a run that ended has no ended_at")


class _Config(_File):
    entry_point: str = ""
    asked: dict[str, Any]
    used: dict[str, Any]


class _Target(_File):
    tracking_uri: str
    run_id: str | None = None
    experiment_name: str | None = None
    experiment_id: str | None = None


class _Published(_File):
    tracking_uri: str
    run_id: str
    experiment_id: str


class _Uploaded(_File):
    run_id: str
    files: dict[str, str]


CONFIG = "config.json"
# what is checked is handed on as it was read, not as pydantic would convert it
SHAPES: Mapping[str, TypeAdapter[Any]] = {
    CONFIG: TypeAdapter(_Config),
    "status.json": TypeAdapter(_Status),
    "params.json": TypeAdapter(dict[Text, Text]),
    "metrics.json": TypeAdapter(dict[Text, Number]),
    "tags.json": TypeAdapter(dict[Text, Text]),
    "series.json": TypeAdapter(dict[Text, list[tuple[Whole, Whole, Number]]]),
    "target.json": TypeAdapter(_Target),
    "published.json": TypeAdapter(_Published),
    "uploaded.json": TypeAdapter(_Uploaded),
}
NUMERIC = [SHAPES["metrics.json"], SHAPES["series.json"]]  # whose shape refuses what is not finite


def read_json(folder: Path, name: str, read: Callable[[Path, str], bytes] = read_inside) -> dict[str, Any]:
    """The object in the file ``name`` of the record ``folder``. Empty if there is no such file.

    A file of :data:`SHAPES` has what it is to have. Raises DamagedRecord for everything else.
    """
    try:
        data = read(folder, name)
    except FileNotFoundError:
        return {}
    return parse_json(data, f"{folder}/{name}", SHAPES.get(name))


def parse_json(data: bytes, what: str, shape: TypeAdapter[Any] | None = None) -> dict[str, Any]:
    """The JSON object in ``data``. Raises DamagedRecord, which names ``what``, if it holds anything else."""
    try:
        text = data.decode()
        value = json.loads(text, parse_constant=_refuse, parse_float=None if shape in NUMERIC else _finite)
        if "\\u" in text and SURROGATE.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
        if text.count("[") + text.count("{") > DEEPEST:
            _refuse_depth(value, DEEPEST)
        if shape is not None:
            shape.validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"][:3]))
        raise DamagedRecord(_line(what, f"{place}: {fault['msg']}" if place else fault["msg"])) from None
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(_line(what, str(error))) from None
    return value


def _line(what: str, reason: str) -> str:
    return f"{what}: not what a run wrote ({' '.join(reason.split())[:300]})"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _refuse_depth(value: Any, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise ValueError(f"lists and objects within each other, more than {DEEPEST} deep")
        for one in value.values() if isinstance(value, dict) else value:
            _refuse_depth(one, left - 1)
