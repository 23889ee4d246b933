"""What a page says of a selector, and of the selectors and filters within it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_datasel import selectors
from hf_datasel.publish.facts import Method
from hf_datasel.selectors.naming import method_name

__all__ = ["method"]


def method(spec: Mapping[str, Any]) -> Method:
    """What a page says of a selector.

    Args:
        spec: of the selector, without paths.
    """
    there: dict[str, type[selectors.Selector | selectors.RowFilter]]
    there = {**selectors.available(), **selectors.available_filters()}
    within = [each for each in _specs_in(spec) if _name(each) in there]
    kinds = [there[_name(each)] for each in within]
    said = [_first_paragraph(kind) for kind in kinds]
    if len(said) > 1:
        names = [method_name(each) if "selector" in each else _name(each) for each in within[1:]]
        said = [said[0], *(f"{name}: {about}" for name, about in zip(names, said[1:], strict=True))]
    return {
        "name": method_name(spec),
        "about": " ".join(said),
        "settings": {key: value for key, value in spec.items() if key != "selector"},
        "citation": "\n\n".join(dict.fromkeys(kind.citation for kind in kinds if kind.citation)),
    }


def _specs_in(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The selector's spec, and those of the selectors and filters within."""
    settings = [part for each in spec.values() for part in (each if isinstance(each, list | tuple) else [each])]
    inner = [each for each in settings if isinstance(each, Mapping) and ("selector" in each or "filter" in each)]
    return [spec, *(found for each in inner for found in _specs_in(each))]


def _name(spec: Mapping[str, Any]) -> str:
    return str(spec["selector"] if "selector" in spec else spec["filter"])


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
