"""The runs of a sweep: the grid that was asked for, its cells, and the order in which they are measured."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ttt_mlflow.config import RunConfig, SweepConfig, as_text
from ttt_mlflow.config.sweep import AXES, LARGEST, PRESETS
from ttt_mlflow.errors import BadInput, on_one_line
from ttt_mlflow.models.registry import find_model, models

KEY_LENGTH = 16
OF_SOME_MODELS = ("inner_net", "decode_path", "attn_impl")
HOW_OFTEN = "retry_invalid"  # not a part of what is measured: how often it is tried
CELLS, DEFAULTS = "cells", "defaults"  # of a YAML file
YAML_TAKES = f"a mapping with `{CELLS}`, a list of mappings of parameters to values, and perhaps `{DEFAULTS}`"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. config: as it was asked for. asks_largest: its batch is to be the largest that fits."""

    config: RunConfig
    asks_largest: bool = False

    @property
    def key(self) -> str:
        """The same for the same run in each resumption of the sweep, on every host."""
        return _hash(_asked(self))

    @property
    def name(self) -> str:
        return self.config.run_name


def cells_of(config: SweepConfig) -> list[Cell]:
    """The cells of the grid, in the order in which they were asked for.

    ``inner_net``, ``decode_path`` and ``attn_impl`` apply to the models that have some, and cells that come out the
    same are one. Raises BadInput for parameters that no run takes, for an empty grid, a file that is not one, and a
    cell that is given twice.
    """
    if config.preset and config.grid:
        raise BadInput(f"grid={config.grid}: preset={config.preset} is given too, which is another grid; give one")
    given = config.of_runs
    if config.grid:
        blocks = [{**block, **given} for block in read_grid(Path(config.grid))]
    else:
        blocks = [{**(PRESETS[config.preset] if config.preset else {}), **given}]
    cells: dict[Cell, int] = {}
    faults: list[str] = []
    for number, block in enumerate(blocks, 1):
        try:
            for cell in _cells_of_block(block):
                before = cells.setdefault(cell, number)
                if before != number:
                    twice = f"{cell.name} is given twice, in the cells {before} and {number}"
                    raise BadInput(f"grid={config.grid}: {twice}; remove one")
        except BadInput as error:
            faults += str(error).splitlines()
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    return list(cells)


def sweep_id(cells: Sequence[Cell]) -> str:
    """Hash of the grid: the same for the same cells, in whatever order and by whatever words they were asked for."""
    return _hash(sorted((_asked(cell) for cell in cells), key=lambda asked: json.dumps(asked, sort_keys=True)))


def interleaved(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in the order in which they are measured: in turns, so that a drift does not fall on one model.

    The first of each row come first, then the second, and every other round goes backwards.
    """
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(_hash({**_asked(cell), "batch": None, "largest": None}), []).append(cell)
    ordered: list[Cell] = []
    for number in range(max(map(len, rows.values()), default=0)):
        turn = [row[number] for row in rows.values() if number < len(row)]
        ordered += turn if number % 2 == 0 else reversed(turn)
    return ordered


def read_grid(path: Path) -> list[dict[str, tuple[Any, ...]]]:
    """The blocks of a YAML file: the values of each parameter. Raises BadInput, in one line, for what is no grid."""
    import yaml

    where = f"grid={on_one_line(path)}"
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadInput(f"{where}: cannot be read ({error.strerror}); give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"{where}: no YAML ({' '.join(str(error).split())[:200]}); it takes {YAML_TAKES}") from None
    if not isinstance(content, dict) or set(content) - {CELLS, DEFAULTS} or not isinstance(content.get(CELLS), list):
        raise BadInput(f"{where}: not a grid; it takes {YAML_TAKES}")
    defaults = _block(content.get(DEFAULTS) or {}, f"{where}: {DEFAULTS}")
    blocks = [
        {**defaults, **_block(block, f"{where}: cell {number}")} for number, block in enumerate(content[CELLS], 1)
    ]
    if not blocks:
        raise BadInput(f"{where}: an empty grid; name at least one run under `{CELLS}`")
    return blocks


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


def _cells_of_block(block: Mapping[str, tuple[Any, ...]]) -> Iterator[Cell]:
    """The cells of one full grid, each once. Raises BadInput with one line for each distinct fault."""
    faults = [
        f"{name}={on_one_line(value)}: given twice; give each value once"
        for name, values in block.items()
        for value, times in Counter(map(as_text, values)).items()
        if times > 1
    ]
    cells: dict[Cell, None] = {}
    outer = [name for name in block if name not in OF_SOME_MODELS]
    for values in product(*(block[name] for name in outer)):
        one = dict(zip(outer, values, strict=True))
        try:
            own = _own_net(one, block.get("inner_net"))
            entry = find_model(_cell(one).config.model_name)
            nets = own or (block.get("inner_net", (None,)) if entry.inner_nets else (None,))
            paths = block.get("decode_path", (None,)) if entry.decode_paths else (None,)
            attentions = block.get("attn_impl", (None,)) if entry.attn_impls else (None,)
            for chosen in product(nets, paths, attentions):
                given = {name: value for name, value in zip(OF_SOME_MODELS, chosen, strict=True) if value is not None}
                cells[_cell({**one, **given})] = None
        except BadInput as error:
            faults += str(error).splitlines()
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    yield from cells


def _own_net(values: dict[str, Any], nets: tuple[Any, ...] | None) -> tuple[str] | None:
    """The inner net of a model that was given as MODEL:INNER_NET, of which ``values`` keeps the model; else None.

    Raises BadInput if inner nets are given besides.
    """
    given = values.get("model_name")
    if not isinstance(given, str) or ":" not in given or given in models():
        return None
    values["model_name"], _, net = given.partition(":")
    if nets is not None:
        raise BadInput(
            f"model_name={given}: inner_net={','.join(map(as_text, nets))} is given too; give one of the two"
        )
    return (net,)


def _cell(values: Mapping[str, Any]) -> Cell:
    """The cell of ``values``. One that asks for the largest batch has a batch of one until that is known."""
    batch = values.get("batch")
    if isinstance(batch, str) and batch.strip().lower() == LARGEST:
        return Cell(RunConfig.parse({**values, "batch": 1}), asks_largest=True)
    return Cell(RunConfig.parse(values))


def _asked(cell: Cell) -> dict[str, Any]:
    asked = cell.config.model_dump(mode="json", exclude={HOW_OFTEN})
    asked = {name: value for name, value in asked.items() if value not in RunConfig.added.get(name, ())}
    return asked | ({"batch": LARGEST} if cell.asks_largest else {})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
