"""Drift: numbers computed by hand, against chance, and over the rounds of a run."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel.analysis import draw_drift, drift_between, drift_by_round, top_share_replaced
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.selection import Selection


def scored(round: int, values: list[float | None], dataset: str = "pool") -> Selection:
    return Selection(
        np.array([0]), {"dataset": {"id": dataset}, "round": round}, pa.table({"ifd": pa.array(values, pa.float32())})
    )


def test_top_share_replaced_by_hand():
    before, after = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert top_share_replaced(before, after, 0.3)["replaced"] == 1
    assert top_share_replaced(before, before, 0.3)["replaced"] == 0
    assert top_share_replaced(before, after, 1.0)["replaced"] == 0
    result = top_share_replaced(before, after, 0.6)
    assert (result["top"], result["replaced"], result["chance"]) == (6, 0.666667, 0.4)


@pytest.mark.parametrize("seed", range(30))
def test_top_share_replaced_against_sorted_lists(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 8, (2, 40)).astype(float)
    before[rng.random(40) < 0.2] = np.nan
    after[rng.random(40) < 0.2] = np.nan
    both = [row for row in range(40) if before[row] >= 0 and after[row] >= 0]
    top = max(len(both) // 4, 1)
    first, second = (set(sorted(both, key=lambda row: -scores[row])[:top]) for scores in (before, after))
    result = top_share_replaced(before, after, 0.25)
    assert (result["rows"], result["unscored"], result["top"]) == (len(both), 40 - len(both), top)
    assert result["replaced"] == pytest.approx(len(second - first) / top, rel=1e-5)


def test_unrelated_scores_match_chance():
    before, after = np.random.default_rng(0).random((2, 40_000))
    result = top_share_replaced(before, after, 0.2)
    assert result["chance"] == 0.8
    assert result["replaced"] == pytest.approx(0.8, abs=0.01)


def test_high_excludes_rows_from_the_top():
    before = [1.5, 0.9, 0.8, 0.1, 0.2]
    after = [0.99, 1.2, 0.9, 0.1, 0.2]
    assert top_share_replaced(before, after, 0.4)["replaced"] == 0  # rows 0 and 1 both times
    result = top_share_replaced(before, after, 0.4, high=1.0)  # rows 1 and 2, then 0 and 2
    assert (result["replaced"], result["rows"], result["top"]) == (0.5, 5, 2)
    with pytest.raises(SelectionError, match=r"top 1 of 5 rows are 5, and only 4 rows score below `high`"):
        top_share_replaced(before, after, 1, high=1.0)


def test_high_of_scores_in_float32():
    """The float32 number for 0.9 is a little below 0.9, and counts as 0.9, as it does in selections."""
    before, after = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.8, 0.7, 0.6]], dtype=np.float32)
    assert top_share_replaced(before, after, 0.25, high=0.9)["replaced"] == 0  # row 1 both times
    assert top_share_replaced(before, after, 0.25)["replaced"] == 1  # row 0, then row 1


def test_ties_are_not_replaced():
    flat = np.ones(20)
    assert top_share_replaced(flat, 3 * flat, 0.25)["replaced"] == 0


def test_drift_between_every_pair():
    rng = np.random.default_rng(1)
    times = {name: rng.random(200) for name in "abcd"}
    result = drift_between("ifd", times, shares=[0.5, 0.05])
    assert json.loads(json.dumps(result)) == result
    assert result["shares"] == [0.05, 0.5]
    pairs = [pair["before"] + pair["after"] for pair in result["pairs"]]
    assert pairs == ["ab", "bc", "cd", "ac", "bd", "ad"]
    alone = [top_share_replaced(times["a"], times["c"], share)["replaced"] for share in (0.05, 0.5)]
    assert result["pairs"][3]["replaced"] == alone
    assert result["pairs"][3]["chance"] == [0.95, 0.5]


def test_drift_by_round():
    rounds = [
        scored(0, [0.9, 0.8, 0.7, 0.6, None]),
        scored(1, [0.1, 0.8, 0.7, None, 0.9]),
        scored(2, [None, 0.1, 0.7, None, 0.9]),
    ]
    result = drift_by_round(rounds, "ifd", shares=[0.5])
    pairs = [(pair["before"], pair["after"], pair["rows"], pair["replaced"]) for pair in result["pairs"]]
    assert pairs == [
        ("round 0", "round 1", 3, [1.0]),  # of rows 0, 1, 2 the first, then row 1
        ("round 1", "round 2", 3, [0.0]),  # of rows 1, 2, 4 the last both times
        ("round 0", "round 2", 2, [1.0]),
    ]


def test_invalid_rounds():
    one, other = scored(0, [0.5, None]), scored(1, [None, 0.5])
    with pytest.raises(SelectionError, match=r"No row has a score at both times \('round 0' and 'round 1'\)"):
        drift_by_round([one, other], "ifd")
    with pytest.raises(SelectionError, match=r"needs scores of at least two times, and got 1"):
        drift_by_round([one], "ifd")
    with pytest.raises(SelectionError, match=r"Of 2 selections, two are of the same round"):
        drift_by_round([one, one], "ifd")
    with pytest.raises(SelectionError, match=r"no score 'loss'"):
        drift_by_round([one, other], "loss")
    with pytest.raises(DatasetMismatchError, match="different datasets"):
        drift_by_round([one, scored(1, [0.5, 0.5], "other")], "ifd")
    with pytest.raises(SelectionError, match=r"shapes \(2,\) and \(3,\)"):
        top_share_replaced([1, 2], [1, 2, 3])
    with pytest.raises(SelectionError, match=r"No row has a score at both times \(before and after\)"):
        top_share_replaced([np.nan, 1], [2, np.inf])


@pytest.mark.parametrize("share", [0, -0.1, 1.1, True, "5%", float("nan")])
def test_invalid_shares(share):
    with pytest.raises(ConfigError, match=r"has to be a share of the rows, above 0 and at most 1"):
        top_share_replaced([1, 2], [1, 2], share)
    with pytest.raises(ConfigError, match=r"has to contain at least one share"):
        drift_between("ifd", {"a": [1], "b": [1]}, shares=[])


# -- the plot ---------------------------------------------------------------------------------------------------------
def test_draw_drift():
    rng = np.random.default_rng(2)
    result = drift_between("ifd", {name: rng.random(300) for name in ("base", "epoch 1", "epoch 2")})
    key, axes = draw_drift(result, "Drift").axes
    chance, *lines = axes.lines
    assert chance.get_ydata() == pytest.approx(1 - np.array(result["shares"]), abs=0.004)
    assert [list(line.get_ydata()) for line in lines] == [pair["replaced"] for pair in result["pairs"]]
    named = [text.get_text() for text in key.get_legend().get_texts()]
    index = result["shares"].index(0.05)
    assert named[0] == f"base → epoch 1: {result['pairs'][0]['replaced'][index]:.0%} at 5%"
    assert named[-1] == "two unrelated scores"
    assert axes.get_xlabel() == "top by ifd, of the 300 rows with both scores"
    assert "5%" in [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize(("times", "lines"), [(2, 1), (5, 6), (9, 6)])
def test_draw_drift_of_many_rounds(times, lines):
    rng = np.random.default_rng(3)
    named = {f"{index} {'W' * 60}": rng.random(50) for index in range(times)}
    figure = draw_drift(drift_between("a column of a long name that goes on", named, shares=[0.1]), "W" * 99, True)
    assert len(figure.axes[1].lines) == lines + 1
    assert ("6 of" in figure.axes[1].get_xlabel()) == (times > 4)
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
