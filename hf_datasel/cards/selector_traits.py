"""Traits of selectors that sentences depend on: whether they draw, rank, filter or shortlist rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["draws_first_round", "draws_rows", "has_filters", "is_ranked", "scores_shortlist"]

_DRAWING = ("dq", "iterative_kmq", "km_random", "kmq", "random")
"""Selectors that draw rows at random."""
_DRAWING_FIRST = ("diverse_evol", "less")
"""Selectors whose first round draws rows that later rounds depend on."""
_UNRANKED = (*_DRAWING, "all", "diverse_evol", "instag_diverse", "k_center", "within", "zip")
"""Selectors whose first rows are not better than their last."""
_INNER = {"chain": "then", "weighted": "method"}
"""Selectors whose rows are ordered by the selector in one of their settings -> that setting."""


def scores_shortlist(facts: Facts) -> bool:
    """Return whether the last round scored, and selected from, only the rows that an earlier round ranked highest."""
    last = facts["rounds"][-1]
    return (
        _ordering_selector(facts) == "iterit"
        and last["round"] > 0
        and 0 < last["rows_scored"] < facts["parent"]["rows"]
    )


def has_filters(facts: Facts) -> bool:
    """Return whether filters excluded rows before the selection."""
    return facts["method"]["selector"] == "chain"


def draws_rows(facts: Facts) -> bool:
    """Return whether the rows were drawn at random."""
    return _ordering_selector(facts) in _DRAWING


def draws_first_round(facts: Facts) -> bool:
    """Return whether the rows of the first round, on which later ones depend, were drawn at random."""
    return _ordering_selector(facts) in _DRAWING_FIRST


def is_ranked(facts: Facts) -> bool:
    """Return whether the rows are ordered from best to worst by a score, rather than in order of selection."""
    return bool(facts["rounds"][-1]["means"]) and _ordering_selector(facts) not in _UNRANKED


def _ordering_selector(facts: Facts) -> str:
    """Return the name of the selector that orders the rows: after filters, or the one whose rows are weighted."""
    name, settings = facts["method"]["selector"], facts["method"]["settings"]
    while name in _INNER:
        settings = settings[_INNER[name]]
        name = settings["selector"]
    return name
