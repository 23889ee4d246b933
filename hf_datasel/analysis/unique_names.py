"""Unique names for selections that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_datasel.selection.display import describe_setting, method_name
from hf_datasel.selection.provenance import without_paths

__all__ = ["selection_names"]


def selection_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a unique name for each selection: its method, followed by the settings that differ within the method.

    Args:
        records: Provenance of each selection: `selector` and, if present, `seed`, `round` and `budget`.

    Returns:
        The names, in the order of the records.

    >>> selection_names([{"selector": {"selector": "top", "by": "ifd"}}, {"selector": {"selector": "random"}}])
    ['Top by ifd', 'Random']
    >>> selection_names([{"selector": {"selector": "random"}, "seed": seed} for seed in (0, 1, 1)])
    ['Random (seed=0)', 'Random (seed=1)', 'Random (seed=1) (2)']
    """
    plain = [without_paths(record) for record in records]
    methods = [method_name(record["selector"]) for record in plain]
    settings = [
        {**record["selector"], **{key: record[key] for key in ("seed", "round", "budget") if key in record}}
        for record in plain
    ]
    names = []
    for method, own_settings, record in zip(methods, settings, records, strict=True):
        same_method = [other for name, other in zip(methods, settings, strict=True) if name == method]
        name = method
        if differing := _differing_settings(own_settings, same_method):
            name += f" ({', '.join(f'{key}={describe_setting(value)}' for key, value in differing.items())})"
        names.append(f"{name} (interrupted)" if record.get("interrupted") else name)
    return [
        f"{name} ({names[:index].count(name) + 1})" if name in names[:index] else name
        for index, name in enumerate(names)
    ]


def _differing_settings(settings: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings in which a selection differs from others of the same method, without those that are None."""
    keys = [key for key in settings if any(other.get(key) != settings[key] for other in others)]
    if len(keys) > 1:  # round and budget often follow from another setting that differs
        keys = [key for key in keys if key not in ("round", "budget")] or keys
    return {key: settings[key] for key in keys if settings[key] is not None}
