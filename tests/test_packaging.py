"""The package declares what it imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import hf_datasel

PACKAGE = Path(hf_datasel.__file__).parent
PROJECT = PACKAGE.parent / "pyproject.toml"


def imported_packages() -> set[str]:
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hf_datasel"}


def normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~\[;]", requirement)[0]).lower()


def test_imports_are_declared():
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = (
        extras["eval"] + extras["language"] + extras["math"] + extras["plot"] + extras["scale"] + extras["testing"]
    )
    declared = {normalized(each) for each in project["dependencies"] + optional}
    distributions = packages_distributions()  # of what is installed; extras need not be
    undeclared = {
        name
        for name in imported_packages()
        if not declared & {normalized(each) for each in distributions.get(name, [name])}
    }
    assert undeclared == set()
