"""Explanations of why `ngram_greedy` selected a row or not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.strategies.ngram import Floats, Ints, Weighting, ngram_weights, ngrams_of


class PickExplanation(TypedDict):
    """Explanation of the decision on one row.

    Scores never increase, so each selected row has at most the score of the row selected before it.

    Attributes:
        step: Number of rows selected before this row; None if it was not selected.
        score: Score when the row was selected, or at the end if it was not; NaN for a row without a quality.
        best: Score before any row was selected, which is the highest score the row can have.
        last_selected: Score with which the last row was selected, which an unselected row would have to exceed; None
            if no row was selected.
        ngrams: N-grams with the largest weights: (n-gram, weight, rows with it that were selected before).
    """

    step: int | None
    score: float
    best: float
    last_selected: float | None
    ngrams: list[tuple[str, float, int]]


def explain_pick(
    texts: Sequence[str],
    quality: npt.ArrayLike,
    selected: npt.ArrayLike,
    position: int,
    decay: float = 0.1,
    weighting: Weighting = "smooth-l2",
    corpus: Iterable[str] | None = None,
    ngram_range: tuple[int, int] = (1, 3),
    n_ngrams: int = 10,
) -> PickExplanation:
    """Explain why `ngram_greedy` selected one row or not, without computing the weights of all texts.

    Args:
        texts: All n texts passed to `ngram_greedy`.
        quality: As passed to `ngram_greedy`, shape (n,).
        selected: The positions that it returned, in order.
        position: Position of the row to explain, selected or not.
        decay: As passed to `ngram_greedy`.
        weighting: As passed to `ngram_greedy`.
        corpus: As passed to `ngram_greedy`.
        ngram_range: As passed to `ngram_greedy`.
        n_ngrams: Number of n-grams to list, by descending weight; equal weights in alphabetical order.

    Returns:
        The explanation. Scores equal those of `ngram_greedy` up to rounding.

    Raises:
        SelectionError: A position is out of range, or as in `ngram_weights`.

    >>> texts = ["red apples and green pears", "red apples", "blue whales"]
    >>> result = explain_pick(texts, [0.9, 0.8, 0.1], selected=[0, 2], position=1, weighting="graphfilter", n_ngrams=2)
    >>> result["step"], round(result["score"], 3), round(result["best"], 3), result["ngrams"][0][::2]
    (None, 0.097, 0.973, ('apples', 1))
    """
    order = np.asarray(selected, dtype=np.int64).tolist()
    wrong = [row for row in (position, *order) if not 0 <= row < len(texts)]
    if wrong:
        raise SelectionError(f"explain_pick: position {wrong[0]} is none of the {len(texts):,} texts.")
    values = np.asarray(quality, dtype=np.float64)
    rows = [position, *order[-1:]]
    weights = ngram_weights([texts[row] for row in rows], weighting, texts if corpus is None else corpus, ngram_range)

    def state(index: int, step: int | None) -> tuple[float, Floats, Ints]:
        counts = _times_covered(texts[rows[index]], (texts[row] for row in order[:step]), ngram_range)
        remaining_weights = weights[index].data * np.power(float(decay), counts)
        return float(values[rows[index]] * remaining_weights.sum()), weights[index].data, counts

    step = order.index(position) if position in order else None
    score, weight, counts = state(0, step)
    names, largest = ngrams_of(texts[position], ngram_range), np.argsort(-weight, kind="stable")[:n_ngrams]
    return {
        "step": step,
        "score": score,
        "best": float(values[position] * weight.sum()),
        "last_selected": state(1, -1)[0] if order else None,
        "ngrams": [(names[index], float(weight[index]), int(counts[index])) for index in largest],
    }


def _times_covered(text: str, selected: Iterable[str], ngram_range: tuple[int, int]) -> Ints:
    """Count, for each n-gram of a text, the selected texts that contain it."""
    names = ngrams_of(text, ngram_range)
    unique_names, counts = set(names), Counter[str]()
    for selected_text in selected:
        counts.update(unique_names.intersection(ngrams_of(selected_text, ngram_range)))
    return np.array([counts[name] for name in names], dtype=np.int64)
