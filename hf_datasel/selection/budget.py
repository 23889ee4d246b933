"""How many rows: as a number, as a share of the pool, or as many as so many tokens hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError

__all__ = ["DEFAULT_RATIO", "TokenBudget", "wanted_rows", "within_tokens"]

DEFAULT_RATIO = 0.05


def wanted_rows(
    pool_size: int, size: int | None, ratio: float | None, names: tuple[str, str] = ("size", "ratio")
) -> int:
    """How many rows a size or a share of the pool means.

    >>> wanted_rows(5200, None, 0.05)
    260

    Raises:
        ConfigError: both are given, or one has a value it cannot have.
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
    """So many tokens, and how many each row has.

    Attributes:
        tokens: to be chosen at most.
        lengths: tokens of each row of the pool, float64 of shape (rows,).
        eligible: rows that can be chosen, bool of shape (rows,).
    """

    tokens: int
    lengths: np.ndarray
    eligible: np.ndarray

    def __post_init__(self) -> None:
        if type(self.tokens) is not int or self.tokens < 1:
            raise ConfigError(f"tokens={self.tokens!r} has to be a number of tokens, an int of at least 1.")
        wrong = np.flatnonzero(self.eligible & ~(self.lengths >= 0))
        if len(wrong):
            raise SelectionError(
                f"tokens={self.tokens:,}: {len(wrong):,} rows that can be chosen have no token count, or one below 0 "
                f"(the first is row {wrong[0]:,}). Filter them out, or name a model, whose tokenizer counts anew."
            )
        if not self.most:
            raise SelectionError(
                f"tokens={self.tokens:,} is less than the shortest row that can be chosen has "
                f"({self.lengths[self.eligible].min():,.0f})."
                if self.eligible.any()
                else f"tokens={self.tokens:,}: none of the {len(self.eligible):,} rows can be chosen."
            )

    @property
    def most(self) -> int:
        """Rows that fit at most: the shortest ones."""
        shortest = np.sort(self.lengths[self.eligible])
        return int(np.searchsorted(np.cumsum(shortest), self.tokens, side="right"))

    def fitting(self, rows: np.ndarray) -> int:
        """How many of the first rows fit."""
        return int(np.searchsorted(np.cumsum(self.lengths[rows]), self.tokens, side="right"))


def within_tokens(choose: Callable[[int], np.ndarray], budget: TokenBudget, nested: bool) -> tuple[int, np.ndarray]:
    """The choice of the most rows that fits into the token budget, and with which number of rows it was made.

    Where a smaller choice is the beginning of a larger one, that is as many of its first rows as fit. Otherwise each
    number of rows is another choice, and the one that comes back fits while that of one row more does not.

    Args:
        choose: number of rows -> as many rows, best first; fewer where there are no more.
        budget: in tokens.
        nested: whether a smaller choice is the beginning of a larger one.

    Returns:
        What `choose` was called with, and the rows; none where it chose none.

    Raises:
        SelectionError: not even the first row fits.
    """
    mean = max(float(budget.lengths[budget.eligible].mean()), 1.0)
    best, made_with, fits, too_many = np.empty(0, dtype=np.int64), 0, 0, budget.most + 1
    trial = min(max(int(1.2 * budget.tokens / mean), 1), budget.most)
    while fits + 1 < too_many:
        rows = choose(trial)
        fitting = budget.fitting(rows)
        if nested and fitting < len(rows):
            best, made_with = rows[:fitting], trial
            break
        if fitting == len(rows):
            best, made_with, fits = rows, trial, trial
            if len(rows) < trial:  # there are no more
                return trial, rows
        else:
            too_many = trial
        trial = min(2 * trial, budget.most) if too_many > budget.most else (fits + too_many) // 2
    if not len(best):
        raise SelectionError(f"tokens={budget.tokens:,}: the first row that is chosen has more. Raise it.")
    return made_with, best
