"""What of the top is replaced: by hand, against chance, and over the rounds of a run."""

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


def test_the_top_by_hand():
    before, after = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert top_share_replaced(before, after, 0.3)["replaced"] == 1
    assert top_share_replaced(before, before, 0.3)["replaced"] == 0
    assert top_share_replaced(before, after, 1.0)["replaced"] == 0
    found = top_share_replaced(before, after, 0.6)
    assert (found["top"], found["replaced"], found["chance"]) == (6, 0.666667, 0.4)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_what_two_sorted_lists_say(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 8, (2, 40)).astype(float)
    before[rng.random(40) < 0.2] = np.nan
    after[rng.random(40) < 0.2] = np.nan
    known = [row for row in range(40) if before[row] >= 0 and after[row] >= 0]
    top = max(len(known) // 4, 1)
    first, second = (set(sorted(known, key=lambda row: -scores[row])[:top]) for scores in (before, after))
    found = top_share_replaced(before, after, 0.25)
    assert (found["rows"], found["left_out"], found["top"]) == (len(known), 40 - len(known), top)
    assert found["replaced"] == pytest.approx(len(second - first) / top, rel=1e-5)


def test_unrelated_scores_come_to_chance():
    before, after = np.random.default_rng(0).random((2, 40_000))
    found = top_share_replaced(before, after, 0.2)
    assert found["chance"] == 0.8
    assert found["replaced"] == pytest.approx(0.8, abs=0.01)


def test_rows_that_score_too_high_are_in_no_top():
    before = [1.5, 0.9, 0.8, 0.1, 0.2]
    after = [0.99, 1.2, 0.9, 0.1, 0.2]
    assert top_share_replaced(before, after, 0.4)["replaced"] == 0  # rows 0 and 1 both times
    found = top_share_replaced(before, after, 0.4, high=1.0)  # rows 1 and 2, then 0 and 2
    assert (found["replaced"], found["rows"], found["top"]) == (0.5, 5, 2)
    with pytest.raises(SelectionError, match=r"top 1 of 5 rows are 5, and only 4 rows score below `high`"):
        top_share_replaced(before, after, 1, high=1.0)


def test_ties_are_not_drift():
    flat = np.ones(20)
    assert top_share_replaced(flat, 3 * flat, 0.25)["replaced"] == 0


def test_every_pair_of_times_next_ones_first():
    rng = np.random.default_rng(1)
    times = {name: rng.random(200) for name in "abcd"}
    found = drift_between("ifd", times, shares=[0.5, 0.05])
    assert json.loads(json.dumps(found)) == found
    assert found["shares"] == [0.05, 0.5]
    pairs = [pair["before"] + pair["after"] for pair in found["pairs"]]
    assert pairs == ["ab", "bc", "cd", "ac", "bd", "ad"]
    alone = [top_share_replaced(times["a"], times["c"], share)["replaced"] for share in (0.05, 0.5)]
    assert found["pairs"][3]["replaced"] == alone
    assert found["pairs"][3]["chance"] == [0.95, 0.5]


def test_rounds_are_compared_on_what_both_scored():
    rounds = [
        scored(0, [0.9, 0.8, 0.7, 0.6, None]),
        scored(1, [0.1, 0.8, 0.7, None, 0.9]),
        scored(2, [None, 0.1, 0.7, None, 0.9]),
    ]
    found = drift_by_round(rounds, "ifd", shares=[0.5])
    said = [(pair["before"], pair["after"], pair["rows"], pair["replaced"]) for pair in found["pairs"]]
    assert said == [
        ("round 0", "round 1", 3, [1.0]),  # of rows 0, 1, 2 the first, then row 1
        ("round 1", "round 2", 3, [0.0]),  # of rows 1, 2, 4 the last both times
        ("round 0", "round 2", 2, [1.0]),
    ]


def test_rounds_that_cannot_be_compared():
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
def test_shares_that_are_none(share):
    with pytest.raises(ConfigError, match=r"has to be a share of the rows, above 0 and at most 1"):
        top_share_replaced([1, 2], [1, 2], share)
    with pytest.raises(ConfigError, match=r"has to hold at least one share"):
        drift_between("ifd", {"a": [1], "b": [1]}, shares=[])


# -- the plot ---------------------------------------------------------------------------------------------------------
def test_a_line_for_each_pair_and_one_for_chance():
    rng = np.random.default_rng(2)
    found = drift_between("ifd", {name: rng.random(300) for name in ("base", "epoch 1", "epoch 2")})
    key, axes = draw_drift(found, "Drift").axes
    chance, *lines = axes.lines
    assert chance.get_ydata() == pytest.approx(1 - np.array(found["shares"]), abs=0.004)
    assert [list(line.get_ydata()) for line in lines] == [pair["replaced"] for pair in found["pairs"]]
    named = [text.get_text() for text in key.get_legend().get_texts()]
    at = found["shares"].index(0.05)
    assert named[0] == f"base → epoch 1: {found['pairs'][0]['replaced'][at]:.0%} at 5%"
    assert named[-1] == "two unrelated scores"
    assert axes.get_xlabel() == "top by ifd, of the 300 rows with both scores"
    assert "5%" in [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize(("times", "lines"), [(2, 1), (5, 6), (9, 6)])
def test_many_rounds_with_long_names_stay_inside(times, lines):
    rng = np.random.default_rng(3)
    named = {f"{at} {'W' * 60}": rng.random(50) for at in range(times)}
    figure = draw_drift(drift_between("a column of a long name that goes on", named, shares=[0.1]), "W" * 99, True)
    assert len(figure.axes[1].lines) == lines + 1
    assert ("6 of" in figure.axes[1].get_xlabel()) == (times > 4)
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
