"""Why rows were left out, in words."""

from __future__ import annotations

import re

from hf_datasel.cards.facts import Facts

__all__ = ["first_drawn", "is_drawn", "is_filtered", "is_ranked", "is_window", "long_reason", "short_reason"]

_DRAWN = ("dq", "iterative_kmq", "km_random", "kmq", "random")
"""Selectors that draw rows."""
_FIRST_DRAWN = ("diverse_evol", "less")
"""Those whose first round draws rows that later ones depend on."""
_UNRANKED = (*_DRAWN, "all", "diverse_evol", "k_center", "within", "zip")
"""Selectors whose first rows are no better than their last."""

_REASONS = {
    "empty_response": ("without a response", "there is nothing to train on"),
    "empty_prompt": ("without a prompt", "there is nothing to answer"),
    "prompt_fills_window": ("with too long a prompt", "nothing of the response is left after truncation"),
    "no_label_after_truncation": ("with too long a prompt", "nothing of the response is left after truncation"),
    "no_prompt_token": ("with a prompt of one token", "there is nothing to foresee it from"),
    "no_response_token": ("without a response token", "the response has no token of its own"),
    "turn_order": ("with turns out of order", "no conversation has its turns in that order"),
    "response_not_found": ("whose response is not found", "the chat template hides where it ends"),
}


def is_window(facts: Facts) -> bool:
    """Whether only those rows were scored for the last choice, and chosen from, that an earlier one had put first."""
    last = facts["choices"][-1]
    return _chooser(facts) == "iterit" and last["round"] > 0 and 0 < last["rows_scored"] < facts["parent"]["rows"]


def is_filtered(facts: Facts) -> bool:
    """Whether filters left rows out before the choice."""
    return facts["recipe"].get("selector") == "chain"


def is_drawn(facts: Facts) -> bool:
    """Whether the rows were drawn at random."""
    return _chooser(facts) in _DRAWN


def first_drawn(facts: Facts) -> bool:
    """Whether rows were drawn at random that the choice depends on."""
    return _chooser(facts) in _FIRST_DRAWN


def is_ranked(facts: Facts) -> bool:
    """Whether the first rows are the best by a score, and not merely those that came first."""
    return bool(facts["choices"][-1]["means"]) and _chooser(facts) not in _UNRANKED


def _chooser(facts: Facts) -> str | None:
    """The selector that orders the rows: in a chain the one after the filters."""
    name, settings = facts["recipe"].get("selector"), facts["recipe"].get("selector_kwargs", {})
    while name == "chain":
        settings = settings["then"]
        name = settings["selector"]
    return name


def short_reason(name: str) -> str:
    return _REASONS[name][0] if name in _REASONS else name.replace(">=", "≥")


def long_reason(name: str) -> str:
    if name in _REASONS:
        return _REASONS[name][1]
    bound = re.fullmatch(r"with (\w+) (>=|<) (.+)", name)
    if bound:
        return f"{bound[1]} has to be {'below' if bound[2] == '>=' else 'at least'} {bound[3]} for this method"
    if name.startswith("near copies by "):
        return "a row that they are near copies of is kept"
    return "there is no value to rank it by" if name.startswith("without ") else ""
