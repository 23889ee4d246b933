"""A share of the rows with the highest values, as a first pass before a selector."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.errors import ConfigError
from hf_datasel.scores import IFD, Length
from hf_datasel.selection import explain
from hf_datasel.selectors import Chain, IterIT, Random, Top, TopShare, get_selector
from hf_datasel.testing import contract


@contract(
    Chain([TopShare("ifd", 0.8)], Random()),
    Chain([TopShare(Length(), 0.9), TopShare("loss", 0.9, high=5.0)], Top(by="ifd")),
)
def test_contract(check, selector, full):
    check(selector, full)


@pytest.fixture
def data():
    """Give 10 rows with values from 0.1 to 1.2, one of them without a value, and two that are equal."""
    values = [0.1, 1.2, 0.9, 0.5, None, 0.5, 0.7, 1.0, 0.3, 0.2]
    return Dataset.from_dict(
        {"prompt": ["Say it."] * 10, "completion": [f"It {row}." for row in range(10)], "v": values}
    )


def kept(data, **settings):
    selection = select(data, Chain([TopShare("v", **settings)], Random()), size=1)
    excluded = sum(selection.provenance["exclusions"].values())
    return sorted(
        select(data, Chain([TopShare("v", **settings)], Random()), size=len(data) - excluded).indices.tolist()
    )


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"share": 0.3}, [1, 2, 7]),
        ({"share": 0.3, "high": 1.0}, [2, 3, 6]),
        ({"share": 0.39, "high": 1.0}, [2, 3, 6]),
        ({"share": 0.05}, [1]),
        ({"share": 1}, [0, 1, 2, 3, 5, 6, 7, 8, 9]),
    ],
    ids=["highest", "below-1", "rounded-down-and-ties", "one-row", "all-with-a-value"],
)
def test_highest_values_are_kept(data, settings, rows):
    assert kept(data, **settings) == rows


def test_excluded_rows_are_counted_and_explained(data):
    selection = select(data, Chain([TopShare("v", 0.4, high=1.0)], Top(by="v")), size=2)
    assert selection.indices.tolist() == [2, 6]
    assert selection.provenance["exclusions"] == {
        "without v": 1, "with v >= 1": 2, "below the highest 0.4 of v": 3,
    }  # fmt: skip
    assert explain(selection, data, 8)["decided"] == [
        "The filter 'highest 0.4 of v below 1' excluded it: below the highest 0.4 of v.",
        "Its v is 0.3; the lowest that was kept is 0.5.",
    ]


def test_first_pass_of_another_model(pool_rows, tiny_model_dir, tiny_text_model_dir, passes):
    small, large = str(tiny_text_model_dir), str(tiny_model_dir)
    chain = Chain([TopShare(IFD(small, column_prefix="small_"), 0.3, high=1.0)], IterIT())
    selection = select(pool_rows, chain, size=2, model=large)
    assert sum(passes) == 2 * (24 + 7), "the large model scores the share alone"
    first = selection.scores("small_ifd")
    below = np.flatnonzero(first < 1)
    share = below[np.argsort(-first[below], kind="stable")][:7]
    assert np.flatnonzero(np.isfinite(selection.scores("ifd"))).tolist() == sorted(share.tolist())
    alone = select(pool_rows.select(np.sort(share)), IterIT(), size=2, model=large)
    assert selection.indices.tolist() == np.sort(share)[alone.indices].tolist()


def test_settings(data):
    recipe = {"filters": [{"filter": "top_share", "by": "v", "share": 0.3}], "then": {"selector": "random"}}
    assert get_selector("chain", recipe) == Chain([TopShare("v", 0.3)], Random())
    for share in (0, 1.5, "half"):
        with pytest.raises(ConfigError, match=r"TopShare\(share="):
            TopShare("v", share)


@pytest.mark.parametrize("share", [0.07, 0.29, 0.57, 0.58])
def test_share_is_not_cut_by_floating_point(share):
    data = Dataset.from_list([{"prompt": "a", "completion": "b", "loss": float(row)} for row in range(100)])
    excluded = select(data, Chain([TopShare("loss", share)], Random()), size=5).provenance["exclusions"]
    assert sum(excluded.values()) == 100 - round(100 * share)
