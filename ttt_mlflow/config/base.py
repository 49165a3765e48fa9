"""What all configurations share: validation, text, and the hash of what is measured."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ttt_mlflow.errors import BadInput, on_one_line

NO_TEXT = "no text"
CONFIG_ID_LENGTH = 16  # ids of version 0.1, which follow another rule, have 12 characters


class Configuration(BaseModel):
    """The parameters of one command, one field each. ``None`` means ``auto``."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    entry_point: ClassVar[str]  # of the MLproject file
    how_measured: ClassVar[tuple[str, ...]]  # fields that only set how long and with which tools to measure
    identity: ClassVar[tuple[str, ...]]  # fields that every config_id covers; this never changes
    # Fields that came later -> the values that the program worked with before it had the field. A field enters the
    # config_id only with another value, so that a new field changes no id. The values never follow a new default.
    added: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    takes: ClassVar[Mapping[str, str]]  # field -> its allowed values, in words

    def __init__(self, **values: Any) -> None:
        """Validate ``values`` (strings or typed). Raises :class:`BadInput` with one line for each fault."""
        # pydantic takes no text with half a character, which is what bytes of another encoding become
        faults: dict[str, str] = {name: NO_TEXT for name, value in values.items() if not _is_text(value)}
        try:
            super().__init__(**values | dict.fromkeys(faults, ""))
        except ValidationError as error:
            faults = {str(fault["loc"][0]): fault["type"] for fault in error.errors()} | faults
        if faults:
            raise BadInput("\n".join(self._explain(name, kind, values) for name, kind in faults.items()))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of ``values`` (strings or typed). Raises :class:`BadInput`, one line for each fault."""
        return cls(**values)

    @classmethod
    def no_such_parameter(cls, given: str) -> str:
        """The message for an unknown parameter, in one line."""
        return f"{given}: no such parameter; the parameters are {', '.join(cls.model_fields)}"

    @classmethod
    def _explain(cls, name: str, kind: str, values: Mapping[str, Any]) -> str:
        if kind == "extra_forbidden" or name not in cls.model_fields:
            return cls.no_such_parameter(name)
        return f"{name}={on_one_line(values.get(name))}: not allowed; {name} takes {cls.takes.get(name, 'a text')}"

    def config_id(self, checkpoint_id: str | None = None) -> str:
        """Hash of what is measured. It does not depend on the host, the measurement's length, profilers or the seed.

        checkpoint_id: hash of the checkpoint's content, which stands for its path.
        """
        values = self.model_dump(mode="json")
        covered = {name: values[name] for name in self.identity}
        covered |= {name: values[name] for name, before in self.added.items() if values[name] not in before}
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


def _is_text(value: Any) -> bool:
    """Whether all texts in ``value`` can be written down. Any other value is not looked into."""
    if isinstance(value, tuple | list):
        return all(map(_is_text, value))
    return not isinstance(value, str) or not any("\ud800" <= char <= "\udfff" for char in value)


def defaults_of(kind: type[Configuration]) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items()}


def as_text(value: Any) -> str:
    """The value of one field as the text that the command line accepts for it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return str(value)
