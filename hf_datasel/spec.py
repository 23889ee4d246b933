"""Somebody else's selectors and filters, by module and class."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from types import ModuleType
from typing import Any

from hf_datasel.errors import ConfigError, did_you_mean

__all__ = ["imported", "spec_name"]


def spec_name(value: object) -> str:
    """Name of a score, selector or filter in records: its module for ours, `module:Class` for anybody else's."""
    kind = type(value)
    if kind.__module__.startswith(("hf_datasel.scores.", "hf_datasel.selectors.")):
        return kind.__module__.rsplit(".", 1)[-1]
    return f"{kind.__module__}:{kind.__name__}"


def imported(name: str, base: type[Any], allow_imports: bool) -> type[Any]:
    """The class that a dotted name stands for.

    Args:
        name: `"my_selector:Mine"`: a module that can be imported, and a class in it.
        base: what it has to be a subclass of.
        allow_imports: whether the user has permitted it.

    Raises:
        ConfigError: imports are not permitted; there is no such module or class, which says where was looked; or the
            class is none of these.
    """
    said = f"{'Selector' if base.__name__ == 'Selector' else 'Filter'} {name!r}"
    if not allow_imports:
        raise ConfigError(f"{said} is code outside hf_datasel. Pass --allow-imports if you trust it.")
    place, _, attribute = name.partition(":")
    module = _module(place, said, attribute)
    if not hasattr(module, attribute):
        theirs = [each.__name__ for each in vars(module).values() if _is_theirs(each, base, module)]
        raise ConfigError(
            f"{said} cannot be imported: {_file(module)} has no {attribute!r}.{did_you_mean(attribute, theirs)}"
        )
    kind: Any = getattr(module, attribute)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigError(f"{name!r} is not a subclass of hf_datasel.selectors.{base.__name__}.")
    settings = [key for key, each in vars(kind).get("__annotations__", {}).items() if "ClassVar" not in str(each)]
    if settings and "__dataclass_fields__" not in vars(kind):
        raise ConfigError(f"{name!r} has settings ({', '.join(settings)}): put @dataclass(frozen=True) above it.")
    return kind


def _module(name: str, said: str, attribute: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{said} cannot be imported: {name!r} is no module. It is named as in my_selector:Mine.")
    importlib.invalidate_caches()  # its file may be newer than the folder as Python knows it
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        absent = name == missing or name.startswith(f"{missing}.")
        if absent and name.endswith(".py"):
            raise ConfigError(
                f"{said} names a file. Leave .py out: {name.removesuffix('.py')}:{attribute}."
            ) from error
        more = _where(missing) if absent else ""
        raise ConfigError(f"{said} cannot be imported: {error}.{more}") from error
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"{said} cannot be imported: {error}.") from error


def _where(name: str) -> str:
    """Where was looked for a module that is not there, and what there is of nearly the same name."""
    parent, _, last = name.rpartition(".")
    package = getattr(sys.modules.get(parent), "__path__", None)
    if parent and package is None:  # a class of a module, with a dot before it
        return did_you_mean(name, [parent])
    here = os.getcwd()
    folders = list(package) if package is not None else [here]
    near = [each.name for each in pkgutil.iter_modules(folders)]
    looked = f"{did_you_mean(last, near)} Looked for {last}.py or a folder {last}"
    if package is not None:
        return f"{looked} in {', '.join(folders)}."
    if here in [os.path.abspath(each) for each in sys.path]:
        return f"{looked} in the current folder {here} and among what is installed."
    return f"{looked} among what is installed, and not in the current folder {here}."


def _is_theirs(value: object, base: type, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or f"module {module.__name__!r}")
