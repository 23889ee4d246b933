"""Lazy package attributes (PEP 562), so that importing a package does not import its modules."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["lazy_imports"]


def lazy_imports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the names that a package imports under `if TYPE_CHECKING:` importable, each when it is first used.

    Type checkers read the same imports, so the public names of a package are listed once.

    Args:
        package: `__name__` of the package.
        file: `__file__` of its `__init__.py`.

    Returns:
        `__getattr__`, `__dir__` and `__all__` for the package.
    """
    home: dict[str, str] = {}
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom):
                    home.update((alias.asname or alias.name, str(statement.module)) for alias in statement.names)
    names = sorted(home)

    def get_attribute(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(home[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get_attribute, lambda: names, names
