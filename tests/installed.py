"""Installs packages of other people for a test, as pip leaves them behind."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ttt_mlflow.micro import registry as kernels
from ttt_mlflow.models import registry as models

Install = Callable[..., None]


def install(folder: Path, group: str, module: str, code: str, *points: str) -> None:
    """The package ``module`` with ``code``, and its entry points, such as ``mine = module:entry``."""
    (folder / f"{module}.py").write_text(code)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    name = module.replace("_", "-")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *points, ""]))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages that this process sees until the test ends. Nothing has looked for models and kernels yet."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    own = {name: models._registered[name] for name in models._load_own()}
    monkeypatch.setattr(models, "_registered", own)
    before = set(sys.modules)

    def one(group: str, module: str, code: str, *points: str) -> None:
        install(site, group, module, code, *points)
        importlib.invalidate_caches()
        models._load_plugins.cache_clear()
        kernels.registered.cache_clear()

    yield one
    models._load_plugins.cache_clear()
    kernels.registered.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)):
            del sys.modules[name]
