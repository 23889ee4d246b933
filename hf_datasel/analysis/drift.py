"""Drift of a score during training: the share of the highest-scored rows that is replaced by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypedDict

import numpy as np

from hf_datasel.analysis.binning import round_significant
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.scoring.numbers import at_least
from hf_datasel.selection import Selection

__all__ = ["Drift", "DriftPair", "TopReplaced", "drift_between", "drift_by_round", "top_share_replaced"]

_SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


class TopReplaced(TypedDict):
    """Share of the highest-scored rows that were not among the highest-scored ones before.

    Attributes:
        share: Share of the rows that is the top.
        rows: Number of rows with a score at both times.
        unscored: Number of rows without a score at one of the times, which are ignored.
        top: Number of rows in the top: `share * rows` rounded down, at least 1.
        replaced: Share of the top that was not in it before, 0 to 1.
        chance: Value of `replaced` expected for two unrelated scores: `1 - top / rows`.
    """

    share: float
    rows: int
    unscored: int
    top: int
    replaced: float
    chance: float


class DriftPair(TypedDict):
    """Drift between two times.

    Attributes:
        before: Name of the earlier time.
        after: Name of the later time.
        rows: Number of rows with a score at both times; other rows are ignored.
        replaced: Share of the top that was not in it before, for each share of the drift.
        chance: Value of `replaced` expected for two unrelated scores, for each share.
    """

    before: str
    after: str
    rows: int
    replaced: list[float]
    chance: list[float]


class Drift(TypedDict):
    """Drift between every two times, for several sizes of the top.

    Attributes:
        column: Name of the score.
        shares: Shares of the rows that are the top, rising.
        pairs: Every two times, successive times first.
    """

    column: str
    shares: list[float]
    pairs: list[DriftPair]


def top_share_replaced(
    before: np.ndarray, after: np.ndarray, share: float = 0.05, high: float | None = None
) -> TopReplaced:
    """Compute the share of the highest-scored rows that were not among the highest-scored ones before.

    Jia et al. 2024 (2412.17365, section 1) report 55.31 % for the top 5 % by IFD after one epoch on Alpaca, which is
    why IterIT selects again in each epoch. Ties go to the lower row, so that rows of equal score do not count as
    replaced.

    Args:
        before: Score of each row, of shape (rows,); NaN or None for rows without a score.
        after: The same score of the same rows at a later time.
        share: Share of the rows with a score at both times that is the top; greater than 0, at most 1.
        high: Rows that score this or more at a time are not in the top at that time, but count as rows. Use 1.0 for
            IFD, which never selects rows of 1 or more.

    Returns:
        The share, rounded to six significant digits, and the numbers of rows.

    Raises:
        SelectionError: If shapes differ, no row has a score at both times, or `high` excludes too many rows for the
            top.
        ConfigError: If `share` is out of range.

    >>> before = np.array([0.9, 0.8, 0.7, 0.6, 0.5, np.nan])
    >>> after = np.array([0.9, 0.3, 0.8, 0.6, 0.5, 0.9])
    >>> top_share_replaced(before, after, share=0.4)
    {'share': 0.4, 'rows': 5, 'unscored': 1, 'top': 2, 'replaced': 0.5, 'chance': 0.6}
    """
    _check_shares([share])
    scores_before, scores_after = _scored_both_times(before, after)
    rows = len(scores_before)
    replaced, top = _replaced(_ranking(scores_before, high), _ranking(scores_after, high), rows, share)
    return {
        "share": share,
        "rows": rows,
        "unscored": len(before) - rows,
        "top": top,
        "replaced": round_significant(replaced),
        "chance": round_significant(1 - top / rows),
    }


def drift_between(
    column: str, scores: Mapping[str, np.ndarray], shares: Sequence[float] = _SHARES, high: float | None = None
) -> Drift:
    """Compute the share of the highest-scored rows that is replaced between every two times, for several shares.

    Args:
        column: Name of the score.
        scores: Score of each row by name of the time, of shape (rows,), in order of time; NaN or None for rows without
            a score.
        shares: Shares of the rows with a score at both times that are the top; greater than 0, at most 1.
        high: As in `top_share_replaced`.

    Returns:
        The drift between every two times.

    Raises:
        SelectionError: If there are fewer than two times, or `top_share_replaced` raises it.
        ConfigError: If there are no shares, or a share is out of range.

    >>> base, tuned = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.6, 0.8, 0.7, 0.9])
    >>> drift_between("ifd", {"base": base, "epoch 1": tuned}, shares=[0.25, 0.5])["pairs"][0]["replaced"]
    [1.0, 0.5]
    """
    _check_shares(shares)
    names = list(scores)
    if len(names) < 2:
        raise SelectionError(f"The drift of {column!r} needs scores of at least two times, and got {len(names)}.")
    sorted_shares = sorted(shares)
    pairs = sorted(combinations(range(len(names)), 2), key=lambda pair: (pair[1] - pair[0], pair[0]))
    return {
        "column": column,
        "shares": [float(share) for share in sorted_shares],
        "pairs": [_pair(names[before], names[after], scores, sorted_shares, high) for before, after in pairs],
    }


def drift_by_round(
    selections: Sequence[Selection], column: str, shares: Sequence[float] = _SHARES, high: float | None = None
) -> Drift:
    """Compute the share of the highest-scored rows that is replaced between every two rounds of a run.

    Two rounds are compared on the rows that were scored in both. After its first round IterIT scores only its
    candidates, so that the top is a share of these: if 5 % of the rows are selected with `candidate_factor=3`, the top
    5 % of the pool are the top third of the candidates. With `candidate_factor=20`, all rows whose IFD was less than 1
    in the first round are scored again.

    Args:
        selections: Selection of each round, in order, such as `trainer.selections`, each with the score in its table.
        column: Name of the score, such as `"ifd"`.
        shares: As in `drift_between`.
        high: As in `top_share_replaced`.

    Returns:
        The drift between every two rounds.

    Raises:
        SelectionError: If there are fewer than two selections, one does not have the score, or two have no scored row
            in common.
        DatasetMismatchError: If the selections were made from different datasets.
        ConfigError: If there are no shares, or a share is out of range.
    """
    if len({selection.provenance["dataset"]["id"] for selection in selections}) > 1:
        raise DatasetMismatchError("The selections were made from different datasets.")
    scores = {f"round {selection.provenance['round']}": selection.scores(column) for selection in selections}
    if len(scores) < len(selections):
        raise SelectionError(f"Of {len(selections)} selections, two are of the same round. Pass those of one run.")
    return drift_between(column, scores, shares, high)


def _pair(
    before: str, after: str, scores: Mapping[str, np.ndarray], shares: Sequence[float], high: float | None
) -> DriftPair:
    scores_before, scores_after = _scored_both_times(scores[before], scores[after], f"{before!r} and {after!r}")
    rows = len(scores_before)
    rankings = _ranking(scores_before, high), _ranking(scores_after, high)
    results = [_replaced(*rankings, rows, share) for share in shares]
    return {
        "before": before,
        "after": after,
        "rows": rows,
        "replaced": [round_significant(replaced) for replaced, _ in results],
        "chance": [round_significant(1 - top / rows) for _, top in results],
    }


def _scored_both_times(
    before: np.ndarray, after: np.ndarray, names: str = "before and after"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the rows that have one at both times."""
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)  # None becomes NaN
    if first.shape != second.shape or first.ndim != 1:
        raise SelectionError(
            f"Scores of {names} have shapes {first.shape} and {second.shape}: both need one number per row."
        )
    scored = np.isfinite(first) & np.isfinite(second)
    if not scored.any():
        raise SelectionError(f"No row has a score at both times ({names}).")
    return first[scored], second[scored]


def _ranking(values: np.ndarray, high: float | None) -> np.ndarray:
    """Return positions by descending value, ties by position, without values of `high` or more."""
    order = np.argsort(-values, kind="stable")  # float64 holds float32 exactly, so that ties stay ties
    return order if high is None else order[~at_least(values[order], high)]


def _replaced(before: np.ndarray, after: np.ndarray, rows: int, share: float) -> tuple[float, int]:
    """Return the replaced share of the top, and the number of rows in the top."""
    top = max(int(share * rows + 1e-9), 1)
    fewest = min(len(before), len(after))
    if top > fewest:
        raise SelectionError(
            f"The top {share:g} of {rows:,} rows are {top:,}, and only {fewest:,} rows score below `high`. "
            "Lower the share."
        )
    return 1 - np.intersect1d(before[:top], after[:top], assume_unique=True).size / top, top


def _check_shares(shares: Sequence[float]) -> None:
    if not len(shares):
        raise ConfigError("shares=[] has to contain at least one share of the rows.")
    for share in shares:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(f"share={share!r} has to be a share of the rows, above 0 and at most 1.")
