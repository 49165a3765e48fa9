"""The runs of a sweep: the grid that was asked for, its cells, and the order in which they are measured."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ttt_mlflow.app.sweep.grid_file import read_grid
from ttt_mlflow.config import RunConfig, SweepConfig, as_text
from ttt_mlflow.config.presets import PRESETS
from ttt_mlflow.config.sweep import AXES, LARGEST, NO_YARDSTICK
from ttt_mlflow.errors import BadInput, on_one_line
from ttt_mlflow.models.registry import find_model, models

KEY_LENGTH = 16
# parameters that some models have, in words
OF_SOME_MODELS = {"inner_net": "an inner net", "decode_path": "a choice of decode paths", "attn_impl": "an attention"}
HOW_OFTEN = "retry_invalid"  # not a part of what is measured: how often it is tried


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
    same are one. Raises BadInput for parameters that no run takes or that none of the models has, for an empty grid, a
    file that is not one, and a cell that is given twice.
    """
    if config.preset and config.grid:
        raise BadInput(f"grid={config.grid}: preset={config.preset} is given too, which is another grid; give one")
    given = config.of_runs
    own: Sequence[Mapping[str, tuple[Any, ...]]] = [{}]
    if config.grid:
        own = read_grid(Path(config.grid)).blocks
    elif config.preset:
        own = PRESETS[config.preset].blocks
    cells: dict[str, Cell] = {}
    given_in: dict[str, int] = {}
    faults: list[str] = []
    for number, block in enumerate(own, 1):
        try:
            known, unknown = _by_registration(block if config.preset and "model_name" not in given else {})
            for cell in (*_cells_of_block({**block, **known, **given}), *_unregistered({**block, **given, **unknown})):
                cells.setdefault(cell.key, cell)
                before = given_in.setdefault(cell.key, number)
                if config.grid and before != number:
                    twice = f"{cell.name} is given twice, in the cells {before} and {number}"
                    raise BadInput(f"grid={config.grid}: {twice}; remove one")
        except BadInput as error:
            faults += str(error).splitlines()
    faults = faults or [*_without_effect([{**block, **given} for block in own], cells.values())]
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    return list(cells.values())


def _without_effect(blocks: Sequence[Mapping[str, tuple[Any, ...]]], cells: Iterable[Cell]) -> Iterator[str]:
    """What was asked for and is in no cell, since none of the models has such a thing."""
    for name, what in OF_SOME_MODELS.items():
        asked = [text for block in blocks for text in map(as_text, block.get(name, ())) if text != "auto"]
        if asked and not any(getattr(cell.config, name) for cell in cells):
            told = ",".join(dict.fromkeys(asked))
            yield f"{name}={on_one_line(told)}: none of the models of this sweep has {what}; leave it out"
    steps = [text for block in blocks for text in map(as_text, block.get("genlen", ()))]
    if steps and not any(cell.config.mode == "decode" for cell in cells):
        told = ",".join(dict.fromkeys(steps))
        yield f"genlen={on_one_line(told)}: none of the runs of this sweep decodes; leave it out"


def yardstick_of(config: SweepConfig) -> Cell | None:
    """The run that each session of the sweep begins with; None if there is none. Raises BadInput."""
    if config.yardstick == NO_YARDSTICK:
        return None
    block: Mapping[str, tuple[Any, ...]] | None = None
    if config.yardstick:
        block = _words(config.yardstick)
    elif config.grid:
        block = read_grid(Path(config.grid)).yardstick
    elif config.preset and (words := PRESETS[config.preset].yardstick):
        block = _words(words)
    if block is None:
        return None
    shared = {name: value for name, value in config.of_runs.items() if name not in AXES}
    try:
        cells = list(_cells_of_block({**shared, **block}))
    except BadInput as error:
        raise BadInput("\n".join(f"yardstick: {line}" for line in str(error).splitlines())) from None
    if len(cells) != 1 or cells[0].asks_largest:
        raise BadInput("yardstick: it is one run, with a batch that is a number; give one value of each parameter")
    return cells[0]


def _words(text: str) -> dict[str, tuple[str, ...]]:
    """``name=value`` words as a block. Raises BadInput."""
    values: dict[str, tuple[str, ...]] = {}
    for word in text.split():
        name, sign, value = word.partition("=")
        if not sign or name not in RunConfig.model_fields:
            what = RunConfig.no_such_parameter(on_one_line(name)) if sign else f"{on_one_line(word)}: no name=value"
            raise BadInput(f"yardstick={on_one_line(text)}: {what}")
        values[name] = (value,)
    return values


def is_registered(model_name: str) -> bool:
    """Whether there is such a model here."""
    try:
        find_model(model_name)
    except BadInput:
        return False
    return True


def _by_registration(block: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models of a preset that are registered, and those that are not, each as a part of a block."""
    if "model_name" not in block:
        return {}, {"model_name": ()}
    known = tuple(name for name in block["model_name"] if is_registered(name.partition(":")[0]))
    unknown = tuple(name for name in block["model_name"] if name not in known)
    return {"model_name": known}, {"model_name": unknown}


def _unregistered(block: Mapping[str, tuple[Any, ...]]) -> Iterator[Cell]:
    """The cells of models that are not here, which nobody asks about them."""
    outer = [name for name in block if name != "inner_net"]
    for values in product(*(block[name] for name in outer)):
        yield _cell(dict(zip(outer, values, strict=True)))


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
        if one.get("mode") == "prefill":
            one.pop("genlen", None)  # it decodes nothing: what differs in this alone is one cell
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
