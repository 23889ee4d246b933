"""How far scores move while a model trains: the share of the highest-scored rows that others take the place of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypedDict

import numpy as np

from hf_datasel.analysis.binning import significant
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.selection import Selection

__all__ = ["Drift", "DriftPair", "TopReplaced", "drift_between", "drift_by_round", "top_share_replaced"]

_SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


class TopReplaced(TypedDict):
    """How many of the highest-scored rows were not among them before.

    Attributes:
        share: of the rows, that is called the top.
        rows: rows with a score both times; the others are left out.
        left_out: rows with a score at one time alone, or at neither.
        top: rows in the top: `share * rows` rounded down, at least 1.
        replaced: share of the top that was not in it before, 0 to 1.
        chance: what two unrelated scores would give: `1 - top / rows`.
    """

    share: float
    rows: int
    left_out: int
    top: int
    replaced: float
    chance: float


class DriftPair(TypedDict):
    """Two times at which the same rows were scored.

    Attributes:
        before: name of the earlier one.
        after: name of the later one.
        rows: rows with a score both times; the others are left out.
        replaced: share of the top that was not in it before, for each share of the drift.
        chance: what two unrelated scores would give, for each share.
    """

    before: str
    after: str
    rows: int
    replaced: list[float]
    chance: list[float]


class Drift(TypedDict):
    """What of the top is replaced between every two times, for several sizes of the top.

    Attributes:
        column: the score.
        shares: of the rows, that are called the top; rising.
        pairs: times next to each other first, then those further apart.
    """

    column: str
    shares: list[float]
    pairs: list[DriftPair]


def top_share_replaced(
    before: np.ndarray, after: np.ndarray, share: float = 0.05, high: float | None = None
) -> TopReplaced:
    """Say what share of the highest-scored rows was not among the highest-scored ones before.

    Jia et al. 2024 (2412.17365, section 1) report 55.31 % for the top 5 % by IFD after one epoch on Alpaca, which is
    why IterIT chooses anew in each epoch. Ties go to the lower row, so rows of equal score do not count as replaced.

    Args:
        before: a score of each row, of shape (rows,); NaN or None where it has none.
        after: the same score of the same rows, later.
        share: of the rows with a score both times, above 0 and at most 1.
        high: rows that score this or more are in no top at that time, though they count as rows. 1.0 suits IFD: rows
            of 1 or more are never chosen by it.

    Raises:
        SelectionError: arrays of different shapes, no row with a score both times, or a top that `high` leaves too few
            rows for.
        ConfigError: a share that is none.

    >>> before = np.array([0.9, 0.8, 0.7, 0.6, 0.5, np.nan])
    >>> after = np.array([0.9, 0.3, 0.8, 0.6, 0.5, 0.9])
    >>> top_share_replaced(before, after, share=0.4)
    {'share': 0.4, 'rows': 5, 'left_out': 1, 'top': 2, 'replaced': 0.5, 'chance': 0.6}
    """
    _check_shares([share])
    one, other = _known_both_times(before, after)
    replaced, top = _replaced(_ranked(one, high), _ranked(other, high), len(one), share)
    return {
        "share": share,
        "rows": len(one),
        "left_out": len(before) - len(one),
        "top": top,
        "replaced": significant(replaced),
        "chance": significant(1 - top / len(one)),
    }


def drift_between(
    column: str, scored: Mapping[str, np.ndarray], shares: Sequence[float] = _SHARES, high: float | None = None
) -> Drift:
    """Say what share of the highest-scored rows is replaced between every two times, for several sizes of the top.

    Args:
        column: name of the score.
        scored: name of the time -> score of each row, of shape (rows,), in order of time; NaN or None for none.
        shares: of the rows with a score at both times, above 0 and at most 1.
        high: as in `top_share_replaced`.

    Raises:
        SelectionError: fewer than two times, or what `top_share_replaced` raises.
        ConfigError: no shares, or one that is none.

    >>> base, tuned = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.6, 0.8, 0.7, 0.9])
    >>> drift_between("ifd", {"base": base, "epoch 1": tuned}, shares=[0.25, 0.5])["pairs"][0]["replaced"]
    [1.0, 0.5]
    """
    _check_shares(shares)
    names = list(scored)
    if len(names) < 2:
        raise SelectionError(f"The drift of {column!r} needs scores of at least two times, and got {len(names)}.")
    rising = sorted(shares)
    pairs = sorted(combinations(range(len(names)), 2), key=lambda pair: (pair[1] - pair[0], pair[0]))
    return {
        "column": column,
        "shares": [float(share) for share in rising],
        "pairs": [_pair(names[one], names[other], scored, rising, high) for one, other in pairs],
    }


def drift_by_round(
    selections: Sequence[Selection], column: str, shares: Sequence[float] = _SHARES, high: float | None = None
) -> Drift:
    """Say what share of the highest-scored rows is replaced between every two rounds of a run.

    Two rounds are compared on the rows that both of them scored. After its first round IterIT scores its candidates
    alone, so that there the top is a share of these: where 5 % are chosen with `candidate_factor=3`, the top 5 % of
    the pool are the top third of the candidates. With a `candidate_factor` of 20 it scores again all rows whose IFD
    was below 1 at first.

    Args:
        selections: one a round, in order, such as `trainer.selections`, each with the score in its table.
        column: name of the score, such as `"ifd"`.
        shares: as in `drift_between`.
        high: as in `top_share_replaced`.

    Raises:
        SelectionError: fewer than two selections, one without the score, or two that scored no row in common.
        DatasetMismatchError: the selections are of different datasets.
        ConfigError: no shares, or one that is none.
    """
    if len({selection.provenance["dataset"]["id"] for selection in selections}) > 1:
        raise DatasetMismatchError("The selections were made from different datasets.")
    named = {f"round {selection.provenance['round']}": selection.scores(column) for selection in selections}
    if len(named) < len(selections):
        raise SelectionError(f"Of {len(selections)} selections, two are of the same round. Pass those of one run.")
    return drift_between(column, named, shares, high)


def _pair(
    before: str, after: str, scored: Mapping[str, np.ndarray], shares: Sequence[float], high: float | None
) -> DriftPair:
    one, other = _known_both_times(scored[before], scored[after], f"{before!r} and {after!r}")
    ranked = _ranked(one, high), _ranked(other, high)
    found = [_replaced(*ranked, len(one), share) for share in shares]
    return {
        "before": before,
        "after": after,
        "rows": len(one),
        "replaced": [significant(replaced) for replaced, _ in found],
        "chance": [significant(1 - top / len(one)) for _, top in found],
    }


def _known_both_times(
    before: np.ndarray, after: np.ndarray, who: str = "before and after"
) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)  # None becomes NaN
    if one.shape != other.shape or one.ndim != 1:
        raise SelectionError(
            f"Scores of {who} have shapes {one.shape} and {other.shape}: both have one number for each row."
        )
    known = np.isfinite(one) & np.isfinite(other)
    if not known.any():
        raise SelectionError(f"No row has a score at both times ({who}).")
    return one[known], other[known]


def _ranked(values: np.ndarray, high: float | None) -> np.ndarray:
    """Positions by falling value, ties to the lower one, without those that are too high."""
    order = np.argsort(-values, kind="stable")
    return order if high is None else order[values[order] < high]


def _replaced(before: np.ndarray, after: np.ndarray, rows: int, share: float) -> tuple[float, int]:
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
        raise ConfigError("shares=[] has to hold at least one share of the rows.")
    for share in shares:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(f"share={share!r} has to be a share of the rows, above 0 and at most 1.")
