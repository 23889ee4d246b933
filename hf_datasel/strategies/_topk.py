"""The order in which `torch.topk` on a CPU returns equal values, to reproduce published selections.

On Linux, `torch.topk` sorts (value, position) pairs by value alone, with `partial_sort`, `nth_element` and `sort` of
the GNU C++ library. These are not stable, but they are deterministic; this module reproduces their steps. Published
ZIP selections depend on it: ratios in float32 have many ties, and another order of ties selects other rows.
"""

from heapq import heapify, heappop, heapreplace

import numpy as np
import numpy.typing as npt

from hf_datasel.strategies._checks import Ints

_INSERTION_SORT_LENGTH = 16  # longest interval that introsort leaves to its final insertion sort


class _Item(float):
    """A negated value with its position.

    Values are negated because the heaps of heapq have the smallest item first and those of C++ the largest.
    """

    __slots__ = ("position",)
    position: int


def topk_smallest(values: npt.NDArray[np.floating], k: int) -> Ints:
    """Return the positions of the k smallest values in the order of `torch.topk(values, k, largest=False)`.

    Args:
        values: Shape (n,).
        k: From 1 to n.

    Returns:
        int64 positions, shape (k,); equal values are in the order of torch on a CPU under Linux.

    >>> topk_smallest(np.array([1, 1, 0, 1, 1, 0, 1, 1]), k=6)
    array([2, 5, 4, 7, 6, 0])
    """
    items = []
    for position, value in enumerate((-values).tolist()):
        items.append(_Item(value))
        items[-1].position = position
    if k * 64 <= len(items):
        smallest = _partial_sort(items, k)
    else:
        _split(items, k - 1)
        smallest = _sort(items[: k - 1]) + items[k - 1 : k]
    return np.array([item.position for item in smallest], dtype=np.int64)


def _partial_sort(items: list[_Item], k: int) -> list[_Item]:
    """Return the first k items in order, as `std::partial_sort`."""
    heap = _heap_of_first(items, k)
    return [heappop(heap) for _ in range(k)][::-1]


def _heap_of_first(items: list[_Item], k: int) -> list[_Item]:
    heap = items[:k]
    heapify(heap)
    for item in items[k:]:
        if item > heap[0]:
            heapreplace(heap, item)
    return heap


def _split(items: list[_Item], nth: int) -> None:
    """Reorder the items as `std::nth_element`: the nth gets its sorted position, no later item belongs before it."""
    first, last = 0, len(items)
    rounds = 2 * (last.bit_length() - 1)
    while last - first > 3:
        if not rounds:
            heap = _heap_of_first(items[first:last], nth + 1 - first)
            items[first : nth + 1] = heap
            items[first], items[nth] = items[nth], items[first]
            return
        rounds -= 1
        cut = _partition(items, first, last)
        first, last = (cut, last) if cut <= nth else (first, cut)
    items[first:last] = sorted(items[first:last], reverse=True)  # stable, also when reversed


def _sort(items: list[_Item]) -> list[_Item]:
    """Return the sorted items, as `std::sort`."""
    intervals = [(0, len(items), 2 * (len(items).bit_length() - 1))]
    while intervals:
        first, last, rounds = intervals.pop()
        if last - first <= _INSERTION_SORT_LENGTH:
            continue
        if not rounds:
            items[first:last] = _partial_sort(items[first:last], last - first)
            continue
        cut = _partition(items, first, last)
        intervals += [(first, cut, rounds - 1), (cut, last, rounds - 1)]
    return sorted(items, reverse=True)


def _partition(items: list[_Item], first: int, last: int) -> int:
    """Partition the items around the median of three and return the start of the second part."""
    middle = first + (last - first) // 2
    pivot_index = sorted([first + 1, middle, last - 1], key=items.__getitem__)[1]
    items[first], items[pivot_index] = items[pivot_index], items[first]
    pivot = items[first]
    left, right = first + 1, last - 1
    while True:
        while items[left] > pivot:
            left += 1
        while pivot > items[right]:
            right -= 1
        if left >= right:
            return left
        items[left], items[right] = items[right], items[left]
        left, right = left + 1, right - 1
