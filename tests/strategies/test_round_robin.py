import numpy as np
import pytest

from hf_datasel.errors import SelectionError
from hf_datasel.strategies.round_robin import round_robin

NAN = float("nan")


def by_popping(lists, budget):
    """Each list in turn pops its best row, which counts only if no list has popped it before."""
    ranked = [
        sorted(np.flatnonzero(~np.isnan(each)).tolist(), key=lambda row, each=each: -each[row]) for each in lists
    ]
    selected = []
    while any(ranked) and len(selected) < budget:
        for each in ranked:
            if each and len(selected) < budget and (row := each.pop(0)) not in selected:
                selected.append(row)
    return selected


@pytest.mark.parametrize("seed", range(30))
def test_equals_popping(seed):
    rng = np.random.default_rng(seed)
    rows, count = rng.integers(1, 40), rng.integers(1, 7)
    lists = rng.integers(0, 6, (count, rows)) / 5  # many ties
    lists[rng.random((count, rows)) < rng.choice([0, 0.3, 0.9])] = np.nan  # lists of different lengths
    for budget in range(rows + 1):
        assert round_robin(iter(lists), rows, budget).tolist() == by_popping(lists, budget)


def test_a_list_whose_row_is_selected_passes_its_turn():
    assert round_robin([[0.9, 0.8, 0.1, 0.0], [0.9, 0.2, 0.8, 0.0]], 4, 3).tolist() == [0, 1, 2]


def test_exhausted_lists():
    assert round_robin([[NAN, 0.5, NAN], [NAN, NAN, NAN]], 3, 3).tolist() == [1]
    assert round_robin([], 3, 2).tolist() == []


def test_errors():
    with pytest.raises(SelectionError, match=r"list 1 has shape \(3,\), and there are 2 rows"):
        round_robin([[0.1, 0.2], [0.1, 0.2, 0.3]], 2, 1)
    with pytest.raises(SelectionError, match="budget=3 is more than the 2 rows"):
        round_robin([[0.1, 0.2]], 2, 3)
