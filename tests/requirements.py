"""What pyproject.toml asks for, and the versions of constraints.txt."""

import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = [
    Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
]


def dependencies() -> list[Requirement]:
    """What every installation needs."""
    return [Requirement(text) for text in PROJECT["dependencies"]]


def of_extras() -> list[Requirement]:
    """What the extras add; an extra that takes in another one is left out."""
    own = canonicalize_name(PROJECT["name"])
    found = [Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts]
    return [requirement for requirement in found if canonicalize_name(requirement.name) != own]


def lower_bound(requirement: Requirement) -> str:
    """The lowest version that the requirement admits."""
    (lowest,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    return lowest
