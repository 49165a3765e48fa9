"""The registry of models.

A model is registered with a name and a factory, here or by another installed package under the entry point group
``ttt_mlflow.models``: an entry point names a :class:`ModelEntry`, or a function that returns several. The rest of the
package finds models only through this module.
"""

from functools import cache

from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelEntry
from ttt_mlflow.plugins import Known, Plugin, load_plugins

ENTRY_POINT_GROUP = "ttt_mlflow.models"


_registered: dict[str, ModelEntry] = {}


def register_model(entry: ModelEntry) -> ModelEntry:
    """Register a model by its name. Registering a name twice is an error."""
    if entry.name in _registered:
        raise ValueError(f"model {entry.name!r} is registered already")
    _registered[entry.name] = entry
    return entry


@cache
def _load_own() -> tuple[str, ...]:
    """Register the models of this package. Returns their names."""
    from ttt_mlflow.models.fla import entries as fla
    from ttt_mlflow.models.mamba import model as mamba
    from ttt_mlflow.models.mamba2 import model as mamba2
    from ttt_mlflow.models.transformer import sizes as transformers
    from ttt_mlflow.models.ttt import sizes

    of_families = (sizes, mamba, mamba2, transformers, fla)
    return tuple(register_model(entry).name for family in of_families for entry in family.entries())


@cache
def _load_plugins() -> tuple[Plugin[ModelEntry], ...]:
    _load_own()
    plugins = tuple(load_plugins(ENTRY_POINT_GROUP, "model", ModelEntry, _registered))
    for plugin in plugins:
        for entry in plugin.entries:
            register_model(entry)
    return plugins


def registered() -> Known[ModelEntry]:
    """All registered models, and what is known of the plugins."""
    plugins = _load_plugins()
    return Known(dict(_registered), plugins)


def models() -> dict[str, ModelEntry]:
    """All registered models by name, including those of installed packages."""
    return registered().entries


def find_model(name: str) -> ModelEntry:
    """The entry of ``name``. BadInput lists the existing names, and the packages that cannot be loaded.

    No other package is imported for a model of this one.
    """
    if name in _load_own():
        return _registered[name]
    known = registered()
    if name not in known.entries:
        listed = f"model_name={name}: no such model; the models are {', '.join(known.entries)}"
        raise BadInput("\n".join([listed, *known.broken]))
    return known.entries[name]


def package_of(name: str) -> str | None:
    """The package that has added the model ``name``, with its version; None for a model of this package."""
    return None if name in _load_own() else registered().package_of(name)
