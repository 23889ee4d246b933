"""Division of a round's budget over groups of rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.strategies.clusters import quotas

__all__ = ["group_quotas"]


def group_quotas(
    context: RoundContext,
    ids: np.ndarray,
    shares: Literal["proportional", "equal"] | dict[int, float],
    eligible: np.ndarray,
) -> dict[int, int]:
    """Divide the budget of a round over groups.

    If each round adds rows to the previous ones, a group keeps at least its earlier rows. (Rounding by largest
    remainders alone could give it fewer.) The remaining budget is divided over the other groups.

    Args:
        context: Context of the round.
        ids: Group of each row, int64 of shape (rows,), below 0 for none.
        shares: Shares of the groups, as `quotas` takes them.
        eligible: Rows that can be selected, bool of shape (rows,).

    Returns:
        Number of rows by group.
    """
    minimum, fixed = _rows_of_earlier_rounds(context, ids, eligible), dict[int, int]()
    budget = min(context.budget, int(eligible.sum()))
    while True:
        free = eligible & ~np.isin(ids, list(fixed))
        quota = {**quotas(ids, budget - sum(fixed.values()), shares, eligible=free), **fixed}
        too_low = {group: rows for group, rows in minimum.items() if quota[group] < rows}
        if not too_low:
            return quota
        fixed |= too_low


def _rows_of_earlier_rounds(context: RoundContext, ids: np.ndarray, eligible: np.ndarray) -> dict[int, int]:
    """Return the rows of each group that were selected before and are trained on again in this round."""
    if not context.is_growing():
        return {}
    earlier = context.selected[: context.budget]
    groups, counts = np.unique(ids[earlier[eligible[earlier]]], return_counts=True)
    return dict(zip(groups.tolist(), counts.tolist(), strict=True))
