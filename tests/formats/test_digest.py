"""What a column is known by."""

from __future__ import annotations

import pytest
from datasets import Dataset, concatenate_datasets

from hf_datasel.formats.digest import column_digest


@pytest.mark.parametrize(
    ("values", "other"),
    [
        ([0.5, None, 2], [0.5, None, 3]),
        ([0.5, None, 2], [None, 0.5, 2]),
        ([[1, None], [2], None], [[1], [None, 2], None]),
        ([[1], [], None], [[1], None, []]),
        ([["a"], ["b", "c"], None], [["a", "b"], ["c"], None]),
        (["a", "b", None], ["a", None, "b"]),
        ([True, False, None], [True, None, False]),
        ([{"a": 1}, {"a": 2}, None], [{"a": 1}, {"a": None}, None]),
    ],
    ids=["numbers", "nulls", "lists", "empty", "texts", "text", "bool", "struct"],
)
def test_column_digest(values, other):
    rows = Dataset.from_dict({"x": values})
    digest = column_digest(rows, "x")
    assert column_digest(concatenate_datasets([rows, rows]).select([3, 4, 5]), "x") == digest
    assert column_digest(Dataset.from_dict({"x": other}), "x") != digest
