"""The plain versions that `strategies.py` times the strategies against: short, and right as they stand.

"Plain" is the published way or the obvious one, without what published code wastes besides; "done well" keeps its cost
per choice and takes every shortcut that does not change the method. All are numpy, scipy and zlib, as the package is.
"""

import zlib
from heapq import heapify, heappop, heapreplace

import numpy as np
from scipy.sparse import csr_matrix

Ints = np.ndarray
Vectors = np.ndarray


# -- n-gram greedy (done well: see ngram_greedy.py) ------------------------------------------------------------------
def ngram_by_columns(weights: csr_matrix, quality: np.ndarray, budget: int, decay: float) -> Ints:
    """IterIT as published: the sum of every row at each choice, then the columns of the row chosen, one by one."""
    columns = weights.tocsc()
    chosen: list[int] = []
    for _ in range(budget):
        scores = quality * np.asarray(columns.sum(axis=1)).ravel()
        scores[chosen] = -np.inf
        row = int(scores.argmax())
        chosen.append(row)
        for column in columns[row].nonzero()[1]:
            columns.data[columns.indptr[column] : columns.indptr[column + 1]] *= decay
    return np.array(chosen)


# -- ZIP -------------------------------------------------------------------------------------------------------------
def ratio(content: bytes) -> float:
    return len(content) / len(zlib.compress(content, 9))


def ratios_recompressed(texts: list[bytes], chosen: list[int], candidates: list[int]) -> np.ndarray:
    """Ratio of all that is chosen and one candidate, for each of them: everything is compressed anew each time."""
    before = b"[" + b"".join(texts[row] + b", " for row in chosen)
    return np.array([ratio(before + texts[row] + b"]") for row in candidates])


def zip_recompressed(texts: list[bytes], budget: int, k1: int, k2: int, k3: int) -> Ints:
    """The three stages of ZIP as written down, ties to the lower position."""
    known = ratios_recompressed(texts, [], list(range(len(texts))))
    left, chosen = np.arange(len(texts)), list[int]()
    while len(chosen) < budget:
        candidates = lowest(left, known, k1)
        known[candidates] = ratios_recompressed(texts, chosen, candidates.tolist())
        shortlist, step = lowest(candidates, known, k2).tolist(), list[int]()
        while len(step) < k3 and shortlist:
            step.append(shortlist.pop(int(ratios_recompressed(texts, step, shortlist).argmin())))
        chosen += step
        left = np.setdiff1d(left, step)
    return np.array(chosen[:budget])


def lowest(rows: Ints, values: np.ndarray, count: int) -> Ints:
    """The rows, ascending, with the lowest values."""
    return np.sort(rows[np.argsort(values[rows], kind="stable")[:count]])


# -- k-Center --------------------------------------------------------------------------------------------------------
def farthest_by_matrix(vectors: Vectors, budget: int) -> Ints:
    """All squared distances first, then a row of them for each choice. From row 0, which is not returned."""
    lengths = (vectors * vectors).sum(axis=1)
    squares = vectors @ vectors.T
    squares *= -2
    squares += lengths
    squares += lengths[:, None]
    return _farthest(squares.__getitem__, len(vectors), budget)


def farthest_by_vector(vectors: Vectors, budget: int) -> Ints:
    """One vector of distances to the nearest chosen row, brought up to date by a product for each choice."""
    lengths = (vectors * vectors).sum(axis=1)

    def to(row: int) -> np.ndarray:
        squares = vectors @ vectors[row]
        squares *= -2
        squares += lengths
        squares += lengths[row]
        return squares

    return _farthest(to, len(vectors), budget)


def _farthest(squares_to, n: int, budget: int) -> Ints:
    nearest, row, chosen = np.full(n, np.inf, dtype=np.float32), 0, list[int]()
    for _ in range(budget):
        np.minimum(nearest, squares_to(row), out=nearest)
        nearest[row] = -np.inf
        row = int(nearest.argmax())
        chosen.append(row)
    return np.array(chosen)


# -- near copies -----------------------------------------------------------------------------------------------------
def near_copies_rebuilt(vectors: Vectors, scores: np.ndarray, budget: int, threshold: float) -> Ints:
    """Deita's filter as published: for each row, what is kept is gathered and normalised anew."""
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        others = vectors[kept]
        others = others / np.linalg.norm(others, axis=1, keepdims=True)
        if not (others @ (vectors[row] / np.linalg.norm(vectors[row])) > threshold).any():
            kept.append(row)
            if len(kept) == budget:
                break
    return np.array(kept)


def near_copies_by_row(vectors: Vectors, scores: np.ndarray, budget: int, threshold: float) -> Ints:
    """One product a row, with what is kept normalised once, in a buffer that is there from the beginning."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept, buffer = list[int](), np.empty((budget, vectors.shape[1]), dtype=vectors.dtype)
    for row in np.argsort(-scores, kind="stable").tolist():
        if not kept or (buffer[: len(kept)] @ units[row]).max() <= threshold:
            buffer[len(kept)] = units[row]
            kept.append(row)
            if len(kept) == budget:
                break
    return np.array(kept)


# -- facility location -----------------------------------------------------------------------------------------------
def units_of(vectors: Vectors) -> Vectors:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def facility_plain(vectors: Vectors, quality: np.ndarray, budget: int, alpha: float) -> Ints:
    """Every gain anew at each choice, in one line, over the matrix of all similarities."""
    units = units_of(vectors)
    similar = units @ units.T
    best, chosen = np.full(len(units), -np.inf), list[int]()
    for _ in range(budget):
        value = (1 - alpha) * np.maximum(similar, best).sum(axis=1) + alpha * quality
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
        best = np.maximum(best, similar[chosen[-1]])
    return np.array(chosen)


def facility_in_blocks(vectors: Vectors, quality: np.ndarray, budget: int, alpha: float) -> Ints:
    """The same, a few rows of the matrix at a time, which stay in the processor's cache."""
    units = units_of(vectors)
    similar = units @ units.T
    step = max((1 << 17) // len(units), 1)
    best, chosen = np.full(len(units), -np.inf), list[int]()
    value, buffer = np.empty(len(units)), np.empty((step, len(units)))
    for _ in range(budget):
        for at in range(0, len(units), step):
            tile = similar[at : at + step]
            value[at : at + step] = np.maximum(tile, best, out=buffer[: len(tile)]).sum(axis=1)
        total = (1 - alpha) * value + alpha * quality
        total[chosen] = -np.inf
        chosen.append(int(total.argmax()))
        np.maximum(best, similar[chosen[-1]], out=best)
    return np.array(chosen)


def facility_lazy(vectors: Vectors, quality: np.ndarray, budget: int, alpha: float) -> Ints:
    """Over the same matrix, a gain anew only where its old value is in front of a heap: the textbook's way.

    The gains of the first step are no bound, as cosines below 0 count in them alone: those of the second step are.
    """
    units = units_of(vectors)
    similar = units @ units.T
    first = int(((1 - alpha) * similar.sum(axis=1) + alpha * quality).argmax())
    best, chosen = similar[first].copy(), [first]
    covered = best.sum()
    bounds = [(1 - alpha) * (np.maximum(row, best).sum() - covered) for row in similar] + alpha * quality
    heap = [(-bound, row, 1) for row, bound in enumerate(bounds.tolist()) if row != first]
    heapify(heap)
    while len(chosen) < budget:
        _, row, known_at = heap[0]
        if known_at == len(chosen):
            heappop(heap)
            chosen.append(row)
            np.maximum(best, similar[row], out=best)
            covered = best.sum()
        else:
            gain = (1 - alpha) * (np.maximum(similar[row], best).sum() - covered) + alpha * quality[row]
            heapreplace(heap, (-gain, row, len(chosen)))
    return np.array(chosen)


# -- DQ --------------------------------------------------------------------------------------------------------------
def graph_cut_summed(vectors: Vectors, n_bins: int) -> Ints:
    """The sum over the bin so far anew for each choice, over the matrix of all similarities, bins one after the other.

    Sums are rounded, so that gains that tie but for the last digits go to the lower position.
    """
    return _graph_cut(vectors, n_bins, running=False)


def graph_cut_running(vectors: Vectors, n_bins: int) -> Ints:
    """Over the same matrix, gains that are kept, and lowered by a row of it for each choice."""
    return _graph_cut(vectors, n_bins, running=True)


def _graph_cut(vectors: Vectors, n_bins: int, running: bool) -> Ints:
    units = units_of(vectors)
    similar = units @ units.T
    left, chosen = np.ones(len(units), dtype=bool), list[int]()
    for number in range(n_bins):
        base = similar @ left
        base[~left] = -np.inf
        last = number == n_bins - 1
        size = int(left.sum()) if last else len(units) // n_bins
        inside: list[int] = []
        for _ in range(size):
            gains = base if running else base - 2 * similar[inside].sum(axis=0)
            row = int(np.argmax(gains >= gains.max() - 1e-11 * len(units)))
            inside.append(row)
            if running:
                base -= 2 * similar[row]
            base[row] = -np.inf
        left[inside] = False
        chosen += inside
    return np.array(chosen)
