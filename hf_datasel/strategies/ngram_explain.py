"""Why the n-gram greedy chose a row, or did not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.strategies.ngram import Floats, Ints, Weighting, ngram_weights, ngrams_of


class PickExplanation(TypedDict):
    """What decided about one row. Scores only ever fall: each row chosen has at most the score of the one before."""

    step: int | None
    """Rows chosen before it; None for a row that was not chosen."""
    score: float
    """Its score when it was chosen, or after all choices; NaN for a row without a quality."""
    best: float
    """Its score before anything was chosen, which is the highest it can have."""
    last_chosen: float | None
    """The score of the row that was chosen last, when it was: what a row that was not chosen had to beat."""
    ngrams: list[tuple[str, float, int]]
    """Its n-grams of the largest weight: (n-gram, weight, rows with it that had been chosen before)."""


def explain_pick(
    texts: Sequence[str],
    quality: npt.ArrayLike,
    chosen: npt.ArrayLike,
    position: int,
    decay: float = 0.1,
    weighting: Weighting = "smooth-l2",
    corpus: Iterable[str] | None = None,
    ngram_range: tuple[int, int] = (1, 3),
    n_ngrams: int = 10,
) -> PickExplanation:
    """Explain one row of a choice by `ngram_greedy`, from the texts alone: no matrix of the whole pool is built.

    Args:
        texts: The n texts that were chosen from.
        quality: As it was given to `ngram_greedy`, shape (n,).
        chosen: The positions that it returned, in order.
        position: The row to explain, chosen or not.
        decay: As it was given to `ngram_greedy`.
        weighting: As it was given to `ngram_greedy`.
        corpus: As it was given to `ngram_greedy`.
        ngram_range: As it was given to `ngram_greedy`.
        n_ngrams: How many n-grams to list, those of the largest weight first, equal ones in alphabetical order.

    Returns:
        Scores equal to those of the greedy but for rounding.

    Raises:
        SelectionError: A position is none of the n texts, or as `ngram_weights`.

    >>> texts = ["red apples and green pears", "red apples", "blue whales"]
    >>> found = explain_pick(texts, [0.9, 0.8, 0.1], chosen=[0, 2], position=1, weighting="graphfilter", n_ngrams=2)
    >>> found["step"], round(found["score"], 3), round(found["best"], 3), found["ngrams"][0][::2]
    (None, 0.097, 0.973, ('apples', 1))
    """
    order = np.asarray(chosen, dtype=np.int64).tolist()
    wrong = [row for row in (position, *order) if not 0 <= row < len(texts)]
    if wrong:
        raise SelectionError(f"explain_pick: position {wrong[0]} is none of the {len(texts):,} texts.")
    values = np.asarray(quality, dtype=np.float64)
    rows = [position, *order[-1:]]
    weights = ngram_weights([texts[row] for row in rows], weighting, texts if corpus is None else corpus, ngram_range)

    def state(place: int, step: int | None) -> tuple[float, Floats, Ints]:
        times = _times_covered(texts[rows[place]], (texts[row] for row in order[:step]), ngram_range)
        left = weights[place].data * np.power(float(decay), times)
        return float(values[rows[place]] * left.sum()), weights[place].data, times

    step = order.index(position) if position in order else None
    score, weight, times = state(0, step)
    names, largest = ngrams_of(texts[position], ngram_range), np.argsort(-weight, kind="stable")[:n_ngrams]
    return {
        "step": step,
        "score": score,
        "best": float(values[position] * weight.sum()),
        "last_chosen": state(1, -1)[0] if order else None,
        "ngrams": [(names[place], float(weight[place]), int(times[place])) for place in largest],
    }


def _times_covered(text: str, chosen: Iterable[str], ngram_range: tuple[int, int]) -> Ints:
    """Count, for each n-gram of a text, the chosen texts that have it."""
    names = ngrams_of(text, ngram_range)
    wanted, times = set(names), Counter[str]()
    for other in chosen:
        times.update(wanted.intersection(ngrams_of(other, ngram_range)))
    return np.array([times[name] for name in names], dtype=np.int64)
