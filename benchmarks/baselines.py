"""Baseline versions of the strategies, with which `strategies.py` compares them: short and correct.

"plain" is the published or obvious algorithm, without avoidable waste in published code. "done well" has the same cost
per selected row with all optimizations that do not change the method. Both use numpy, scipy and zlib, as the package.
"""

import zlib
from heapq import heapify, heappop, heapreplace

import numpy as np
from scipy.sparse import csr_matrix

Ints = np.ndarray
Vectors = np.ndarray


# -- n-gram greedy (done well: see ngram_greedy.py) ------------------------------------------------------------------
def ngram_by_columns(weights: csr_matrix, quality: np.ndarray, budget: int, decay: float) -> Ints:
    """Select as IterIT's published code: sum every row at each step, then decay the columns of the selected row."""
    columns = weights.tocsc()
    selected: list[int] = []
    for _ in range(budget):
        scores = quality * np.asarray(columns.sum(axis=1)).ravel()
        scores[selected] = -np.inf
        row = int(scores.argmax())
        selected.append(row)
        for column in columns[row].nonzero()[1]:
            columns.data[columns.indptr[column] : columns.indptr[column + 1]] *= decay
    return np.array(selected)


# -- ZIP -------------------------------------------------------------------------------------------------------------
def ratio(content: bytes) -> float:
    return len(content) / len(zlib.compress(content, 9))


def ratios_recompressed(texts: list[bytes], selected: list[int], candidates: list[int]) -> np.ndarray:
    """Return the ratio of all selected rows and each candidate, compressing everything from the start each time."""
    before = b"[" + b"".join(texts[row] + b", " for row in selected)
    return np.array([ratio(before + texts[row] + b"]") for row in candidates])


def zip_recompressed(texts: list[bytes], budget: int, k1: int, k2: int, k3: int) -> Ints:
    """Select with the three stages of ZIP as published, ties to the lower position."""
    ratios_so_far = ratios_recompressed(texts, [], list(range(len(texts))))
    left, selected = np.arange(len(texts)), list[int]()
    while len(selected) < budget:
        candidates = lowest(left, ratios_so_far, k1)
        ratios_so_far[candidates] = ratios_recompressed(texts, selected, candidates.tolist())
        shortlist, step = lowest(candidates, ratios_so_far, k2).tolist(), list[int]()
        while len(step) < k3 and shortlist:
            step.append(shortlist.pop(int(ratios_recompressed(texts, step, shortlist).argmin())))
        selected += step
        left = np.setdiff1d(left, step)
    return np.array(selected[:budget])


def lowest(rows: Ints, values: np.ndarray, count: int) -> Ints:
    """Return the rows with the lowest values, ascending."""
    return np.sort(rows[np.argsort(values[rows], kind="stable")[:count]])


# -- k-Center --------------------------------------------------------------------------------------------------------
def farthest_by_matrix(vectors: Vectors, budget: int) -> Ints:
    """Compute all squared distances first, then use one row of them per step. Starts from row 0, not returned."""
    lengths = (vectors * vectors).sum(axis=1)
    squares = vectors @ vectors.T
    squares *= -2
    squares += lengths
    squares += lengths[:, None]
    return _farthest(squares.__getitem__, len(vectors), budget)


def farthest_by_vector(vectors: Vectors, budget: int) -> Ints:
    """Update one vector of distances to the nearest selected row by one product per step."""
    lengths = (vectors * vectors).sum(axis=1)

    def to(row: int) -> np.ndarray:
        squares = vectors @ vectors[row]
        squares *= -2
        squares += lengths
        squares += lengths[row]
        return squares

    return _farthest(to, len(vectors), budget)


def _farthest(squares_to, n: int, budget: int) -> Ints:
    nearest, row, selected = np.full(n, np.inf, dtype=np.float32), 0, list[int]()
    for _ in range(budget):
        np.minimum(nearest, squares_to(row), out=nearest)
        nearest[row] = -np.inf
        row = int(nearest.argmax())
        selected.append(row)
    return np.array(selected)


# -- near-duplicates -------------------------------------------------------------------------------------------------
def near_duplicates_rebuilt(vectors: Vectors, scores: np.ndarray, budget: int, threshold: float) -> Ints:
    """Filter as Deita's published code: for each row, the selected rows are gathered and normalized again."""
    selected: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        selected_vectors = vectors[selected]
        selected_vectors = selected_vectors / np.linalg.norm(selected_vectors, axis=1, keepdims=True)
        if not (selected_vectors @ (vectors[row] / np.linalg.norm(vectors[row])) > threshold).any():
            selected.append(row)
            if len(selected) == budget:
                break
    return np.array(selected)


def near_duplicates_by_row(vectors: Vectors, scores: np.ndarray, budget: int, threshold: float) -> Ints:
    """Filter with one product per row, and the selected rows normalized once in a preallocated buffer."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    selected, buffer = list[int](), np.empty((budget, vectors.shape[1]), dtype=vectors.dtype)
    for row in np.argsort(-scores, kind="stable").tolist():
        if not selected or (buffer[: len(selected)] @ units[row]).max() <= threshold:
            buffer[len(selected)] = units[row]
            selected.append(row)
            if len(selected) == budget:
                break
    return np.array(selected)


# -- facility location -----------------------------------------------------------------------------------------------
def units_of(vectors: Vectors) -> Vectors:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def facility_plain(vectors: Vectors, quality: np.ndarray, budget: int, alpha: float) -> Ints:
    """Compute every gain at each step from the matrix of all similarities."""
    units = units_of(vectors)
    similar = units @ units.T
    best, selected = np.full(len(units), -np.inf), list[int]()
    for _ in range(budget):
        value = (1 - alpha) * np.maximum(similar, best).sum(axis=1) + alpha * quality
        value[selected] = -np.inf
        selected.append(int(value.argmax()))
        best = np.maximum(best, similar[selected[-1]])
    return np.array(selected)


def facility_in_blocks(vectors: Vectors, quality: np.ndarray, budget: int, alpha: float) -> Ints:
    """Compute every gain at each step, a few rows of the matrix at a time, which fit into the processor's cache."""
    units = units_of(vectors)
    similar = units @ units.T
    step = max((1 << 17) // len(units), 1)
    best, selected = np.full(len(units), -np.inf), list[int]()
    value, buffer = np.empty(len(units)), np.empty((step, len(units)))
    for _ in range(budget):
        for start in range(0, len(units), step):
            tile = similar[start : start + step]
            value[start : start + step] = np.maximum(tile, best, out=buffer[: len(tile)]).sum(axis=1)
        total = (1 - alpha) * value + alpha * quality
        total[selected] = -np.inf
        selected.append(int(total.argmax()))
        np.maximum(best, similar[selected[-1]], out=best)
    return np.array(selected)


def facility_lazy(vectors: Vectors, quality: np.ndarray, budget: int, alpha: float) -> Ints:
    """Compute a gain again only if its old value is first in a heap: the textbook lazy greedy on the same matrix.

    The gains of the first step are no bounds, because only they include cosines below 0; those of the second step are.
    """
    units = units_of(vectors)
    similar = units @ units.T
    first = int(((1 - alpha) * similar.sum(axis=1) + alpha * quality).argmax())
    best, selected = similar[first].copy(), [first]
    covered = best.sum()
    bounds = [(1 - alpha) * (np.maximum(row, best).sum() - covered) for row in similar] + alpha * quality
    heap = [(-bound, row, 1) for row, bound in enumerate(bounds.tolist()) if row != first]
    heapify(heap)
    while len(selected) < budget:
        _, row, step_scored = heap[0]
        if step_scored == len(selected):
            heappop(heap)
            selected.append(row)
            np.maximum(best, similar[row], out=best)
            covered = best.sum()
        else:
            gain = (1 - alpha) * (np.maximum(similar[row], best).sum() - covered) + alpha * quality[row]
            heapreplace(heap, (-gain, row, len(selected)))
    return np.array(selected)


# -- DQ --------------------------------------------------------------------------------------------------------------
def graph_cut_summed(vectors: Vectors, n_bins: int) -> Ints:
    """Compute the sum over the current bin at each step, from the matrix of all similarities.

    Gains that differ only by rounding count as ties, which go to the lower position.
    """
    return _graph_cut(vectors, n_bins, running=False)


def graph_cut_running(vectors: Vectors, n_bins: int) -> Ints:
    """Update the gains by one row of the same matrix at each step."""
    return _graph_cut(vectors, n_bins, running=True)


def _graph_cut(vectors: Vectors, n_bins: int, running: bool) -> Ints:
    units = units_of(vectors)
    similar = units @ units.T
    left, selected = np.ones(len(units), dtype=bool), list[int]()
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
        selected += inside
    return np.array(selected)
