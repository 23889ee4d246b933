"""The selectors and filters: published methods, one a module, and your own by module and class."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hf_datasel._lazy import lazy_imports
from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.rounds.selector import RowFilter, Selector
from hf_datasel.spec import imported

if TYPE_CHECKING:
    from hf_datasel.rounds.context import Round as Round, RoundPlan as RoundPlan
    from hf_datasel.rounds.ranked_selector import Ranked as Ranked
    from hf_datasel.selectors.all import All as All
    from hf_datasel.selectors.chain import Chain as Chain
    from hf_datasel.selectors.cherry import Cherry as Cherry
    from hf_datasel.selectors.cross_entropy import CrossEntropy as CrossEntropy
    from hf_datasel.selectors.deita import Deita as Deita
    from hf_datasel.selectors.diverse_evol import DiverseEvol as DiverseEvol
    from hf_datasel.selectors.dq import DQ as DQ
    from hf_datasel.selectors.graphfilter import GraphFilter as GraphFilter
    from hf_datasel.selectors.in_range import InRange as InRange
    from hf_datasel.selectors.iterative_kmq import IterativeKMQ as IterativeKMQ
    from hf_datasel.selectors.iterit import IterIT as IterIT
    from hf_datasel.selectors.k_center import KCenter as KCenter
    from hf_datasel.selectors.km_closest import KMClosest as KMClosest
    from hf_datasel.selectors.km_random import KMRandom as KMRandom
    from hf_datasel.selectors.kmq import KMQ as KMQ
    from hf_datasel.selectors.length_km import LengthKM as LengthKM
    from hf_datasel.selectors.less import LESS as LESS
    from hf_datasel.selectors.less_top import LESSTop as LESSTop
    from hf_datasel.selectors.longest import Longest as Longest
    from hf_datasel.selectors.no_near_copies import NoNearCopies as NoNearCopies
    from hf_datasel.selectors.nuggets_top import NuggetsTop as NuggetsTop
    from hf_datasel.selectors.qdit import QDIT as QDIT
    from hf_datasel.selectors.random import Random as Random
    from hf_datasel.selectors.selectit_top import SelectITTop as SelectITTop
    from hf_datasel.selectors.superfiltering import Superfiltering as Superfiltering
    from hf_datasel.selectors.top import Top as Top
    from hf_datasel.selectors.within import (
        Within as Within,
        per_source as per_source,
        within_clusters as within_clusters,
    )
    from hf_datasel.selectors.zip import ZIP as ZIP

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
__all__ += ["RowFilter", "Selector", "available", "available_filters", "by_name", "filter_by_name"]

Kind = TypeVar("Kind")

_NAMED = ("score", "selector", "filter")
"""Keys under which a setting names what it is made of."""


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
            where it takes another selector, {"selector": "top", "by": ...} does, and where it takes a filter,
            {"filter": "in_range", "by": ...}.
        allow_imports: permit the second form, which runs code that the recipe names.

    Raises:
        ConfigError: no such selector, no such setting, or a value that the setting cannot have.
    """
    if not isinstance(name, str) or not isinstance(settings, Mapping | None):
        raise ConfigError(
            f"A selector is named by a text, its settings are a mapping, and not {name!r}, {settings!r}."
        )
    filled = {key: _made(value, allow_imports) for key, value in (settings or {}).items()}
    if ":" in name:
        theirs: type[Selector] = imported(name, Selector, allow_imports)
        return _filled(theirs, name, filled, "in selector_kwargs")
    known = available()
    if name not in known:
        raise ConfigError(
            f"There is no selector {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}. Your own goes "
            "by its module and class, as in my_selector:Mine."
        )
    return _filled(known[name], name, filled, "in selector_kwargs")


def filter_by_name(name: str, settings: Mapping[str, Any] | None = None, allow_imports: bool = False) -> RowFilter:
    """A filter of a `Chain` from its name and settings, as `by_name` makes selectors.

    Args:
        name: `"in_range"`, `"no_near_copies"`, or somebody else's class (`"my_lab.filters:Mine"`).
        settings: its fields, as in `by_name`.
        allow_imports: permit the second form.

    Raises:
        ConfigError: no such filter, no such setting, or a value that the setting cannot have.
    """
    filled = {key: _made(value, allow_imports) for key, value in (settings or {}).items()}
    if ":" in name:
        theirs: type[RowFilter] = imported(name, RowFilter, allow_imports)
        return _filled(theirs, name, filled, "beside filter")
    known = available_filters()
    if name not in known:
        raise ConfigError(
            f"There is no filter {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}. Your own goes by "
            "its module and class, as in my_filters:Mine."
        )
    return _filled(known[name], name, filled, "beside filter")


def _filled(kind: type[Kind], name: str, settings: Mapping[str, Any], where: str) -> Kind:
    """A selector or filter of a class, with settings that were made from their names."""
    takes = fields(cast(Any, kind))
    options = [each.name for each in takes]
    for key in settings:
        if key not in options:
            raise ConfigError(f"{name} has no setting {key!r}.{did_you_mean(key, options)} It has {options}.")
    missing = [each.name for each in takes if _required(each) and each.name not in settings]
    if missing:
        raise ConfigError(f"{name} needs the setting {missing[0]!r}: pass it {where}.")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made from {settings}: {error}") from error
    except ConfigError as error:
        near = next(filter(None, (_misspelt(value, key) for key, value in settings.items())), "")
        raise (ConfigError(f"{error} {near}") if near else error) from None


def _misspelt(value: Any, setting: str) -> str:
    """What was meant by a setting that says {"scores": name, ...} for {"score": name, ...}, as recipes write it."""
    import yaml

    if isinstance(value, tuple):
        return next(filter(None, (_misspelt(each, setting) for each in value)), "")
    if not isinstance(value, Mapping):
        return ""
    for key, named in value.items():
        near = difflib.get_close_matches(str(key), _NAMED, n=1)
        if near and isinstance(named, str):
            meant = {near[0] if each == key else each: value[each] for each in value}
            written = yaml.safe_dump(meant, default_flow_style=True, sort_keys=False, width=math.inf).strip()
            return f"Did you mean {near[0]!r} for {key!r}, as in {setting}: {written}?"
    return ""


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
    """A setting as written in a recipe: {"score": name, ...} is a score; selectors and filters likewise."""
    if isinstance(value, Mapping) and isinstance(value.get("score"), str):
        from hf_datasel import scores

        return scores.by_name(str(value["score"]), {key: each for key, each in value.items() if key != "score"})
    if isinstance(value, Mapping) and isinstance(value.get("selector"), str):
        settings = {key: each for key, each in value.items() if key != "selector"}
        return by_name(str(value["selector"]), settings, allow_imports)
    if isinstance(value, Mapping) and isinstance(value.get("filter"), str):
        settings = {key: each for key, each in value.items() if key != "filter"}
        return filter_by_name(str(value["filter"]), settings, allow_imports)
    if isinstance(value, list):
        return tuple(_made(each, allow_imports) for each in value)
    return value


def available_filters() -> dict[str, type[RowFilter]]:
    """The filters of the package: name in recipes -> class."""
    from hf_datasel.selectors.in_range import InRange
    from hf_datasel.selectors.no_near_copies import NoNearCopies

    return {"in_range": InRange, "no_near_copies": NoNearCopies}
