"""What the trainer logs of a round."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from hf_datasel.rounds.cache import as_numpy
from hf_datasel.rounds.context import Round
from hf_datasel.selection import Selection

__all__ = ["round_logs"]


def round_logs(
    round: Round, selection: Selection, before: np.ndarray | None, seconds: float, share: float
) -> dict[str, float]:
    """Plain numbers by name, for any `report_to`; what is not finite, such as the mean of no value, is left out.

    Args:
        before: row numbers of the round before, for the Jaccard similarity with them.
        seconds: spent on this selection.
        share: of the run's time so far that went into selecting.
    """
    logs: dict[str, float] = {
        "selection_round": round.index,
        "selection_rows_scored": selection.provenance["rows_scored"],
        "selection_rows": len(selection.indices),
        "selection_seconds": _short(seconds),
        "selection_time_share": _short(share),
    }
    for name, (at, values) in round.scored.items():
        number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
        if number and not name.endswith("cluster_id"):
            chosen = as_numpy(values)[np.isin(at, selection.indices)]
            if not np.isnan(chosen).all():
                logs[f"selection_{name}_mean"] = _short(float(np.nanmean(chosen)))
    logs |= {f"selection_{name}": _short(value) for name, value in round.logs.items()}
    if before is not None and not _grows(round):
        union = np.union1d(before, selection.indices).size
        logs["selection_overlap"] = _short(np.intersect1d(before, selection.indices).size / union)
    return {name: value for name, value in logs.items() if math.isfinite(value)}  # JSON has no other numbers


def _grows(round: Round) -> bool:
    """Whether the round has the rows of those before it, so that what it shares with them says nothing."""
    return bool(round.plan) and round.plan[min(round.index, len(round.plan) - 1)].kind == "growing"


def _short(value: float) -> float:
    return round(value, 4)
