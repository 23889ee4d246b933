"""InsTag: rows with many tags, in passes that each cover as many tags as possible."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted
from hf_datasel.strategies._checks import check_budget

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Ints = npt.NDArray[np.int64]


def complexity_first(tags: csr_matrix, budget: SupportsIndex, progress: Callable[[int], object] | None = None) -> Ints:
    """Select rows by their number of tags, only those with a tag that no row of the same pass has.

    This is Algorithm 1 of InsTag. The rows are sorted by their number of tags, highest first. A pass walks through the
    rows that are not selected yet, and selects each one with a tag that no row of this pass has. Passes are repeated
    until the budget is reached.

    A pass does not read all rows: the next row to select is the first one of the tags that are not covered yet. The
    time is proportional to the number of entries, however many passes there are.

    Args:
        tags: Non-zero for each tag of a row, shape (n, tags).
        budget: Number of rows to select, at most those with a tag.
        progress: Called after each selected row with the number of rows selected so far.

    Returns:
        int64 positions in order of selection, shape (budget,). Rows with the same number of tags are in the order of
        their positions; a row without tags is never selected.

    Raises:
        SelectionError: The budget is more than the rows with a tag.
        Interrupted: On Ctrl-C, with the positions selected so far.

    >>> from scipy.sparse import csr_matrix
    >>> complexity_first(csr_matrix([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]), budget=4)
    array([1, 3, 0, 2])
    """
    from scipy.sparse import csr_matrix

    tags = csr_matrix(tags)
    counts = np.diff(tags.indptr)
    available = int(np.count_nonzero(counts))
    budget = check_budget("complexity_first", budget, available, total=len(counts), without="a tag")
    order = np.argsort(-counts, kind="stable")[:available]
    by_rank = tags[order]
    tags_of = np.split(by_rank.indices, by_rank.indptr[1:-1])
    by_tag = by_rank.tocsc()
    by_tag.sort_indices()
    ranks_of, ends = by_tag.indices, by_tag.indptr[1:]  # ranks of the rows with each tag, ascending
    heads = by_tag.indptr[:-1].copy()  # first row of each tag that is not selected
    is_selected, covered_in = np.zeros(available, dtype=bool), np.full(len(heads), -1)
    selected: list[int] = []
    remaining, number = np.flatnonzero(heads < ends).tolist(), 0
    try:
        while len(selected) < budget:
            heap = [(ranks_of[heads[tag]], tag) for tag in remaining]
            heapify(heap)
            while heap and len(selected) < budget:
                rank, tag = heappop(heap)
                if covered_in[tag] == number:
                    continue
                is_selected[rank] = True
                covered_in[tags_of[rank]] = number
                selected.append(int(order[rank]))
                if progress is not None:
                    progress(len(selected))
            remaining = [tag for tag in remaining if _advance(tag, heads, ends, ranks_of, is_selected)]
            number += 1
    except KeyboardInterrupt:
        raise Interrupted(np.array(selected, dtype=np.int64)) from None
    return np.array(selected, dtype=np.int64)


def _advance(tag: int, heads: Ints, ends: Ints, ranks_of: Ints, is_selected: npt.NDArray[np.bool_]) -> bool:
    """Move the head of a tag to its first row that is not selected. Return whether there is one."""
    while heads[tag] < ends[tag] and is_selected[ranks_of[heads[tag]]]:
        heads[tag] += 1
    return bool(heads[tag] < ends[tag])
