"""Outcome of every row of the pool: selected at a rank, not selected, or excluded for a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import DataselError
from hf_datasel.formats import Pool
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.numbers import at_least
from hf_datasel.selection.replay import Replay, ReplayedRound
from hf_datasel.selectors import Chain, Weighted, get_selector

if TYPE_CHECKING:
    from hf_datasel.selection.result import Selection

__all__ = ["Outcomes", "descending_ranks", "exclusion_bound", "row_outcomes"]


@dataclass(frozen=True)
class Outcomes:
    """What became of every row of the pool.

    Args:
        ranks: Rank among the selected rows, 0 for the best, int64 of shape (rows,); -1 for rows that are not selected.
        reasons: Reasons for which rows could not be selected, in the words of the selection's provenance.
        codes: Position of each row's reason in `reasons`, int64 of shape (rows,); -1 for rows without one.
        unresolved: Reason -> number of rows that were excluded for it, where the selection does not tell which.
        ranked_by: Score whose order is that of the selection; None if there is none.
        highest_first: Whether its highest values were selected first.
        following: Rows that would have been selected next, best first, int64; empty without such a score.
    """

    ranks: np.ndarray
    reasons: list[str]
    codes: np.ndarray
    unresolved: dict[str, int]
    ranked_by: str | None
    highest_first: bool
    following: np.ndarray


def row_outcomes(selection: Selection, pool: Pool, *, run_filters: bool = True) -> Outcomes:
    """Return the outcome of every row, as far as the selection, the text of the rows and columns tell.

    A reason is assigned to rows only if it fits as many as the selection has counted. No model is run.

    Args:
        selection: The selection.
        pool: Rows that it was made from.
        run_filters: Whether the filters of a `Chain` may run again if the scores do not tell which rows they excluded,
            as those that compare texts.
    """
    ranks = np.full(len(pool), -1, dtype=np.int64)
    ranks[selection.indices] = np.arange(len(selection.indices))
    not_eligible, exclusions = selection.provenance["not_eligible"], selection.provenance["exclusions"]
    texts = {reason: np.flatnonzero(pool.reasons == reason) for reason in not_eligible}
    recorded = dict(_recorded(selection, [*not_eligible, *exclusions]))
    rules = [texts, recorded]
    reasons, codes, unresolved = _assigned({**not_eligible, **exclusions}, rules, ranks < 0)
    if run_filters and any(reason in unresolved for reason in exclusions):
        rules = [texts, _replayed(selection, pool), recorded]
        reasons, codes, unresolved = _assigned({**not_eligible, **exclusions}, rules, ranks < 0)
    ranked_by, highest_first, following = _ranking(selection, ranks, codes)
    return Outcomes(ranks, reasons, codes, unresolved, ranked_by, highest_first, following)


def _assigned(
    counts: Mapping[str, int], rules: Sequence[Mapping[str, np.ndarray]], is_other: np.ndarray
) -> tuple[list[str], np.ndarray, dict[str, int]]:
    """Return the reasons that were assigned to rows, the position of each row's reason, and the other reasons.

    Args:
        counts: Number of rows that each reason has excluded, in the order in which the reasons were looked at.
        rules: Rows that each reason fits; the first rule that fits as many rows as were counted is used.
        is_other: Rows that were not selected.
    """
    reasons, codes, unresolved = list[str](), np.full(len(is_other), -1, dtype=np.int64), dict[str, int]()
    for reason, count in counts.items():
        for rule in rules:
            rows = rule.get(reason, np.empty(0, dtype=np.int64))
            rows = rows[(codes[rows] < 0) & is_other[rows]]
            if len(rows) == count:
                codes[rows] = len(reasons)
                reasons.append(reason)
                break
        else:
            unresolved[reason] = count
    return reasons, codes, unresolved


def descending_ranks(values: np.ndarray, bound: float = np.inf) -> np.ndarray:
    """Return the number of rows with a higher value, plus one; 0 for NaN.

    Args:
        values: Float64 of shape (rows,).
        bound: Rows with a value of at least this are not counted for the rows below it.

    Returns:
        Int64 of shape (rows,).

    >>> descending_ranks(np.array([3.0, 9.0, np.nan, 3.0, 1.0]), bound=9).tolist()
    [1, 1, 0, 1, 3]
    """
    ascending = np.sort(values[~np.isnan(values)])
    ranks = len(ascending) - np.searchsorted(ascending, values, side="right") + 1
    excluded = np.isfinite(bound) & at_least(values, bound)
    ranks = np.where(excluded, ranks, ranks - int(np.sum(excluded)))
    return np.where(np.isnan(values), 0, ranks)


def exclusion_bound(selection: Selection, name: str) -> float:
    """Return the value of a score from which on rows were excluded; infinity if none were."""
    matches = (re.fullmatch(r"with (.+) >= (\S+)", reason) for reason in selection.provenance["exclusions"])
    return min((float(match[2]) for match in matches if match and match[1] == name), default=np.inf)


def _recorded(selection: Selection, reasons: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield reasons, with the rows that they fit by the scores and the columns of reasons in the selection."""
    for reason in reasons:
        bound = re.fullmatch(r"with (.+) (>=|<) (\S+)", reason)
        missing = re.fullmatch(r"without (.+)", reason)
        if bound and bound[1] in selection.score_columns:
            values, limit = selection.scores(bound[1]), float(bound[3])
            is_above = at_least(values, limit)
            yield reason, np.flatnonzero(is_above if bound[2] == ">=" else ~is_above & ~np.isnan(values))
        elif missing and missing[1] in selection.score_columns:
            yield reason, np.flatnonzero(np.isnan(selection.scores(missing[1])))
        elif reason == "in no cluster":
            names = [name for name in selection.score_columns if name.endswith("cluster_id")]
            if names:
                ids = selection.scores(names[0])
                yield reason, np.flatnonzero(np.isnan(ids) | (ids < 0))
        else:
            for name in selection.table.column_names:
                if name.endswith("_reason"):
                    values = np.array(selection.table.column(name).to_pylist(), dtype=object)
                    if (values == reason).any():
                        yield reason, np.flatnonzero(values == reason)
                        break


def _replayed(selection: Selection, pool: Pool) -> dict[str, np.ndarray]:
    """Return the rows that the filters of a `Chain` exclude, by reason; empty if they cannot run without a model."""
    spec = dict(selection.provenance["selector"])
    try:
        selector: Selector = get_selector(spec.pop("selector"), spec)
        while isinstance(selector, Weighted):
            selector = selector.method
        if not isinstance(selector, Chain):
            return {}
        context = ReplayedRound(Replay(selection, Engine(pool, None), run_models=False), pool)
        selector.run_filters(context)
        return context.excluded_rows()
    except DataselError:  # a class or a score that is not available: the counts stay unresolved, and are shown
        return {}


def _ranking(selection: Selection, ranks: np.ndarray, codes: np.ndarray) -> tuple[str | None, bool, np.ndarray]:
    """Return the score whose order is that of the selection, its direction, and the rows that would have followed."""
    rows = selection.indices
    others = np.flatnonzero((ranks < 0) & (codes < 0))
    for name in selection.score_columns if len(rows) else ():
        for highest_first in (True, False):
            keys = selection.scores(name) * (-1 if highest_first else 1)
            candidates = others[~np.isnan(keys[others])]
            is_ordered = (keys[rows[:-1]] <= keys[rows[1:]]).all() and not np.isnan(keys[rows]).any()
            if not is_ordered or not len(candidates):
                continue
            if keys[candidates].min() >= keys[rows[-1]] and keys[candidates].max() > keys[rows[0]]:
                return name, highest_first, candidates[np.argsort(keys[candidates], kind="stable")]
    return None, True, np.empty(0, dtype=np.int64)
