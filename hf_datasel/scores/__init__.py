"""The scores: numbers for rows, as callables for `Dataset.map` and as arguments of `score`. One a module."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from hf_datasel._lazy import lazy_imports
from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.scoring.base import Columns, ModelScore, Score

if TYPE_CHECKING:
    from hf_datasel.scores.cluster import Cluster as Cluster
    from hf_datasel.scores.compressibility import Compressibility as Compressibility
    from hf_datasel.scores.deita_score import DeitaScore as DeitaScore
    from hf_datasel.scores.embedding import Embedding as Embedding
    from hf_datasel.scores.ifd import IFD as IFD
    from hf_datasel.scores.influence import Influence as Influence
    from hf_datasel.scores.judge import Judge as Judge
    from hf_datasel.scores.length import Length as Length
    from hf_datasel.scores.loss import Loss as Loss
    from hf_datasel.scores.nuggets import Nuggets as Nuggets
    from hf_datasel.scores.prompt_loss import PromptLoss as PromptLoss
    from hf_datasel.scores.reward import Reward as Reward
    from hf_datasel.scores.reward_gap import RewardGap as RewardGap
    from hf_datasel.scores.selectit import SelectIT as SelectIT

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
__all__ += ["Columns", "ModelScore", "Score", "available", "by_name", "writer_of"]


def available() -> dict[str, type[Score]]:
    """The scores of the package: module name -> class."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        home = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(home).values():
            if (
                isinstance(value, type)
                and issubclass(value, Score)
                and value.__name__.lower() == module.name.replace("_", "")
            ):
                found[module.name] = value
    return dict(sorted(found.items()))


def writer_of(column: str) -> str | None:
    """The score that writes a column of this name, if one of the package does.

    >>> writer_of("ifd"), writer_of("num_tokens"), writer_of("price")
    ('ifd', 'length', None)
    """
    if column.endswith("_tokens"):
        return (
            "length"
            if column in importlib.import_module("hf_datasel.scores.length").Length("tokens").columns()
            else None
        )
    for name, kind in available().items():
        bare = object.__new__(kind)  # what is written depends on no setting that a score cannot be made without
        if column in bare.columns():
            return name
    return None


def by_name(name: str, settings: Mapping[str, Any] | None = None) -> Score:
    """A score from its name and settings, as recipes and the command line write them.

    Args:
        name: a module of this package that holds a score (`"ifd"`).
        settings: its fields.

    Raises:
        ConfigError: no such score, no such setting, one that is missing, or a value that a setting cannot have.
    """
    known = available()
    if name not in known:
        raise ConfigError(f"There is no score {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}.")
    options = [each.name for each in fields(known[name])]
    for key in settings or {}:
        if key not in options:
            raise ConfigError(f"{name} has no setting {key!r}.{did_you_mean(key, options)} It has {options}.")
    needed = [each.name for each in fields(known[name]) if each.default is each.default_factory is MISSING]
    missing = [key for key in needed if key not in (settings or {})]
    if missing:
        raise ConfigError(
            f"{name} needs the setting {missing[0]!r}: scores_kwargs: {{{name}: {{{missing[0]}: ...}}}}."
        )
    return known[name](**(settings or {}))
