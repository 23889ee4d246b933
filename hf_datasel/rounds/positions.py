"""Why the n-gram greedy took a row, or did not, in words."""

from __future__ import annotations

import numpy as np

from hf_datasel.strategies.ngram_explain import PickExplanation

__all__ = ["place_of", "say_pick"]


def place_of(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each row is among others, -1 for one that is not."""
    order = np.argsort(among)
    at = np.minimum(np.searchsorted(among, rows, sorter=order), max(len(among) - 1, 0))
    if not len(among):
        return np.full(len(rows), -1)
    return np.where(among[order[at]] == rows, order[at], -1)


def say_pick(found: PickExplanation | None, candidates: int) -> list[str]:
    """What decided about a row of the n-gram greedy; None where it was no candidate."""
    if found is None:
        return [f"It was not among the {candidates:,} candidates that the greedy chose from."]
    said = [f"Its score, quality x n-grams not yet covered, was {found['best']:.4g} before anything was chosen"]
    if found["step"] is not None:
        said[0] += f", and {found['score']:.4g} when it was chosen, after {found['step']:,} others."
    else:
        said[0] += f", and {found['score']:.4g} at the end; the row chosen last had {found['last_chosen'] or 0:.4g}."
    shown = [f"{name!r} {weight:.3g}{_times(times)}" for name, weight, times in found["ngrams"]]
    return [*said, f"Its heaviest n-grams: {', '.join(shown)}."] if shown else [*said, "It has no n-gram."]


def _times(times: int) -> str:
    return f" (covered {times:,} times before)" if times > 1 else " (covered once before)" if times else " (new)"
