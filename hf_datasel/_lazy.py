"""Lazy imports, so that importing a package loads neither its modules nor torch."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["lazy_imports", "pc", "torch"]


class _LazyModule(ModuleType):
    """A module that is imported when one of its attributes is first used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import pyarrow.compute as pc
    import torch as torch
else:
    pc = _LazyModule("pyarrow.compute")
    torch = _LazyModule("torch")


def lazy_imports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the names that a package imports under `if TYPE_CHECKING:` importable, each when it is first used.

    Type checkers read the same imports, so the public names of a package are listed once.

    Args:
        package: `__name__` of the package.
        file: `__file__` of its `__init__.py`.

    Returns:
        `__getattr__`, `__dir__` and `__all__` for the package.
    """
    modules: dict[str, str] = {}
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom):
                    modules.update((alias.asname or alias.name, str(statement.module)) for alias in statement.names)
    names = sorted(modules)

    def get_attribute(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(modules[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get_attribute, lambda: names, names
