"""Running a selector's round, and holding its answer against what a selector may answer."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np

from hf_datasel.errors import SelectionError, reason_counts
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector

__all__ = ["ask", "check_budget", "run_round", "shortfall"]

logger = logging.getLogger(__name__)


def ask(selector: Selector, round: Round) -> np.ndarray:
    """Let the selector choose, and hold the answer against its contract.

    Returns:
        int64 row numbers, best first, distinct and eligible, at most as many as the budget.

    Raises:
        SelectionError: rows that no selector may return.
    """
    name = type(selector).__name__
    round.asker = f"Round {round.index} of {name}" if round.index else name
    answer = np.asarray(selector.choose(round))
    if answer.ndim != 1 or (answer.size and not np.issubdtype(answer.dtype, np.integer)):
        raise SelectionError(f"{name}.choose returned {answer.dtype} of shape {answer.shape}, not row numbers.")
    rows = answer.astype(np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= len(round.rows)):
        raise SelectionError(f"{name}.choose returned row numbers outside the {len(round.rows):,} rows of the pool.")
    if len(np.unique(rows)) < len(rows):
        raise SelectionError(f"{name}.choose returned {len(rows) - len(np.unique(rows)):,} rows twice.")
    if not round.eligible[rows].all():
        bad = int((~round.eligible[rows]).sum())
        raise SelectionError(f"{name}.choose returned {bad:,} rows that cannot be trained on (see round.eligible).")
    if len(rows) > round.budget:
        raise SelectionError(f"{name}.choose returned {len(rows):,} rows for a budget of {round.budget:,}.")
    return rows


def run_round(selector: Selector, round: Round, strict: bool = True, asked: str = "") -> np.ndarray:
    """As `ask`, and see that the budget is met.

    Args:
        strict: refuse a shortfall; otherwise it is logged, and what there is comes back.
        asked: how the user asked for the budget, for the message: `"selection_size=5200"`.

    Returns:
        int64 row numbers, best first, distinct and eligible.

    Raises:
        SelectionError: a shortfall under `strict`, or rows that no selector may return.
    """
    rows = ask(selector, round)
    if len(rows) < round.budget:
        asked = asked or f"A budget of {round.budget:,}"
        message = _shortfall(round.rows, round.eligible, round.left_out, len(rows), asked)
        if strict:
            raise shortfall(round, len(rows), asked)
        logger.warning("Round %d: %s The round goes on with these.", round.index, message)
    return rows


def shortfall(round: Round, found: int, asked: str) -> SelectionError:
    """The error that says that only so many rows could be chosen, and why."""
    message = _shortfall(round.rows, round.eligible, round.left_out, found, asked)
    return SelectionError(f"{message} Lower it." if found else message)


def check_budget(budget: int, pool: Pool, eligible: np.ndarray, asked: str) -> None:
    """Refuse a budget above the rows that can be trained on, or no such row at all, before anything is scored.

    Raises:
        SelectionError: says why rows are left out.
    """
    found = int(eligible.sum())
    if budget > found or not found:
        message = _shortfall(pool, eligible, Counter(), found, asked)
        raise SelectionError(f"{message} Lower it." if found else message)


def _shortfall(pool: Pool, eligible: np.ndarray, left_out: Counter[str], found: int, asked: str) -> str:
    why = Counter(left_out)
    why.update(reason for reason in pool.reasons[~eligible].tolist() if reason)
    unexplained = int((~eligible & (pool.reasons == "")).sum())
    if unexplained:
        why["without a label after truncation"] += unexplained
    explained = f" ({reason_counts(why)})" if why else ""
    if not found:
        return f"None of the {len(pool):,} rows can be selected{explained}."
    return f"{asked} is more than the {found:,} of {len(pool):,} rows that can be selected{explained}."
