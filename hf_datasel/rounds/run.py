"""Run a selector in a round and validate what it returns."""

from __future__ import annotations

import logging
import re
from collections import Counter

import numpy as np

from hf_datasel.errors import FormatError, SelectionError, reason_counts
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.spec import spec_name

__all__ = ["check_budget", "check_texts", "run_round", "run_selector", "shortfall_error"]

logger = logging.getLogger(__name__)

_PYTHON_NAME = re.compile(r"^(size|ratio|tokens)(?==)")
"""Arguments of `select`, which are `selection_size`, `selection_ratio` and `selection_tokens` on the command line."""


def run_selector(selector: Selector, context: RoundContext) -> np.ndarray:
    """Call `selector.select` and validate the returned row numbers.

    Args:
        selector: Selector to run.
        context: Context of the round.

    Returns:
        Int64 row numbers, best first, distinct and eligible, at most `context.budget`.

    Raises:
        SelectionError: The selector returned something else.
    """
    name = type(selector).__name__
    check_texts(selector, context.record.pool)
    context.record.caller = f"Round {context.index} of {name}" if context.index else name
    returned = np.asarray(selector.select(context))
    if returned.ndim != 1 or (returned.size and not np.issubdtype(returned.dtype, np.integer)):
        raise SelectionError(f"{name}.select returned {returned.dtype} of shape {returned.shape}, not row numbers.")
    rows = returned.astype(np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= len(context.pool)):
        raise SelectionError(f"{name}.select returned row numbers outside the {len(context.pool):,} rows of the pool.")
    if len(np.unique(rows)) < len(rows):
        raise SelectionError(f"{name}.select returned {len(rows) - len(np.unique(rows)):,} rows twice.")
    if not context.eligible[rows].all():
        wrong = int((~context.eligible[rows]).sum())
        raise SelectionError(f"{name}.select returned {wrong:,} rows that cannot be trained on (context.eligible).")
    if len(rows) > context.budget:
        raise SelectionError(f"{name}.select returned {len(rows):,} rows for a budget of {context.budget:,}.")
    weights = context.record.weights_of(rows)
    if weights is not None and not weights.any():
        raise SelectionError(
            f"{context.record.caller}: all {len(rows):,} selected rows have weight 0, so nothing would be trained."
        )
    return rows


def check_texts(selector: Selector, pool: Pool) -> None:
    """Raise if a selector reads text that the rows do not have.

    Args:
        selector: The selector.
        pool: The rows.

    Raises:
        FormatError: The rows are tokenized already, or have only a text column.
    """
    for part in selector.reads_text():
        try:
            pool.texts(part, [])
        except FormatError as error:
            raise FormatError(f"{type(selector).__name__} reads the text of rows. {error}") from error


def run_round(selector: Selector, context: RoundContext, strict: bool = True, requested: str = "") -> np.ndarray:
    """Run a selector as `run_selector` does, and check that it returns as many rows as the budget.

    For a selector that keeps all rows, the number of these becomes the budget of the context.

    Args:
        selector: Selector to run.
        context: Context of the round.
        strict: Whether fewer rows are an error; otherwise they are returned, and a warning is logged.
        requested: The budget as the user set it, for the message, such as `"selection_size=5200"`.

    Returns:
        Int64 row numbers, best first, distinct and eligible.

    Raises:
        SelectionError: Fewer rows than the budget with `strict`, or what `run_selector` raises.
    """
    rows = run_selector(selector, context)
    if selector.keeps_all and len(rows):
        context.budget = len(rows)
    if len(rows) < context.budget:
        requested = requested or f"A budget of {context.budget:,}"
        unused = int(context.eligible.sum()) - sum(context.record.exclusions.values()) - len(rows)
        if strict and len(rows) and unused > 0 and ":" in spec_name(selector):
            raise SelectionError(
                f"{type(selector).__name__}.select returned {len(rows):,} rows for a budget of {context.budget:,}, "
                f"and {unused:,} more rows can be selected. It has to return as many rows as the budget, or to report "
                "the rows that it excludes by context.exclude(reason, rows)."
            )
        if strict:
            raise shortfall_error(context, len(rows), requested, selector.shortfall_hint)
        message = _shortfall_message(
            context.record.pool, context.eligible, context.record.exclusions, len(rows), requested
        )
        logger.warning("Round %d: %s The round continues with these rows.", context.index, message)
    return rows


def shortfall_error(context: RoundContext, num_rows: int, requested: str, hint: str = "Lower it.") -> SelectionError:
    """Return the error for a budget that is not met, with the number of rows excluded for each reason.

    Args:
        context: Context after the selector ran.
        num_rows: Number of rows that can be selected.
        requested: The budget as the user set it, such as `"selection_size=5200"`.
        hint: What to do if there are rows.
    """
    exclusions = context.record.exclusions
    return _shortfall_error(context.record.pool, context.eligible, exclusions, num_rows, requested, hint)


def check_budget(budget: int, pool: Pool, eligible: np.ndarray, requested: str, hint: str = "Lower it.") -> None:
    """Raise if the budget exceeds the eligible rows, or if no row is eligible, before anything is scored.

    Args:
        budget: Number of rows to select.
        pool: Rows to select from.
        eligible: Rows that can be trained on, bool of shape (rows,).
        requested: The budget as the user set it, such as `"selection_size=5200"`.
        hint: What to do if there are rows.

    Raises:
        SelectionError: Names the number of rows excluded for each reason.
    """
    num_eligible = int(eligible.sum())
    if budget > num_eligible or not num_eligible:
        raise _shortfall_error(pool, eligible, Counter(), num_eligible, requested, hint)


def _shortfall_error(
    pool: Pool, eligible: np.ndarray, exclusions: Counter[str], num_rows: int, requested: str, hint: str
) -> SelectionError:
    advice = f" {hint}" if num_rows else ""
    message, cli_message = (
        f"{_shortfall_message(pool, eligible, exclusions, num_rows, name)}{advice}"
        for name in (requested, _PYTHON_NAME.sub(r"selection_\g<0>", requested))
    )
    return SelectionError("", message, cli_message)


def _shortfall_message(
    pool: Pool, eligible: np.ndarray, exclusions: Counter[str], num_rows: int, requested: str
) -> str:
    reasons = Counter(exclusions)
    reasons.update(reason for reason in pool.reasons[~eligible].tolist() if reason)
    truncated = int((~eligible & pool.usable).sum())
    if truncated:
        reasons["without a label after truncation"] += truncated
    explained = f" ({reason_counts(reasons)})" if reasons else ""
    if not num_rows:
        return f"None of the {len(pool):,} rows can be selected{explained}."
    return f"{requested} is more than the {num_rows:,} of {len(pool):,} rows that can be selected{explained}."
