"""What a page says of a selector, and of the selectors and filters within it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_datasel import selectors
from hf_datasel.cards.facts import Method
from hf_datasel.selection.display import method_name

__all__ = ["method", "of_choosing"]

_BY_DEFAULT = "Before every epoch, "
"""How a selector that chooses anew says when it does."""
_OF_CHOOSING = (
    "reselection_strategy",
    "reselection_steps",
    "selection_schedule",
    "scoring_dtype",
    "reuse_training_loss",
)


def method(spec: Mapping[str, Any], run: Mapping[str, Any] | None) -> Method:
    """What a page says of a selector.

    Args:
        spec: of the selector, without paths.
        run: settings of the training run that it chose for, where they differ from their defaults; None where it
            chose without training.
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
        "about": " ".join(each.replace(_BY_DEFAULT, _when(run)) for each in said),
        "settings": {key: value for key, value in spec.items() if key != "selector"} | of_choosing(run or {}),
        "citation": "\n\n".join(dict.fromkeys(kind.citation for kind in kinds if kind.citation)),
    }


def of_choosing(run: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a training run that the choice of its rows depends on."""
    return {name: run[name] for name in _OF_CHOOSING if run.get(name) is not None}


def _when(run: Mapping[str, Any] | None) -> str:
    """When a selector chose that chooses anew where it is let."""
    if run is None:
        return "Once, "
    strategy, steps = run.get("reselection_strategy", "epoch"), run.get("reselection_steps")
    often = "Before every update, " if steps == 1 else f"Every {steps} updates, "
    return {"steps": often, "no": "Once, before training, "}.get(strategy, _BY_DEFAULT)


def _specs_in(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The selector's spec, and those of the selectors and filters within."""
    settings = [part for each in spec.values() for part in (each if isinstance(each, list | tuple) else [each])]
    inner = [each for each in settings if isinstance(each, Mapping) and ("selector" in each or "filter" in each)]
    return [spec, *(found for each in inner for found in _specs_in(each))]


def _name(spec: Mapping[str, Any]) -> str:
    return str(spec["selector"] if "selector" in spec else spec["filter"])


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
