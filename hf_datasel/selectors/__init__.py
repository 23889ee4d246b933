"""Selectors: published methods, one a module, and your own by dotted name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import ModuleType
from typing import Any

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.selectors.all import All
from hf_datasel.selectors.base import Selector, round_off
from hf_datasel.selectors.cross_entropy import CrossEntropy
from hf_datasel.selectors.deita import Deita
from hf_datasel.selectors.dq import DQ
from hf_datasel.selectors.graphfilter import GraphFilter
from hf_datasel.selectors.iterit import IterIT
from hf_datasel.selectors.k_center import KCenter
from hf_datasel.selectors.km_closest import KMClosest
from hf_datasel.selectors.km_random import KMRandom
from hf_datasel.selectors.kmq import KMQ
from hf_datasel.selectors.length_km import LengthKM
from hf_datasel.selectors.less_top import LESSTop
from hf_datasel.selectors.longest import Longest
from hf_datasel.selectors.material import Material, as_numpy
from hf_datasel.selectors.nuggets_top import NuggetsTop
from hf_datasel.selectors.qdit import QDIT
from hf_datasel.selectors.random import Random
from hf_datasel.selectors.round import Round, RoundPlan
from hf_datasel.selectors.running import ask, check_budget, run_round
from hf_datasel.selectors.selectit_top import SelectITTop
from hf_datasel.selectors.superfiltering import Superfiltering
from hf_datasel.selectors.top import Ranked, Top
from hf_datasel.selectors.within import Within, per_source, within_clusters
from hf_datasel.selectors.zip import ZIP

__all__ = [
    "DQ",
    "KMQ",
    "QDIT",
    "ZIP",
    "All",
    "CrossEntropy",
    "Deita",
    "GraphFilter",
    "IterIT",
    "KCenter",
    "KMClosest",
    "KMRandom",
    "LESSTop",
    "LengthKM",
    "Longest",
    "Material",
    "NuggetsTop",
    "Random",
    "Ranked",
    "Round",
    "RoundPlan",
    "SelectITTop",
    "Selector",
    "Superfiltering",
    "Top",
    "Within",
    "as_numpy",
    "ask",
    "available",
    "by_name",
    "check_budget",
    "per_source",
    "round_off",
    "run_round",
    "within_clusters",
]


def available() -> dict[str, type[Selector]]:
    """The selectors of the package: module name -> class."""
    homes = {
        module.name: importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
    }
    found = {name: _class_in(home) for name, home in homes.items()}
    return {name: kind for name, kind in sorted(found.items()) if kind is not None}


def by_name(name: str, settings: Mapping[str, Any] | None = None, allow_imports: bool = False) -> Selector:
    """A selector from its name and settings, as recipes and the command line write them.

    Args:
        name: a module of this package (`"iterit"`), or somebody else's class (`"my_lab.selectors:Mine"`).
        settings: its fields. Where a field takes a score, {"score": "ifd", "model": ...} names one and its settings;
            where it takes another selector, {"selector": "top", "by": ...} does.
        allow_imports: permit the second form, which runs code that the recipe names.

    Raises:
        ConfigError: no such selector, no such setting, or a value that the setting cannot have.
    """
    if not isinstance(name, str) or not isinstance(settings, Mapping | None):
        raise ConfigError(
            f"A selector is named by a text, its settings are a mapping, and not {name!r}, {settings!r}."
        )
    settings = {key: _made(value, allow_imports) for key, value in (settings or {}).items()}
    if ":" in name:
        kind = _imported(name, allow_imports)
    else:
        known = available()
        if name not in known:
            raise ConfigError(
                f"There is no selector {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}."
            )
        kind = known[name]
    options = [each.name for each in fields(kind)]
    for key in settings:
        if key not in options:
            raise ConfigError(f"{name} has no setting {key!r}.{did_you_mean(key, options)} It has {options}.")
    missing = [each.name for each in fields(kind) if _required(each) and each.name not in settings]
    if missing:
        raise ConfigError(f"{name} needs the setting {missing[0]!r}: pass it in selector_kwargs.")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made from {settings}: {error}") from error


def _required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _class_in(module: ModuleType) -> type[Selector] | None:
    """The selector that a module is named for."""
    name = module.__name__.rsplit(".", 1)[-1].replace("_", "")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Selector) and value.__name__.lower() == name:
            return None if inspect.isabstract(value) else value
    return None


def _made(value: Any, allow_imports: bool) -> Any:
    """A setting as written in a recipe: {"score": name, ...} is a score, and {"selector": name, ...} a selector."""
    if isinstance(value, Mapping) and isinstance(value.get("score"), str):
        from hf_datasel import scores

        return scores.by_name(str(value["score"]), {key: each for key, each in value.items() if key != "score"})
    if isinstance(value, Mapping) and isinstance(value.get("selector"), str):
        settings = {key: each for key, each in value.items() if key != "selector"}
        return by_name(str(value["selector"]), settings, allow_imports)
    if isinstance(value, list):
        return tuple(_made(each, allow_imports) for each in value)
    return value


def _imported(name: str, allow_imports: bool) -> type[Selector]:
    if not allow_imports:
        raise ConfigError(f"Selector {name!r} is code outside hf_datasel. Pass --allow-imports if you trust it.")
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: no module name, or ".name"
        raise ConfigError(f"Selector {name!r} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Selector)):
        raise ConfigError(f"{name!r} is not a subclass of hf_datasel.selectors.Selector.")
    return kind
