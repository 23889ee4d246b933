"""A round's budget divided over groups of rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hf_datasel.rounds.context import Round
from hf_datasel.strategies.clusters import quotas

__all__ = ["quotas_of"]


def quotas_of(
    round: Round, ids: np.ndarray, shares: Literal["proportional", "equal"] | dict[int, float], can: np.ndarray
) -> dict[int, int]:
    """Rows of each group. Where the rounds grow, they are no fewer than those that the rounds before have of it.

    Largest remainders alone can give a group less of a larger budget. What is left when these groups have what they
    had is divided over the others.

    Args:
        round: whose budget it is.
        ids: group of each row, below 0 for none.
        shares: as `quotas` takes them.
        can: bool, rows that can be chosen.
    """
    least, fixed, budget = _held(round, ids, can), dict[int, int](), min(round.budget, int(can.sum()))
    while True:
        free = can & ~np.isin(ids, list(fixed))
        quota = {**quotas(ids, budget - sum(fixed.values()), shares, eligible=free), **fixed}
        below = {group: rows for group, rows in least.items() if quota[group] < rows}
        if not below:
            return quota
        fixed |= below


def _held(round: Round, ids: np.ndarray, can: np.ndarray) -> dict[int, int]:
    """Rows of each group that the rounds before have chosen and this one trains on again."""
    if not round.plan or round.plan[min(round.index, len(round.plan) - 1)].kind != "growing":
        return {}
    earlier = round.chosen[: round.budget]
    groups, counts = np.unique(ids[earlier[can[earlier]]], return_counts=True)
    return dict(zip(groups.tolist(), counts.tolist(), strict=True))
