"""`hf-datasel list`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from hf_datasel.errors import ConfigError

__all__ = ["run"]

_MOST = 60
"""Characters of a default that are shown."""


def run(argv: Sequence[str]) -> None:
    """Print every selector, filter and score: name, what it does, settings with their defaults."""
    from hf_datasel import scores, selectors
    from hf_datasel.rounds.incremental_selector import GrowingSelector
    from hf_datasel.rounds.warmup_selector import WarmedSelector

    if argv:
        raise ConfigError(f"list takes no arguments, and got {' '.join(argv)}.")
    filters = selectors.available_filters()
    groups = (("Selectors", selectors.available()), ("Filters of chain", filters), ("Scores", scores.available()))
    for title, kinds in groups:
        print(f"{title}\n")
        for name, kind in kinds.items():
            print(f"  {name}\n      {_first_paragraph(kind)}")
            if issubclass(kind, GrowingSelector | WarmedSelector):
                print("      trains between its rounds: hf-datasel train")
            settings = ", ".join(_setting(each) for each in fields(kind))
            print(f"      settings: {settings or 'none'}\n")


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _setting(each: Field[Any]) -> str:
    return f"{each.name} (required)" if each.default is MISSING else f"{each.name}={_shown(each)}"


def _shown(each: Field[Any]) -> str:
    """The default; of a long one its beginning, or how many it holds; of a score what differs from its defaults."""
    if is_dataclass(each.default):
        inner = (one for one in fields(each.default) if getattr(each.default, one.name) != one.default)
        said = ", ".join(f"{one.name}={getattr(each.default, one.name)!r}" for one in inner)
        return f"{type(each.default).__name__}({said})"
    whole = repr(each.default)
    if len(whole) <= _MOST:
        return whole
    if isinstance(each.default, tuple):
        return f"({len(each.default)} {each.name})"
    return f"{whole[: _MOST - 2].rstrip()}…{whole[-1]}"
