import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_matrix

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies.tag_coverage import complexity_first


def algorithm_1(rows, budget):
    """Walk through all rows that are left in each pass, as the paper writes it."""
    pool, selected = sorted(range(len(rows)), key=lambda row: (-len(rows[row]), row)), []
    while len(selected) < budget:
        covered, left = set(), []
        for row in pool:
            if len(selected) < budget and len(covered | rows[row]) > len(covered):
                selected.append(row)
                covered |= rows[row]
            else:
                left.append(row)
        pool = left
    return selected


def matrix(rows, n_tags=6):
    return csr_matrix(
        np.array([[tag in row for tag in range(n_tags)] for row in rows], dtype=float).reshape(-1, n_tags)
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sets(st.integers(0, 5), max_size=4), max_size=25))
def test_rows_are_those_of_algorithm_1(rows):
    budget = sum(map(bool, rows))
    expected = algorithm_1(rows, budget)
    assert complexity_first(matrix(rows), budget).tolist() == expected
    assert complexity_first(matrix(rows), budget // 2).tolist() == expected[: budget // 2]


def test_many_passes_are_fast():
    labels = csr_matrix((np.ones(60_000), (np.arange(60_000), np.arange(60_000) % 3)), shape=(60_000, 3))
    assert complexity_first(labels, 60_000).tolist() == list(range(60_000))


def test_rows_without_tags_are_not_available():
    with pytest.raises(SelectionError, match=r"the 1 rows that can be selected \(1 of 2 are without a tag\)"):
        complexity_first(matrix([{1}, set()]), 2)


def test_interrupt_keeps_the_rows_so_far():
    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^2 rows had been") as caught:
        complexity_first(matrix([{0}, {1, 2}, {3}]), 3, progress=stop)
    assert caught.value.selected.tolist() == [1, 0]
