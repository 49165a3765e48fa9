"""The cells of a sweep, as its parent run keeps them in the artifact ``sweep.json``.

A cell that was not measured, for example because its memory is not enough, has no run of its own. It is only here.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.names import ARTIFACT_SWEEP
from ttt_mlflow.record.json_files import parse_json
from ttt_mlflow.record.recorded_run import RecordedRun, read_artifact

SCHEMA = 1
# done: measured, whatever its verdict. oom: tried, and out of memory. predicted_oom: not tried, because the memory
# model says that it does not fit. skipped: what the model needs is not installed. missing: not measured yet.
SweepState = Literal["done", "oom", "predicted_oom", "skipped", "failed", "killed", "missing", "running"]
DOES_NOT_FIT: tuple[SweepState, ...] = ("oom", "predicted_oom")


class _Part(BaseModel):
    """A part of the file. A newer version may have more fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=(), populate_by_name=True)


class SweepCell(_Part):
    """One configuration of a sweep.

    key: the same for the same configuration in each resumption. config: a RunConfig as JSON. reason: why the state is
    not done, in one line. run_id, record: the cell's MLflow run, and the folder of its record. gpu: its name.
    """

    key: str
    config: dict[str, Any]
    state: SweepState = "missing"
    reason: str | None = None
    run_id: str | None = None
    record: str | None = None
    gpu: str | None = None


def _distinct(cells: tuple[SweepCell, ...]) -> tuple[SweepCell, ...]:
    keys = [cell.key for cell in cells]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"several cells have the key {twice[0]}")
    return cells


class SweepFile(_Part):
    """A sweep: its id, and its cells in the order in which they were asked for."""

    version: Literal[1] = Field(default=1, alias="schema")
    sweep_id: str
    cells: Annotated[tuple[SweepCell, ...], Field(strict=False), AfterValidator(_distinct)]

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """The sweep in ``data``, the content of the file ``what``. Raises DamagedRecord if it holds anything else."""
        value = parse_json(data, what)
        if (version := value.get("schema")) != SCHEMA:
            raise DamagedRecord(f"{what}: schema {version!r}; this version of ttt-mlflow reads schema {SCHEMA}")
        parse_json(data, what, TypeAdapter(cls))
        return cls.model_validate(value)

    def text(self) -> str:
        """The content of the file."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False, allow_nan=False)


def sweep_of(run: RecordedRun) -> SweepFile | None:
    """The cells of a sweep's parent; None for any other run. Raises DamagedRecord if it holds anything else."""
    path = run.artifact(ARTIFACT_SWEEP)
    if path is None:
        return None
    return SweepFile.parse(read_artifact(run, ARTIFACT_SWEEP, path), f"{run.id}: {ARTIFACT_SWEEP.path}")
