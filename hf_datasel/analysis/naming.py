"""Names that tell selections apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_datasel.selection.display import in_words, method_name
from hf_datasel.selection.provenance import without_paths

__all__ = ["names_of"]


def names_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that tell selections apart: the method, and where two have the same method the settings that differ.

    Args:
        records: provenance of each selection: `selector`, and `seed`, `round` and `budget` as far as they are there.

    >>> names_of([{"selector": {"selector": "top", "by": "ifd"}}, {"selector": {"selector": "random"}}])
    ['Top by ifd', 'Random']
    >>> names_of([{"selector": {"selector": "random"}, "seed": seed} for seed in (0, 1, 1)])
    ['Random (seed=0)', 'Random (seed=1)', 'Random (seed=1) (2)']
    """
    plain = [without_paths(each) for each in records]
    methods = [method_name(each["selector"]) for each in plain]
    settings = [
        {**each["selector"], **{key: each[key] for key in ("seed", "round", "budget") if key in each}}
        for each in plain
    ]
    names = []
    for method, mine in zip(methods, settings, strict=True):
        others = [each for name, each in zip(methods, settings, strict=True) if name == method]
        differ = [key for key in mine if any(each.get(key) != mine[key] for each in others)]
        if len(differ) > 1:  # what follows from a setting, or is of no matter beside one, says nothing
            differ = [key for key in differ if key not in ("round", "budget")] or differ
        said = ", ".join(f"{key}={in_words(mine[key])}" for key in differ if mine[key] is not None)
        names.append(f"{method} ({said})" if said else method)
    names = [
        f"{name} (interrupted)" if each.get("interrupted") else name for name, each in zip(names, records, strict=True)
    ]
    return [f"{name} ({names[:at].count(name) + 1})" if name in names[:at] else name for at, name in enumerate(names)]
