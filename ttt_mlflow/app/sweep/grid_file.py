"""A grid as a YAML file has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ttt_mlflow.config import RunConfig
from ttt_mlflow.config.sweep import AXES
from ttt_mlflow.errors import BadInput, on_one_line

CELLS, DEFAULTS, YARDSTICK = "cells", "defaults", "yardstick"  # of a YAML file
YAML_TAKES = (
    f"a mapping with `{CELLS}`, a list of mappings of parameters to values, and perhaps `{DEFAULTS}` and `{YARDSTICK}`"
)
NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Refuses what is given twice, and leaves numbers as they are written.

    YAML itself would take the last of two, 010 for 8 and 1:30 for 90.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in known if tag not in NUMBERS]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name} is given twice in one mapping, {node.start_mark}")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class GridFile:
    """A grid as a YAML file has it. blocks: the values of each parameter. yardstick: the same of one run."""

    blocks: Sequence[Mapping[str, tuple[Any, ...]]]
    yardstick: Mapping[str, tuple[Any, ...]] | None = None


def read_grid(path: Path) -> GridFile:
    """The grid of a YAML file. Raises BadInput, in one line, for what is none."""
    where = f"grid={on_one_line(path)}"
    try:
        content = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise BadInput(f"{where}: cannot be read ({error.strerror}); give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not YAML ({' '.join(str(error).split())[:200]}); it takes {YAML_TAKES}") from None
    parts = {CELLS, DEFAULTS, YARDSTICK}
    if not isinstance(content, dict) or set(content) - parts or not isinstance(content.get(CELLS), list):
        raise BadInput(f"{where}: not a grid; it takes {YAML_TAKES}")
    defaults = _block(content.get(DEFAULTS) or {}, f"{where}: {DEFAULTS}")
    blocks = [
        {**defaults, **_block(block, f"{where}: cell {number}")} for number, block in enumerate(content[CELLS], 1)
    ]
    if not blocks:
        raise BadInput(f"{where}: an empty grid; name at least one run under `{CELLS}`")
    yardstick = content.get(YARDSTICK)
    return GridFile(blocks, None if yardstick is None else _block(yardstick, f"{where}: {YARDSTICK}"))


def _block(block: Any, where: str) -> dict[str, tuple[Any, ...]]:
    if not isinstance(block, dict):
        raise BadInput(f"{where}: not a mapping of parameters to values; write `name: value` lines")
    values: dict[str, tuple[Any, ...]] = {}
    for name, value in block.items():
        if name not in RunConfig.model_fields:
            raise BadInput(f"{where}: {RunConfig.no_such_parameter(on_one_line(name))}")
        several = tuple(value) if isinstance(value, list) else (value,)
        if not several:
            raise BadInput(f"{where}: {name}: an empty list; give at least one value")
        if len(several) > 1 and name not in AXES:
            raise BadInput(f"{where}: {name} takes one value; give one")
        if any(isinstance(one, list | dict) for one in several):
            raise BadInput(f"{where}: {name}: lists and mappings within a list have no meaning here; give values")
        values[str(name)] = tuple("auto" if one is None else one for one in several)
    return values
