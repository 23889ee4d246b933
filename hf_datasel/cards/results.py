"""Checks of evaluation results before they are shown or published."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from hf_datasel.cards.facts import Result
from hf_datasel.cards.typed_json import checked, type_name
from hf_datasel.errors import PublishError

__all__ = ["check_results", "describes_runs"]

_SIMPLE = {"trained_on", "metric", "dataset", "value", "note"}
_NEEDS = {
    "difference": ("versus",),
    "p": ("versus", "difference"),
    "low": ("difference", "high", "confidence"),
    "high": ("difference", "low", "confidence"),
    "values": ("runs",),
    "planned": ("runs",),
    "sd": ("runs",),
}
"""Key -> keys without which it says nothing."""


def check_results(results: Any, name: str) -> list[Result]:
    """Return evaluation results with all keys checked and in order.

    Args:
        results: A list of objects with the keys of `Result`, of which the first five without `note` are required.
        name: Where the results are from, for messages.

    Raises:
        PublishError: An entry is not valid; the message says which, and what is wrong.
    """
    if isinstance(results, str | Mapping) or not isinstance(results, Sequence):
        raise PublishError(f"{name} has to hold a list of results, not {type_name(results)}.")
    complete = [{"note": "", **entry} if isinstance(entry, Mapping) else entry for entry in results]
    typed = cast(list[Result], checked(complete, list[Result], name))
    numbers: dict[tuple[str, str, str], int] = {}
    for index, result in enumerate(typed):
        place = f"{name}[{index}]"
        _check_numbers(result, place)
        _check_keys(result, place)
        key = result["trained_on"], result["metric"], result["dataset"]
        first = numbers.setdefault(key, index)
        if first != index and (describes_runs(result) or describes_runs(typed[first])):
            raise PublishError(
                f"{place} has the same trained_on, metric and dataset as [{first}]: {', '.join(map(repr, key))}. "
                "Combine their runs into one result."
            )
    return typed


def describes_runs(result: Result) -> bool:
    """Return whether a result says more than a number with a note."""
    return not result.keys() <= _SIMPLE


def _check_numbers(result: Result, place: str) -> None:
    """Raise for numbers that are not finite, or outside their range."""
    for key, value in _numbers(result):
        if not math.isfinite(value):
            raise PublishError(f"{place}{key} has to be a number.")
        if key.startswith(("['sd']", "['detectable']", "['cost']", "['task']")) and value < 0:
            raise PublishError(f"{place}{key} is {value:g}, and cannot be below 0.")
    for count in ("runs", "planned", "items", "compared"):
        number = cast(Mapping[str, Any], result).get(count, 1)
        if number < 1:
            raise PublishError(f"{place}[{count!r}] is {number}, and has to be at least 1.")
    if not 0 < result.get("confidence", 0.95) < 1:
        raise PublishError(f"{place}['confidence'] is {result['confidence']:g}, and has to lie between 0 and 1.")
    if not 0 <= result.get("p", 0.5) <= 1:
        raise PublishError(f"{place}['p'] is {result['p']:g}, and has to lie between 0 and 1.")


def _check_keys(result: Result, place: str) -> None:
    """Raise for keys that need others, or contradict them."""
    for key, needed in _NEEDS.items():
        missing = [other for other in needed if other not in result]
        if key in result and missing:
            raise PublishError(f"{place} has {key!r} without {', '.join(map(repr, missing))}.")
    if "low" in result and not result["low"] <= result["difference"] <= result["high"]:
        raise PublishError(
            f"{place}: the difference {result['difference']:g} lies outside its interval [{result['low']:g}, "
            f"{result['high']:g}]."
        )
    if "values" in result and len(result["values"]) != result["runs"]:
        raise PublishError(f"{place}['values'] has {len(result['values'])} numbers, but 'runs' is {result['runs']}.")
    if "planned" in result and result["planned"] < result["runs"]:
        raise PublishError(f"{place} has more 'runs' ({result['runs']}) than 'planned' ({result['planned']}).")
    if result.get("versus") == result["trained_on"]:
        raise PublishError(f"{place} is compared with itself: 'versus' and 'trained_on' are {result['versus']!r}.")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers in a value, with the place of each."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, f"{key}[{name!r}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{key}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, float(value)
