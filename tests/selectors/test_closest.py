"""Rows whose value is closest to a target."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, Value

from hf_datasel import Between, select
from hf_datasel.errors import ConfigError
from hf_datasel.scores import Length, Refusal
from hf_datasel.scoring.numbers import at_least
from hf_datasel.selection import explain
from hf_datasel.selectors import Chain, Closest, InRange, Random, TopShare, get_selector
from hf_datasel.testing import contract


@contract(Closest(by="ifd", target=0.5), Closest(by=Length(), target=4))
def test_contract(check, selector, rows):
    check(selector, rows)


@pytest.fixture
def rated():
    """Give eight rows with pass rates of eight answers, one of them without."""
    rates = [0.0, 1.0, 0.375, None, 0.5, 0.625, 0.125, float("-inf")]
    return Dataset.from_dict(
        {"prompt": ["Solve it."] * 8, "completion": [f"It is {row}." for row in range(8)], "pass_rate": rates}
    )


def test_closest_first_and_ties_to_the_lower_row(rated):
    assert select(rated, Closest("pass_rate", 0.5), size=7).indices.tolist() == [4, 2, 5, 6, 0, 1, 7]
    assert select(rated, Closest("pass_rate", 0.9), size=2).indices.tolist() == [1, 5]


def test_without_prompts_that_are_always_or_never_solved(rated):
    method = Chain([InRange("pass_rate", low=0.01, high=1.0)], Closest("pass_rate", 0.5))
    selection = select(rated, method, size=4)
    assert selection.indices.tolist() == [4, 2, 5, 6]
    excluded = {"with pass_rate < 0.01": 2, "with pass_rate >= 1": 1, "without pass_rate": 1}
    assert selection.provenance["exclusions"] == excluded


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_decides_no_tie(rated, dtype):
    rates = [0.6, 0.7, 0.4, 0.3, 0.6, 0.4, 0.9, 0.1]
    data = rated.remove_columns("pass_rate").add_column("pass_rate", rates, feature=Value(dtype))
    assert select(data, Closest("pass_rate", 0.5), size=8).indices.tolist() == [0, 2, 4, 5, 1, 3, 6, 7]


def test_bounds_of_rates_are_those_of_float32(rated):
    rates = [0.1, 0.3, 0.6, 0.7, 0.8, 0.9, 1.0, None]
    data = rated.remove_columns("pass_rate").add_column("pass_rate", rates, feature=Value("float32"))
    for number, bound in enumerate(rates[:7]):
        for limits, kept in (({"low": bound}, range(number, 7)), ({"high": bound}, range(number))):
            between = data.add_column("n", range(8)).filter(Between("pass_rate", **limits), batched=True)
            assert between["n"][:] == list(kept)
            if len(kept):
                selection = select(data, Chain([InRange("pass_rate", **limits)], Random()), size=len(kept))
                assert sorted(selection.indices.tolist()) == list(kept)
                assert sum(selection.provenance["exclusions"].values()) == 8 - len(kept)
        if number:
            share = select(data, Chain([TopShare("pass_rate", 1, high=bound)], Random()), size=number)
            assert sorted(share.indices.tolist()) == list(range(number))
    assert [bool(at_least(*pair)) for pair in ((0.0, 1e-50), (float("-inf"), -1e300), (np.nan, 0))] == [False] * 3


def test_explanation(rated):
    selection = select(rated, get_selector("closest", {"by": "pass_rate", "target": 0.5}), size=3)
    decided = " ".join(explain(selection, rated, 6)["decided"])
    assert "Its pass_rate is 0.125, at a distance of 0.375 from the target 0.5. Of the 7 rows to select" in decided
    assert "to select from, 3 are closer; the largest" in decided
    assert "the largest distance that was selected is 0.125." in decided


def test_target_outside_the_values_warns(rated, caplog):
    select(rated, Closest("pass_rate", target=1.0), size=2)
    assert not any("outside" in message for message in caplog.messages)
    select(rated, Closest("pass_rate", target=50), size=2)
    assert "the target 50 is outside the range of pass_rate, 0 to 1: the highest values" in " ".join(caplog.messages)


def test_score_without_a_bound():
    with pytest.raises(ConfigError, match=r"InRange\(by=Refusal\(.*\)\) has no bound.*: set low, high or both\."):
        InRange(Refusal())


@pytest.mark.parametrize("target", [float("nan"), float("inf"), "0.5", True])
def test_invalid_target(target):
    with pytest.raises(ConfigError, match=r"Closest\(target="):
        Closest("pass_rate", target)
