"""What a round hands to a selector."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel.selectors import as_numpy


@pytest.mark.parametrize("chunked", [False, True])
def test_vectors_are_rows_and_null_ones_are_nan(chunked):
    column = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))
    found = as_numpy(pa.chunked_array([column[:1], column[1:]]) if chunked else column)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [3, 4]])


def test_numbers_and_no_vector_at_all():
    np.testing.assert_array_equal(as_numpy(pa.array([1.5, None], pa.float32())), [1.5, np.nan])
    assert as_numpy(pa.array([None, None], pa.list_(pa.float32()))).shape == (2, 0)
