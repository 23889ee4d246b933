import logging

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select, select_streaming
from hf_datasel.errors import ColumnError, ConfigError, FormatError, SelectionError
from hf_datasel.scores import Length, Loss
from hf_datasel.selectors import KCenter, Longest, NuggetsTop, Random, Superfiltering, Top

ROWS = 60


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    values = [None if row % 11 == 5 else round(float(item), 1) for row, item in enumerate(1.4 * rng.random(ROWS))]
    return Dataset.from_dict(
        {
            "prompt": [f"Count to {row}." for row in range(ROWS)],
            "completion": ["" if row % 13 == 4 else "one " * (1 + row * 7 % 17) for row in range(ROWS)],
            "ifd": values,
            "kept": list(range(ROWS)),
        }
    )


@pytest.mark.parametrize(
    "selector",
    [Top(by="ifd"), Top(by=Length()), Longest(), Superfiltering(quality="ifd"), NuggetsTop(by="ifd", threshold=0.5)],
)
@pytest.mark.parametrize(("size", "batch_size"), [(1, 1000), (7, 4), (20, 7), (20, 60)])
def test_equals_select(rows, selector, size, batch_size):
    expected = select(rows, selector, size=size).indices.tolist()
    result = select_streaming(rows.to_iterable_dataset(num_shards=3), selector, size, batch_size=batch_size)
    assert result["selection_row"][:] == result["kept"][:] == expected
    assert result["selection_rank"][:] == list(range(size))
    assert {name: result.features[name] for name in rows.features} == dict(rows.features)


def test_score_with_model(rows, tiny_model_dir):
    selector = Top(by=Loss(str(tiny_model_dir)))
    expected = select(rows, selector, size=5).indices.tolist()
    assert select_streaming(rows.to_iterable_dataset(), selector, 5)["kept"][:] == expected


def test_random(rows):
    stream, counts = rows.to_iterable_dataset(), np.zeros(ROWS)
    usable = [row for row in range(ROWS) if row % 13 != 4]
    for seed in range(150):
        counts[select_streaming(stream, Random(), 10, seed=seed, batch_size=16)["kept"][:]] += 1
    assert counts.sum() == 1500
    assert counts[4::13].sum() == 0
    expected = 1500 / len(usable)
    assert abs(counts[usable] - expected).max() < 6 * np.sqrt(expected)
    twice = [select_streaming(stream, Random(), 10, seed=3, batch_size=size)["kept"][:] for size in (9, 60)]
    assert twice[0] == twice[1]


def test_fewer_rows_than_size(rows, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_datasel"):
        result = select_streaming(rows.to_iterable_dataset(), Top(by="kept"), 1000)
    assert result["kept"][:] == [row for row in reversed(range(ROWS)) if row % 13 != 4]
    assert "size=1000 is more than the 55 of 60 rows that can be selected (5 empty_response)" in caplog.text


def test_no_selectable_row(rows):
    stream = rows.remove_columns("ifd").add_column("ifd", [1.5] * ROWS).to_iterable_dataset()
    with pytest.raises(SelectionError, match=r"None of the 60 rows .* \(55 with ifd >= 1, 5 empty_response\)"):
        select_streaming(stream, Superfiltering(quality="ifd"), 5)


def test_selector_that_needs_all_rows_is_refused(rows):
    def fails(row):
        raise AssertionError("a row was read")

    with pytest.raises(SelectionError, match="KCenter has to see all rows before it selects one"):
        select_streaming(rows.to_iterable_dataset().map(fails), KCenter(), 5)
    with pytest.raises(FormatError, match="takes an IterableDataset, and this is Dataset: use select"):
        select_streaming(rows, Random(), 5)
    with pytest.raises(FormatError, match="select_streaming"):
        select(rows.to_iterable_dataset(), Random(), size=5)
    with pytest.raises(ConfigError, match=r"size=0\.05 has to be an int of at least 1"):
        select_streaming(rows.to_iterable_dataset(), Random(), 0.05)


def test_earlier_columns_are_replaced(rows, caplog):
    stream = rows.add_column("selection_rank", list(range(ROWS))).to_iterable_dataset()
    with caplog.at_level(logging.WARNING, logger="hf_datasel"):
        assert select_streaming(stream, Top(by="kept"), 3)["selection_rank"][:] == [0, 1, 2]
    assert "columns of an earlier selection, which are replaced: selection_rank" in caplog.text


class Backwards(Top):
    def select(self, context):
        return super().select(context)[::-1]


def test_overridden_select_is_refused(rows):
    with pytest.raises(SelectionError, match="Backwards has to see all rows"):
        select_streaming(rows.to_iterable_dataset(), Backwards(by="ifd"), 5)


def test_missing_or_non_numeric_column(rows):
    stream = rows.to_iterable_dataset()
    with pytest.raises(ColumnError, match=r"Top needs column 'idf', but the stream has .*Did you mean 'ifd'\?"):
        select_streaming(stream, Top(by="idf"), 5)
    with pytest.raises(
        ColumnError, match=r"Column 'prompt' holds text such as 'Count to 0\.', and a selection needs numbers"
    ):
        select_streaming(stream, Top(by="prompt"), 5)
