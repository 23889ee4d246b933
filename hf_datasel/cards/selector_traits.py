"""Traits of selectors that sentences depend on: whether they draw, rank, filter or shortlist rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.base import ModelScore
from hf_datasel.selectors import get_selector
from hf_datasel.spec import list_classes

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = [
    "draws_first_round",
    "draws_from_all",
    "draws_rows",
    "has_filters",
    "is_ranked",
    "runs_model",
    "scores_shortlist",
    "selecting_scores",
    "selector_of",
]

_DRAWING = ("dq", "iterative_kmq", "km_random", "kmq", "random")
"""Selectors that draw rows at random."""
_DRAWING_FIRST = ("diverse_evol", "less")
"""Selectors whose first round draws rows that later rounds depend on."""
_UNRANKED = (*_DRAWING, "all", "diverse_evol", "instag_diverse", "k_center", "within", "zip")
"""Selectors whose first rows are not better than their last."""
_INNER = {"chain": "then", "weighted": "method"}
"""Selectors whose rows are ordered by the selector in one of their settings -> that setting."""


def selector_of(spec: Mapping[str, Any]) -> Selector | None:
    """Return the selector of a spec; None if it needs classes outside this package, which are not imported."""
    settings = dict(spec)
    try:
        return get_selector(settings.pop("selector"), settings)
    except ConfigError:
        return None


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


def draws_from_all(facts: Facts) -> bool:
    """Return whether the rows were drawn at random from the whole pool, so that scores are read for other purposes."""
    names = _nested_names(facts)
    return names[-1] == "random" and "chain" not in names


def selecting_scores(facts: Facts) -> list[dict[str, Any]]:
    """Return the specs of the scores that rows were selected by, without that of `selection_order`."""
    order = facts["method"]["settings"].get("selection_order")
    by = order.get("by") if isinstance(order, Mapping) else None
    if not isinstance(by, Mapping) or any(part["rows_scored"] for part in facts["rounds"]):
        return facts["scores"]
    return [spec for spec in facts["scores"] if any(spec.get(name) != value for name, value in by.items())]


def runs_model(spec: Mapping[str, Any]) -> bool:
    """Return whether a score runs a model, by its spec; of a score outside hf_datasel, it is assumed."""
    score_class = list_classes("score").get(str(spec.get("score", "")))
    return score_class is None or issubclass(score_class, ModelScore)


def draws_first_round(facts: Facts) -> bool:
    """Return whether the rows of the first round, on which later ones depend, were drawn at random."""
    return _ordering_selector(facts) in _DRAWING_FIRST


def is_ranked(facts: Facts) -> bool:
    """Return whether the rows are ordered from best to worst by a score, rather than in order of selection."""
    return bool(facts["rounds"][-1]["means"]) and _ordering_selector(facts) not in _UNRANKED


def _ordering_selector(facts: Facts) -> str:
    """Return the name of the selector that orders the rows: after filters, or the one whose rows are weighted."""
    return _nested_names(facts)[-1]


def _nested_names(facts: Facts) -> list[str]:
    """Return the names of the selector, and of those inside it down to the one that orders the rows."""
    names, settings = [facts["method"]["selector"]], facts["method"]["settings"]
    while names[-1] in _INNER:
        settings = settings[_INNER[names[-1]]]
        names.append(settings["selector"])
    return names
