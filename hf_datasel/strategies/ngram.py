"""Greedy choice of texts whose n-grams are not yet covered: the strategy of IterIT and of GraphFilter.

The score of a row is `quality x sum of alpha x weight` over its n-grams. The best row is taken, `alpha` of each of its
n-grams is multiplied by `decay`, and so on. Sources: Jia et al. 2024, "Boosting LLM via Learning from Data Iteratively
and Selectively" (arXiv:2412.17365), Eq. 5 to 8 and Algorithm 1; GraphFilter: Wu et al. 2024.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heappop, heapreplace
from itertools import count
from typing import Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, csr_matrix

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import check_budget

Weighting = Literal["smooth-l2", "paper", "graphfilter"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_WORD = re.compile(r"\b\w\w+\b")
_KEY_BITS = 63  # of an int64 without its sign


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
    """Choose rows that are good and say something not yet said, one at a time.

    Every text counts in the document frequencies, whether its row can be chosen or not: pass only the candidates to
    fit on the candidates, as IterIT does.

    Args:
        texts: n texts: the responses for IterIT (its authors append the end token), the instructions for GraphFilter.
        quality: One number >= 0 per text, shape (n,), such as IFD. NaN or None: never chosen.
        budget: Rows to choose, at most those with a quality.
        decay: What a choice leaves of the weight of its n-grams, 0 to 1: b of IterIT's Eq. 7; 0 in GraphFilter.
        weighting: See `ngram_weights`.
        corpus: Texts over which document frequencies are counted; the texts themselves when not given.
        ngram_range: Shortest and longest n-gram, in words.
        progress: Called after each row with the number of rows chosen so far.

    Returns:
        int64 positions in order of choice, shape (budget,). Equal scores in the order of their positions; a row
        with no n-gram has score 0 and comes last.

    Raises:
        SelectionError: As `ngram_weights` and `lazy_greedy`.
        Interrupted: As `lazy_greedy`.

    >>> ngram_greedy(["red red apples", "red apples", "green pears"], quality=[0.9, 0.8, 0.5], budget=2)
    array([0, 2])
    """
    rows = list(texts)
    values = _checked_quality(quality, len(rows), decay)
    can_be_chosen = int(np.count_nonzero(~np.isnan(values)))
    budget = check_budget("ngram_greedy", budget, can_be_chosen, total=len(rows), without="a quality")
    return lazy_greedy(ngram_weights(rows, weighting, corpus, ngram_range), values, budget, decay, progress)


def lazy_greedy(
    weights: csr_matrix,
    quality: npt.ArrayLike,
    budget: SupportsIndex,
    decay: float,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Choose rows by quality x weights @ alpha, alpha falling by `decay` in the columns of each row chosen.

    Scores only ever fall, so a score from an earlier step is an upper bound: the row at the front of the heap is
    scored again and, where it stays in front, chosen, mostly after a few rows instead of all of them. This is exact to
    the last bit, not only in theory: the terms of a row are always added in the same order, left to right, and
    rounding is monotone, so a computed score never rises either. Left to right is also how scipy multiplies a sparse
    matrix, so that rescoring every row by `quality * (weights @ alpha)` at each step chooses the same (where scipy is
    compiled to multiply and add in one instruction, up to rows that tie but for the last bit).

    Args:
        weights: Finite and >= 0, shape (n, columns).
        quality: Shape (n,), finite and >= 0, or NaN for rows never to be chosen.
        budget: Rows to choose, at most those with a quality.
        decay: From 0 to 1.
        progress: Called after each row with the number of rows chosen so far.

    Returns:
        int64 positions in order of choice, shape (budget,); equal scores in the order of their positions.

    Raises:
        SelectionError: The budget is more than the rows with a quality; or a weight, a quality or the decay is
            outside its range, in which case scores could rise and a lazy greedy would not be exact.
        Interrupted: Ctrl-C once rows are being chosen; it has the positions chosen by then.
    """
    values = _checked_quality(quality, weights.shape[0], decay)
    if weights.nnz and not (weights.data.min() >= 0 and np.isfinite(weights.data.max())):
        raise SelectionError("lazy_greedy needs finite weights >= 0: with others a score can rise after a choice.")
    weights = csr_matrix(weights)  # no copy of a CSR; another format has the same attributes with another meaning
    data, columns, ends = weights.data, weights.indices, weights.indptr
    alpha = np.ones(weights.shape[1])
    bounds = values * (weights @ alpha)
    front = np.flatnonzero(~np.isnan(values))
    budget = check_budget("lazy_greedy", budget, len(front), total=len(values), without="a quality")
    front = front[np.argsort(-bounds[front], kind="stable")]
    # A sorted list is a heap. Entries: (-score, position, how many rows were chosen when it was scored).
    heap = [(score, row, 0) for score, row in zip((-bounds[front]).tolist(), front.tolist(), strict=True)]
    chosen: list[int] = []
    try:
        while len(chosen) < budget:
            _, row, scored_at = heap[0]
            span = slice(ends[row], ends[row + 1])
            if scored_at == len(chosen):
                heappop(heap)
                chosen.append(row)
                alpha[columns[span]] *= decay
                if progress is not None:
                    progress(len(chosen))
            else:
                terms = alpha[columns[span]] * data[span]
                # cumsum adds left to right; sum and dot do not, and would break the bound by a rounding error.
                score = float(values[row] * terms.cumsum()[-1]) if len(terms) else 0.0
                heapreplace(heap, (-score, row, len(chosen)))
    except KeyboardInterrupt:
        raise Interrupted(np.array(chosen, dtype=np.int64)) from None
    return np.array(chosen, dtype=np.int64)


def ngram_weights(
    texts: Iterable[str],
    weighting: Weighting = "smooth-l2",
    corpus: Iterable[str] | None = None,
    ngram_range: tuple[int, int] = (1, 3),
) -> csr_matrix:
    r"""Weigh the n-grams of each text: one row a text, one column an n-gram, in alphabetical order of the n-grams.

    Words are `\b\w\w+\b` of the lower-cased text. With f the count of an n-gram in a text, df the texts of the corpus
    that have it, and N the texts in the corpus:

    - `"smooth-l2"`: f x (ln((1 + N) / (1 + df)) + 1), each row divided by its Euclidean norm. What IterIT's code does,
      the defaults of scikit-learn's `TfidfVectorizer`.
    - `"paper"`: f / (n-grams in the text) x ln(N / df), IterIT's Eq. 5.
    - `"graphfilter"`: f x ln(N / df).

    Args:
        texts: n texts.
        weighting: One of the three.
        corpus: Texts over which N and df are counted; the texts themselves when not given. An n-gram that the corpus
            does not have counts as if one of its texts had it (df = 1).
        ngram_range: Shortest and longest n-gram, in words.

    Returns:
        float64 weights >= 0, shape (n, n-grams of the texts), columns sorted in each row. An n-gram that is in every
        text of the corpus is kept, with weight 0 under `"paper"` and `"graphfilter"`.

    Raises:
        SelectionError: An unknown weighting, an impossible ngram_range, or an empty corpus.

    >>> ngram_weights(["red red apples", "green pears"], "graphfilter", ngram_range=(1, 1)).toarray().round(3)
    array([[0.693, 0.   , 0.   , 1.386],
           [0.   , 0.693, 0.693, 0.   ]])
    """
    if weighting not in get_args(Weighting):
        raise SelectionError(f"weighting={weighting!r} is not one of {', '.join(map(repr, get_args(Weighting)))}.")
    counts, df, n_docs = _count_ngrams(texts, corpus, ngram_range)
    every = np.ones(counts.shape[1])
    if weighting == "smooth-l2":
        idf = np.log((1 + n_docs) / (1 + df)) + 1
    else:
        idf = np.log(n_docs / df)
    if weighting == "paper":
        per_row = counts @ every
    counts.data *= idf[counts.indices]
    if weighting == "smooth-l2":
        squares = csr_matrix((counts.data**2, counts.indices, counts.indptr), shape=counts.shape)
        per_row = np.sqrt(squares @ every)
    if weighting != "graphfilter":
        counts.data /= np.repeat(per_row, np.diff(counts.indptr))
    return counts


def ngrams_of(text: str, ngram_range: tuple[int, int] = (1, 3)) -> list[str]:
    """Return the distinct n-grams of a text: the names of the columns of `ngram_weights([text])`, in their order.

    >>> ngrams_of("Red apples, red pears", ngram_range=(1, 2))
    ['apples', 'apples red', 'pears', 'red', 'red apples', 'red pears']
    """
    words = _WORD.findall(text.lower())
    low, high = ngram_range
    found = {
        tuple(words[start : start + size]) for size in range(low, high + 1) for start in range(len(words) - size + 1)
    }
    return [" ".join(ngram) for ngram in sorted(found)]


def _count_ngrams(
    texts: Iterable[str], corpus: Iterable[str] | None, ngram_range: tuple[int, int]
) -> tuple[csr_matrix, Ints, int]:
    """Count n-grams in the texts: (counts, document frequency of each column, number of documents)."""
    vocabulary: defaultdict[str, int] = defaultdict(count().__next__)
    words, ends = _read(texts, vocabulary.__getitem__)
    n_texts = n_docs = len(ends) - 1
    if corpus is not None:
        # Words that no text has are read as -1: the n-grams they are part of cannot matter.
        more_words, more_ends = _read(corpus, lambda word: vocabulary.get(word, -1))
        n_docs = len(more_ends) - 1
        if n_texts and not n_docs:
            raise SelectionError("corpus has no text. Leave it out to count over the texts themselves.")
        words, ends = np.concatenate([words, more_words]), np.concatenate([ends, more_ends[1:] + ends[-1]])
    rank = np.empty(len(vocabulary) + 1, dtype=np.int32)
    alphabetical = np.array([vocabulary[word] for word in sorted(vocabulary)], dtype=np.intp)
    rank[alphabetical] = np.arange(1, len(vocabulary) + 1)
    rank[-1] = 0  # where -1 points
    keys, row_bits = _sorted_keys(rank[words], ends, len(vocabulary), ngram_range)

    first = np.flatnonzero(np.diff(keys, prepend=-1))  # one entry for each n-gram and row
    times = np.diff(first, append=len(keys)).astype(np.float64)
    keys = keys[first]
    rows = (keys & ((1 << row_bits) - 1)).astype(np.int32)
    columns = np.cumsum(np.diff(keys >> row_bits, prepend=-1) != 0) - 1
    in_text = rows < n_texts
    width = int(columns[-1]) + 1 if len(columns) else 0
    held_by = np.bincount(columns[in_text], minlength=width)
    df = held_by if corpus is None else np.bincount(columns[~in_text], minlength=width)
    kept = held_by > 0
    starts = np.concatenate([[0], np.cumsum(held_by[kept])])
    counts = csc_matrix((times[in_text], rows[in_text], starts), shape=(n_texts, len(starts) - 1))
    return counts.tocsr(), np.maximum(df[kept], 1), n_docs


def _read(texts: Iterable[str], number: Callable[[str], int]) -> tuple[npt.NDArray[np.int32], Ints]:
    """Read texts into one flat array of word numbers, and where each text begins and ends in it."""
    words, ends = array("i"), array("q", [0])
    for text in texts:
        words.extend(map(number, _WORD.findall(text.lower())))
        ends.append(len(words))
    return np.frombuffer(words, dtype=np.int32), np.frombuffer(ends, dtype=np.int64)


def _sorted_keys(
    words: npt.NDArray[np.int32], ends: Ints, n_words: int, ngram_range: tuple[int, int]
) -> tuple[Ints, int]:
    """Write every n-gram and its row as one integer, and sort: (keys, bits at the end of a key that hold the row).

    Words are 1 to n_words, and 0 both for a word to skip and for the end of a shorter n-gram, so that integers
    sort as the n-grams do alphabetically. Sorting the integers in place needs neither an argsort nor a dictionary of
    n-grams, which is what fills the memory elsewhere.
    """
    low, high = ngram_range
    if not 1 <= low <= high:
        raise SelectionError(f"ngram_range={ngram_range!r} must be (shortest, longest) with 1 <= shortest <= longest.")
    lengths = np.diff(ends)
    room = np.repeat(ends[1:], lengths) - np.arange(len(words))  # words from here to the end of the text
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    fits = [room >= size for size in range(1, high + 1)]
    for size, fit in enumerate(fits):
        fit[: max(len(words) - size, 0)] &= words[size:] > 0
        if size:
            fit &= fits[size - 1]
    starts = np.concatenate([np.flatnonzero(fit) for fit in fits[low - 1 :]])
    sizes = np.repeat(np.arange(low, high + 1, dtype=np.int16), [np.count_nonzero(fit) for fit in fits[low - 1 :]])

    word_bits, row_bits = n_words.bit_length(), len(lengths).bit_length()
    keys, used = np.zeros(len(starts), dtype=np.int64), 0
    for place in range(high):
        keys, used = _make_room(keys, used, word_bits)
        holds = np.flatnonzero(sizes > place)
        keys[holds] |= words[starts[holds] + place]
    keys, _ = _make_room(keys, used, row_bits)
    keys |= rows[starts]
    keys.sort()
    return keys, row_bits


def _make_room(keys: Ints, used: int, bits: int) -> tuple[Ints, int]:
    """Shift keys of `used` bits by `bits`, numbering them anew in their order where that would not fit."""
    if used + bits > _KEY_BITS:
        distinct, numbers = np.unique(keys, return_inverse=True)
        keys, used = numbers.astype(np.int64, copy=False), len(distinct).bit_length()
    return keys << bits, used + bits


def _checked_quality(quality: npt.ArrayLike, n_rows: int, decay: float) -> Floats:
    """Return quality as float64, or say why the greedy cannot be run with it or with the decay."""
    values = np.asarray(quality, dtype=np.float64)
    if values.shape != (n_rows,):
        raise SelectionError(
            f"quality needs one number for each of the {n_rows:,} texts, but has shape {values.shape}."
        )
    wrong = np.flatnonzero((values < 0) | np.isinf(values))
    if len(wrong):
        raise SelectionError(
            f"quality must be finite and >= 0, or NaN for rows never to be chosen, but {len(wrong):,} of {n_rows:,}"
            f" are not (the first is {values[wrong[0]]} at position {wrong[0]}): a score could rise after a choice,"
            " and the lazy greedy would not be exact. Shift it above 0, or set these rows to NaN."
        )
    if not 0 <= decay <= 1:
        raise SelectionError(
            f"decay={decay!r} must be from 0 to 1: otherwise a score could rise after a choice, and the lazy greedy"
            " would not be exact."
        )
    return values
