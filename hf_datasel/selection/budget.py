"""Size of a selection: a number of rows, a share of the pool, or a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError

__all__ = ["DEFAULT_RATIO", "TokenBudget", "resolve_size", "select_within_tokens"]

DEFAULT_RATIO = 0.05


def resolve_size(
    pool_size: int, size: int | None, ratio: float | None, names: tuple[str, str] = ("size", "ratio")
) -> int:
    """Return the number of rows that a size or ratio requests; `DEFAULT_RATIO` without either.

    >>> resolve_size(5200, None, 0.05)
    260

    Args:
        pool_size: Number of rows of the pool.
        size: Number of rows.
        ratio: Share of the pool, above 0 and at most 1. Rounded down, at least one row.
        names: Names of `size` and `ratio` in messages.

    Raises:
        ConfigError: Both are set, or one has a value that is not possible.
    """
    if size is not None and ratio is not None:
        raise ConfigError(f"{names[0]}={size!r} and {names[1]}={ratio!r} say the same thing twice. Pass one of them.")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{names[0]}={size!r} has to be a number of rows, an int of at least 1.")
        return size
    ratio = DEFAULT_RATIO if ratio is None else ratio
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ConfigError(f"{names[1]}={ratio!r} has to be a share of the pool, above 0 and at most 1.")
    return max(int(ratio * pool_size + 1e-9), 1)


@dataclass(frozen=True)
class TokenBudget:
    """Budget in tokens, and the number of tokens of each row.

    Args:
        tokens: Upper bound on the tokens of all selected rows together.
        lengths: Number of tokens of each row of the pool, float64 of shape (rows,).
        eligible: Rows that can be selected, bool of shape (rows,).
    """

    tokens: int
    lengths: np.ndarray
    eligible: np.ndarray

    def __post_init__(self) -> None:
        if type(self.tokens) is not int or self.tokens < 1:
            raise ConfigError(*_of_tokens(self.tokens, " has to be a number of tokens, an int of at least 1."))
        wrong = np.flatnonzero(self.eligible & ~(self.lengths >= 0))
        if len(wrong):
            raise SelectionError(
                *_of_tokens(
                    self.tokens,
                    f": {len(wrong):,} rows that can be selected have no token count, or one below 0 (the first is "
                    f"row {wrong[0]:,}). Filter them out, or pass a model, with whose tokenizer they are counted "
                    "again.",
                )
            )
        if not self.max_rows:
            problem = (
                f" is less than the shortest row that can be selected has ({self.lengths[self.eligible].min():,.0f})."
                if self.eligible.any()
                else f": none of the {len(self.eligible):,} rows can be selected."
            )
            raise SelectionError(*_of_tokens(self.tokens, problem))

    @property
    def max_rows(self) -> int:
        """Largest number of rows that fits: that of the shortest rows."""
        shortest = np.sort(self.lengths[self.eligible])
        return int(np.searchsorted(np.cumsum(shortest), self.tokens, side="right"))

    def num_fitting(self, rows: np.ndarray) -> int:
        """Return how many of the first rows fit into the budget."""
        return int(np.searchsorted(np.cumsum(self.lengths[rows]), self.tokens, side="right"))


def select_within_tokens(
    select: Callable[[int], np.ndarray], budget: TokenBudget, nested: bool
) -> tuple[int, np.ndarray]:
    """Search for the largest selection that fits into a budget of tokens.

    If smaller selections are prefixes of larger ones, the result is the longest prefix that fits. Otherwise each
    number of rows gives a different selection, and the result fits while the selection of one more row does not.

    Args:
        select: Function that returns as many rows as requested, best first; fewer if there are no more.
        budget: Budget in tokens.
        nested: Whether a smaller selection is a prefix of a larger one.

    Returns:
        The number of rows that `select` was called with, and the rows; none if it selected none.

    Raises:
        SelectionError: The first selected row alone exceeds the budget.
    """
    mean_length = max(float(budget.lengths[budget.eligible].mean()), 1.0)
    best, best_size = np.empty(0, dtype=np.int64), 0
    fits, too_large = 0, budget.max_rows + 1  # bounds of a binary search
    size = min(max(int(1.2 * budget.tokens / mean_length), 1), budget.max_rows)
    while fits + 1 < too_large:
        rows = select(size)
        num_fitting = budget.num_fitting(rows)
        if nested and num_fitting < len(rows):
            best, best_size = rows[:num_fitting], size
            break
        if num_fitting == len(rows):
            best, best_size, fits = rows, size, size
            if len(rows) < size:  # there are no more rows to select
                return size, rows
        else:
            too_large = size
        size = min(2 * size, budget.max_rows) if too_large > budget.max_rows else (fits + too_large) // 2
    if not len(best):
        raise SelectionError(*_of_tokens(budget.tokens, ": the first row that is selected has more. Raise it."))
    return best_size, best


def _of_tokens(tokens: object, problem: str) -> tuple[str, str, str]:
    """Return the arguments of an error about a budget of tokens, which has another name on the command line."""
    value = f"{tokens:,}" if type(tokens) is int else repr(tokens)
    return "", f"tokens={value}{problem}", f"selection_tokens={value}{problem}"
