"""The registry of models.

A model is registered with a name and a factory, here or by another installed package under the entry point group
``ttt_mlflow.models``: an entry point names a :class:`ModelEntry`, or a function that returns several. The rest of the
package finds models only through this module.
"""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelEntry

ENTRY_POINT_GROUP = "ttt_mlflow.models"


_registered: dict[str, ModelEntry] = {}


def register_model(entry: ModelEntry) -> ModelEntry:
    """Register a model by its name. Registering a name twice is an error."""
    if entry.name in _registered:
        raise ValueError(f"model {entry.name!r} is registered already")
    _registered[entry.name] = entry
    return entry


@cache
def _load_all() -> None:
    from ttt_mlflow.models.mamba import model
    from ttt_mlflow.models.ttt import sizes

    installed = [entry for point in entry_points(group=ENTRY_POINT_GROUP) for entry in _entries_of(point)]
    for entry in [*sizes.entries(), *model.entries(), *installed]:
        register_model(entry)


def _entries_of(point: EntryPoint) -> list[ModelEntry]:
    """The entries of another installed package. BadInput names a package that cannot be loaded."""
    try:
        found = point.load()
        found = found() if callable(found) and not isinstance(found, ModelEntry) else found
    except Exception as error:
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        raise BadInput(
            f"{package}: its models ({ENTRY_POINT_GROUP}: {point.name} = {point.value}) cannot be loaded "
            f"({type(error).__name__}: {error}); repair or uninstall it"
        ) from error
    return list(found) if isinstance(found, Iterable) else [found]


def models() -> dict[str, ModelEntry]:
    """All registered models by name, including those of installed packages."""
    _load_all()
    return dict(_registered)


def find_model(name: str) -> ModelEntry:
    """The entry of ``name``. BadInput lists the existing names."""
    known = models()
    if name not in known:
        raise BadInput(f"model_name={name}: no such model; the models are {', '.join(known)}")
    return known[name]
