"""The place of a row's score beside what the method says of the same score: one rank, not two."""

from __future__ import annotations

import numpy as np

from hf_datasel import select
from hf_datasel.selection import explain
from hf_datasel.selectors import Superfiltering, Top


def test_rows_that_were_ruled_out_are_not_counted_above(pool_rows):
    rows = pool_rows.select(range(10)).add_column("ifd", [1.3, 0.2, 1.1, 0.9, 1.0, 0.5, 0.7, 0.1, 0.4, 1.7])
    selection = select(rows, Superfiltering(quality="ifd"), size=2)
    assert selection.indices.tolist() == [3, 6]
    found = explain(selection, rows, 8)
    assert (found["scores"][0]["place"], found["scores"][0]["of"]) == (4, 6)
    assert found["decided"][0].startswith("Of the 6 rows to choose from 3 have a higher ifd")
    first = explain(selection, rows, 3)["scores"][0]
    assert (first["place"], first["of"]) == (1, 6)


def test_a_row_that_was_ruled_out_has_its_place_among_all(pool_rows):
    rows = pool_rows.select(range(4)).add_column("ifd", [1.3, 0.2, 1.1, 0.9])
    found = explain(select(rows, Superfiltering(quality="ifd"), size=1), rows, 2)["scores"][0]
    assert (found["place"], found["of"]) == (2, 4)


def test_where_nothing_is_ruled_out_all_rows_count(pool_rows):
    rows = pool_rows.select(range(6)).add_column("ifd", np.linspace(0.5, 1.5, 6))
    found = explain(select(rows, Top(by="ifd"), size=1), rows, 0)["scores"][0]
    assert (found["place"], found["of"]) == (6, 6)
