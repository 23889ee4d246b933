"""Losses that a choice took from training, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["reused", "say_reused"]


def reused(specs: Sequence[Mapping[str, Any]]) -> int:
    """Rows whose losses were taken from training in a choice, as the specs of its scores record it."""
    return max((int((each.get("computed") or {}).get("reused_training_loss") or 0) for each in specs), default=0)


def say_reused(counts: Sequence[int]) -> str:
    """A sentence on losses that were taken from training, of these numbers of rows, one a round; "" where none was."""
    rows = sum(counts)
    if not rows:
        return ""
    together = ", all rounds together," if sum(map(bool, counts)) > 1 else ""
    of = f"The losses of {rows:,} rows{together} were" if rows > 1 else "The loss of 1 row was"
    return (
        f"{of} taken from the training steps of the round before instead of being computed anew, which is an "
        "approximation."
    )
