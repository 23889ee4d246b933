"""The order in which `torch.topk` on a CPU gives equal values, for choices published from it.

On Linux it sorts (value, position) pairs by value alone with the partial sort, nth element and sort of the GNU C++
library, which are not stable but always move the same pairs in the same way. Those steps are followed here.
"""

from heapq import heapify, heappop, heapreplace

import numpy as np
import numpy.typing as npt

from hf_datasel.strategies._checks import Ints

_SORTED_BY_INSERTION = 16  # longest stretch that the sort leaves to its last, stable pass


class _Item(float):
    """A negated value that knows its position: heapq, whose heaps have the smallest first, then moves the same."""

    __slots__ = ("position",)
    position: int


def smallest_as_torch(values: npt.NDArray[np.floating], k: int) -> Ints:
    """Return the positions of the k smallest values as `torch.topk(values, k, largest=False)` does, ties included.

    >>> smallest_as_torch(np.array([1, 1, 0, 1, 1, 0, 1, 1]), k=6)
    array([2, 5, 4, 7, 6, 0])
    """
    items = []
    for position, value in enumerate((-values).tolist()):
        items.append(_Item(value))
        items[-1].position = position
    if k * 64 <= len(items):
        found = _partial_sort(items, k)
    else:
        _split(items, k - 1)
        found = _sort(items[: k - 1]) + items[k - 1 : k]
    return np.array([item.position for item in found], dtype=np.int64)


def _partial_sort(items: list[_Item], k: int) -> list[_Item]:
    """Return the k first in order, by a heap."""
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
    """Move the items so that the nth is where sorting would put it, and none before it belongs after it."""
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
    stretches = [(0, len(items), 2 * (len(items).bit_length() - 1))]
    while stretches:
        first, last, rounds = stretches.pop()
        if last - first <= _SORTED_BY_INSERTION:
            continue
        if not rounds:
            items[first:last] = _partial_sort(items[first:last], last - first)
            continue
        cut = _partition(items, first, last)
        stretches += [(first, cut, rounds - 1), (cut, last, rounds - 1)]
    return sorted(items, reverse=True)


def _partition(items: list[_Item], first: int, last: int) -> int:
    """Move what comes before the median of three to the front, and return where the rest begins."""
    middle = first + (last - first) // 2
    pivot_at = sorted([first + 1, middle, last - 1], key=items.__getitem__)[1]
    items[first], items[pivot_at] = items[pivot_at], items[first]
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
