"""Greedy selection of texts whose n-grams are not yet covered: the strategy of IterIT and GraphFilter.

The score of a row is `quality x sum of alpha x weight` over its n-grams. Each step selects the row with the highest
score and multiplies `alpha` of each of its n-grams by `decay`. Sources: Jia et al. 2024, "Boosting LLM via Learning
from Data Iteratively and Selectively" (arXiv:2412.17365), Eq. 5 to 8 and Algorithm 1; GraphFilter: Wu et al. 2024.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heappop, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError, check_option
from hf_datasel.strategies._checks import check_budget, check_quality

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Weighting = Literal["smooth-l2", "paper", "graphfilter"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_WORD = re.compile(r"\b\w\w+\b")
_KEY_BITS = 63  # an int64 without its sign


def ngram_greedy(
    texts: Iterable[str],
    quality: npt.ArrayLike,
    budget: SupportsIndex,
    decay: float = 0.1,
    weighting: Weighting = "smooth-l2",
    corpus: Iterable[str] | None = None,
    ngram_range: tuple[int, int] = (1, 3),
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Select rows greedily by quality and by n-grams that no selected row has.

    Every text counts in the document frequencies, whether its row can be selected or not. To count them over the
    candidates only, as IterIT does, pass only the candidates.

    Args:
        texts: n texts: the responses for IterIT (its authors append the end token), the instructions for GraphFilter.
        quality: One number >= 0 per text, shape (n,), such as IFD. Rows with NaN or None are never selected.
        budget: Number of rows to select, at most those with a quality.
        decay: Factor, from 0 to 1, for the weight of the n-grams of a selected row: b of IterIT's Eq. 7; 0 in
            GraphFilter.
        weighting: See `ngram_weights`.
        corpus: Texts for the document frequencies; `texts` by default.
        ngram_range: Shortest and longest n-gram, in words.
        progress: Called after each selected row with the number of rows selected so far.

    Returns:
        int64 positions in order of selection, shape (budget,). Equal scores are in the order of their positions; a
        row without n-grams has score 0 and comes last.

    Raises:
        SelectionError: As in `ngram_weights` and `lazy_greedy`.
        Interrupted: As in `lazy_greedy`.

    >>> ngram_greedy(["red red apples", "red apples", "green pears"], quality=[0.9, 0.8, 0.5], budget=2)
    array([0, 2])
    """
    rows = list(texts)
    values = _checked_quality(quality, len(rows), decay)
    available = int(np.count_nonzero(~np.isnan(values)))
    budget = check_budget("ngram_greedy", budget, available, total=len(rows), without="a quality")
    return lazy_greedy(ngram_weights(rows, weighting, corpus, ngram_range), values, budget, decay, progress)


def lazy_greedy(
    weights: csr_matrix,
    quality: npt.ArrayLike,
    budget: SupportsIndex,
    decay: float,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Select rows by `quality * (weights @ alpha)`, multiplying alpha by `decay` in the columns of each selected row.

    Scores never increase, so a score from an earlier step is an upper bound. The first row of the heap is scored
    again and selected if it stays first, so that only a few rows are scored per step. The result is exact to the last
    bit: the terms of a row are always added in the same order, left to right, and rounding is monotone, so computed
    scores never increase either. scipy also multiplies sparse matrices left to right, so rescoring every row by
    `quality * (weights @ alpha)` at each step selects the same rows (if scipy is compiled with fused multiply-add, up
    to rows whose scores differ in the last bit only).

    Args:
        weights: Finite and >= 0, shape (n, columns).
        quality: Shape (n,), finite and >= 0, or NaN for rows that are never selected.
        budget: Number of rows to select, at most those with a quality.
        decay: Factor from 0 to 1.
        progress: Called after each selected row with the number of rows selected so far.

    Returns:
        int64 positions in order of selection, shape (budget,); equal scores in the order of their positions.

    Raises:
        SelectionError: The budget is more than the rows with a quality; or a weight, a quality or the decay is out of
            range, so that scores could increase and the lazy greedy would not be exact.
        Interrupted: On Ctrl-C during the selection, with the positions selected so far.
    """
    values = _checked_quality(quality, weights.shape[0], decay)
    if weights.nnz and not (weights.data.min() >= 0 and np.isfinite(weights.data.max())):
        raise SelectionError("lazy_greedy needs finite weights >= 0: otherwise a score could increase.")
    from scipy.sparse import csr_matrix

    weights = csr_matrix(weights)  # no copy if it is CSR; in other formats the same attributes mean something else
    data, columns, ends = weights.data, weights.indices, weights.indptr
    alpha = np.ones(weights.shape[1])
    bounds = values * (weights @ alpha)
    selectable = np.flatnonzero(~np.isnan(values))
    budget = check_budget("lazy_greedy", budget, len(selectable), total=len(values), without="a quality")
    selectable = selectable[np.argsort(-bounds[selectable], kind="stable")]
    # A sorted list is a heap. Entries: (-score, position, number of rows selected when it was scored).
    heap = [(score, row, 0) for score, row in zip((-bounds[selectable]).tolist(), selectable.tolist(), strict=True)]
    selected: list[int] = []
    try:
        while len(selected) < budget:
            _, row, step_scored = heap[0]
            span = slice(ends[row], ends[row + 1])
            if step_scored == len(selected):
                heappop(heap)
                selected.append(row)
                alpha[columns[span]] *= decay
                if progress is not None:
                    progress(len(selected))
            else:
                terms = alpha[columns[span]] * data[span]
                # cumsum adds left to right; sum and dot do not, and their rounding could violate the bound.
                score = float(values[row] * terms.cumsum()[-1]) if len(terms) else 0.0
                heapreplace(heap, (-score, row, len(selected)))
    except KeyboardInterrupt:
        raise Interrupted(np.array(selected, dtype=np.int64)) from None
    return np.array(selected, dtype=np.int64)


def ngram_weights(
    texts: Iterable[str],
    weighting: Weighting = "smooth-l2",
    corpus: Iterable[str] | None = None,
    ngram_range: tuple[int, int] = (1, 3),
) -> csr_matrix:
    r"""Compute TF-IDF weights of the n-grams of each text.

    Words are `\b\w\w+\b` of the lower-cased text. With f the count of an n-gram in a text, df the number of texts of
    the corpus that contain it, and N the number of texts in the corpus:

    - `"smooth-l2"`: f x (ln((1 + N) / (1 + df)) + 1), each row divided by its Euclidean norm. This is IterIT's code,
      with the defaults of scikit-learn's `TfidfVectorizer`.
    - `"paper"`: f / (n-grams in the text) x ln(N / df), IterIT's Eq. 5.
    - `"graphfilter"`: f x ln(N / df).

    Args:
        texts: n texts.
        weighting: One of the three weightings.
        corpus: Texts for N and df; `texts` by default. An n-gram that the corpus does not contain has df = 1.
        ngram_range: Shortest and longest n-gram, in words.

    Returns:
        float64 weights >= 0, shape (n, n-grams of the texts): one row per text and one column per n-gram, in
        alphabetical order of the n-grams. An n-gram that is in every text of the corpus has a column, with weight 0
        under `"paper"` and `"graphfilter"`.

    Raises:
        SelectionError: The weighting is unknown, the ngram_range is invalid, or the corpus is empty.

    >>> ngram_weights(["red red apples", "green pears"], "graphfilter", ngram_range=(1, 1)).toarray().round(3)
    array([[0.693, 0.   , 0.   , 1.386],
           [0.   , 0.693, 0.693, 0.   ]])
    """
    check_option(f"weighting={weighting!r}", weighting, get_args(Weighting), SelectionError)
    counts, df, n_docs = _count_ngrams(texts, corpus, ngram_range)
    ones = np.ones(counts.shape[1])
    if weighting == "smooth-l2":
        idf = np.log((1 + n_docs) / (1 + df)) + 1
    else:
        idf = np.log(n_docs / df)
    if weighting == "paper":
        per_row = counts @ ones
    counts.data *= idf[counts.indices]
    if weighting == "smooth-l2":
        from scipy.sparse import csr_matrix

        squares = csr_matrix((counts.data**2, counts.indices, counts.indptr), shape=counts.shape)
        per_row = np.sqrt(squares @ ones)
    if weighting != "graphfilter":
        counts.data /= np.repeat(per_row, np.diff(counts.indptr))
    return counts


def ngrams_of(text: str, ngram_range: tuple[int, int] = (1, 3)) -> list[str]:
    """Return the distinct n-grams of a text, in the order of the columns of `ngram_weights([text])`.

    >>> ngrams_of("Red apples, red pears", ngram_range=(1, 2))
    ['apples', 'apples red', 'pears', 'red', 'red apples', 'red pears']
    """
    words = _WORD.findall(text.lower())
    low, high = ngram_range
    ngrams = {
        tuple(words[start : start + size]) for size in range(low, high + 1) for start in range(len(words) - size + 1)
    }
    return [" ".join(ngram) for ngram in sorted(ngrams)]


def _count_ngrams(
    texts: Iterable[str], corpus: Iterable[str] | None, ngram_range: tuple[int, int]
) -> tuple[csr_matrix, Ints, int]:
    """Count n-grams: return (counts, document frequency of each column, number of documents)."""
    vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
    words, ends = _read(texts, vocabulary.__getitem__)
    n_texts = n_docs = len(ends) - 1
    if corpus is not None:
        # Words that no text contains are read as -1, because their n-grams do not matter.
        more_words, more_ends = _read(corpus, lambda word: vocabulary.get(word, -1))
        n_docs = len(more_ends) - 1
        if n_texts and not n_docs:
            raise SelectionError("corpus has no text. Omit it to count document frequencies over the texts.")
        words, ends = np.concatenate([words, more_words]), np.concatenate([ends, more_ends[1:] + ends[-1]])
    rank = np.empty(len(vocabulary) + 1, dtype=np.int32)
    alphabetical = np.array([vocabulary[word] for word in sorted(vocabulary)], dtype=np.intp)
    rank[alphabetical] = np.arange(1, len(vocabulary) + 1)
    rank[-1] = 0  # for words read as -1
    keys, row_bits = _sorted_keys(rank[words], ends, len(vocabulary), ngram_range)

    first = np.flatnonzero(np.diff(keys, prepend=-1))  # one entry per n-gram and row
    counts_per_entry = np.diff(first, append=len(keys)).astype(np.float64)
    keys = keys[first]
    rows = (keys & ((1 << row_bits) - 1)).astype(np.int32)
    columns = np.cumsum(np.diff(keys >> row_bits, prepend=-1) != 0) - 1
    in_text = rows < n_texts
    width = int(columns[-1]) + 1 if len(columns) else 0
    texts_with = np.bincount(columns[in_text], minlength=width)
    df = texts_with if corpus is None else np.bincount(columns[~in_text], minlength=width)
    occurs = texts_with > 0
    starts = np.concatenate([[0], np.cumsum(texts_with[occurs])])
    from scipy.sparse import csc_matrix

    counts = csc_matrix((counts_per_entry[in_text], rows[in_text], starts), shape=(n_texts, len(starts) - 1))
    return counts.tocsr(), np.maximum(df[occurs], 1), n_docs


def _read(texts: Iterable[str], word_id: Callable[[str], int]) -> tuple[npt.NDArray[np.int32], Ints]:
    """Read texts into one flat array of word ids, and the boundaries of the texts in it."""
    words, ends = array("i"), array("q", [0])
    for text in texts:
        words.extend(map(word_id, _WORD.findall(text.lower())))
        ends.append(len(words))
    return np.frombuffer(words, dtype=np.int32), np.frombuffer(ends, dtype=np.int64)


def _sorted_keys(
    words: npt.NDArray[np.int32], ends: Ints, n_words: int, ngram_range: tuple[int, int]
) -> tuple[Ints, int]:
    """Encode every n-gram and its row as one integer, and sort the integers.

    Words are 1 to n_words; 0 stands for a word to skip and for the end of a shorter n-gram, so that integers sort like
    the n-grams. Sorting integers in place needs neither an argsort nor a dictionary of n-grams, which would use most
    of the memory.

    Returns:
        Sorted keys, and the number of low bits of a key that hold the row.
    """
    low, high = ngram_range
    if not 1 <= low <= high:
        raise SelectionError(f"ngram_range={ngram_range!r} must be (shortest, longest) with 1 <= shortest <= longest.")
    lengths = np.diff(ends)
    words_left = np.repeat(ends[1:], lengths) - np.arange(len(words))  # up to the end of the text
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    fitting = [words_left >= size for size in range(1, high + 1)]
    for size, mask in enumerate(fitting):
        mask[: max(len(words) - size, 0)] &= words[size:] > 0
        if size:
            mask &= fitting[size - 1]
    starts = np.concatenate([np.flatnonzero(mask) for mask in fitting[low - 1 :]])
    sizes = np.repeat(
        np.arange(low, high + 1, dtype=np.int16), [np.count_nonzero(mask) for mask in fitting[low - 1 :]]
    )

    word_bits, row_bits = n_words.bit_length(), len(lengths).bit_length()
    keys, used_bits = np.zeros(len(starts), dtype=np.int64), 0
    for offset in range(high):
        keys, used_bits = _make_room(keys, used_bits, word_bits)
        long_enough = np.flatnonzero(sizes > offset)
        keys[long_enough] |= words[starts[long_enough] + offset]
    keys, _ = _make_room(keys, used_bits, row_bits)
    keys |= rows[starts]
    keys.sort()
    return keys, row_bits


def _make_room(keys: Ints, used_bits: int, bits: int) -> tuple[Ints, int]:
    """Shift keys of `used_bits` bits by `bits`, first renumbering them in their order if the result would not fit."""
    if used_bits + bits > _KEY_BITS:
        distinct, new_keys = np.unique(keys, return_inverse=True)
        keys, used_bits = new_keys.astype(np.int64, copy=False), len(distinct).bit_length()
    return keys << bits, used_bits + bits


def _checked_quality(quality: npt.ArrayLike, n_rows: int, decay: float) -> Floats:
    """Return quality as float64, or raise an error if quality or decay is invalid."""
    values = check_quality(quality, n_rows, "texts")
    if not 0 <= decay <= 1:
        raise SelectionError(
            f"decay={decay!r} must be from 0 to 1: otherwise a score could increase, and the lazy greedy would not be "
            "exact."
        )
    return values
