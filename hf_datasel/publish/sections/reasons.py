"""Why rows were left out, in words."""

from __future__ import annotations

import re

from hf_datasel.publish.facts import Facts

__all__ = ["is_drawn", "is_ranked", "is_window", "long_reason", "short_reason"]

_DRAWN = ("dq", "iterative_kmq", "km_random", "kmq", "random")
"""Selectors that draw rows."""
_UNRANKED = (*_DRAWN, "all", "diverse_evol", "k_center", "within", "zip")
"""Selectors whose first rows are no better than their last."""

_REASONS = {
    "empty_response": ("without a response", "there is nothing to train on"),
    "empty_prompt": ("without a prompt", "there is nothing to answer"),
    "prompt_fills_window": ("with too long a prompt", "nothing of the response is left after truncation"),
    "no_label_after_truncation": ("with too long a prompt", "nothing of the response is left after truncation"),
    "no_response_token": ("without a response token", "the response has no token of its own"),
    "turn_order": ("with turns out of order", "no conversation has its turns in that order"),
    "response_not_found": ("whose response is not found", "the chat template hides where it ends"),
}


def is_window(facts: Facts) -> bool:
    """Whether only a part of the pool was scored for the last choice, and the choice was among these rows."""
    if _chooser(facts) == "iterative_kmq":  # asks the model about rows that are chosen already
        return False
    return 0 < facts["choices"][-1]["rows_scored"] < facts["parent"]["rows"]


def is_drawn(facts: Facts) -> bool:
    """Whether the rows were drawn at random."""
    return _chooser(facts) in _DRAWN


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
