from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel.analysis import jaccard_matrix
from hf_datasel.errors import DatasetMismatchError
from hf_datasel.selection import Selection


def selected(*rows: int, dataset: str = "pool") -> Selection:
    return Selection(np.array(rows, dtype=np.int64), {"dataset": {"id": dataset}}, pa.table({}))


def test_jaccard_matrix():
    matrix = jaccard_matrix([selected(0, 1, 2), selected(2, 1, 0), selected(2, 3, 4), selected(5)])
    expected = [[1, 1, 0.2, 0], [1, 1, 0.2, 0], [0.2, 0.2, 1, 0], [0, 0, 0, 1]]
    assert matrix.dtype == np.float64
    assert matrix.tolist() == expected


def test_jaccard_matrix_of_fewer_than_two():
    assert jaccard_matrix([selected(3)]).tolist() == [[1.0]]
    assert jaccard_matrix([]).shape == (0, 0)


def test_dataset_mismatch():
    with pytest.raises(DatasetMismatchError, match="different datasets"):
        jaccard_matrix([selected(0), selected(0, dataset="other")])
