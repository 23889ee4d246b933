from __future__ import annotations

import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest

from hf_datasel.analysis import (
    cluster_quality,
    distribution,
    distribution_by_round,
    draw_cluster_choice,
    draw_cluster_quality,
    draw_lengths,
    draw_loss,
    draw_map,
    draw_overlaps,
    draw_rounds,
    draw_scores,
    embedding_map,
    overlaps,
    plots,
)
from hf_datasel.analysis.clusters import ClusterChoice
from hf_datasel.analysis.plots.clusters import named_ks
from hf_datasel.analysis.plots.spreads import bin_shares, few_whole
from hf_datasel.analysis.plots.theme import log_ticks, plain_number, printable, settings, shortened, theme_of
from hf_datasel.errors import DataselError

POOL = np.random.default_rng(0).lognormal(3, 1, 300)
GROUPS = {"pool": POOL, "chosen": POOL[POOL > 60], "Random": POOL[:30], "Longest": np.sort(POOL)[-30:]}

KS = [64, 128, 256, 512, 1024, 2048, 4096]
SILHOUETTES, INERTIAS = [0.17, 0.16, 0.14, 0.17, 0.18, 0.2, 0.19], [0.7, 0.6, 0.52, 0.46, 0.42, 0.4, 0.39]
CHOICE = ClusterChoice(
    ks=KS, silhouette=SILHOUETTES, inertia=INERTIAS, best=2048, elbow=512, rows=50_000, sample=10_000
)
QUALITY = cluster_quality({2: np.array([0, 0, 1, 1]), 4: np.arange(4)}, np.array([0.1, 0.2, 0.2, 0.9]))


def texts(figure) -> list[str]:
    """List all that is written in a figure and is seen."""
    from matplotlib.text import Text

    return [each.get_text() for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]


def test_shares_are_of_each_group_alone():
    for log in (False, True):
        summary = distribution("x", GROUPS, log=log)
        for group in summary["groups"]:
            assert bin_shares(summary, group).sum() == pytest.approx(sum(group["counts"]) / group["rows"], rel=1e-3)
    words = distribution("words", {"pool": np.arange(1, 9)}, bins=4, log=True)
    density = bin_shares(words, words["groups"][0]) / np.array(words["groups"][0]["counts"])
    assert density == pytest.approx(1 / np.diff(np.log(words["edges"])) * density[0] * np.log(words["edges"][1] * 2))


def test_scores_say_rows_medians_and_what_is_left_out():
    summary = distribution("ifd", {"pool": POOL, "chosen": POOL[:1]})
    figure = draw_scores(summary, "The title")
    said = texts(figure)
    assert "The title" in said
    assert f"pool: 300 rows, median {np.median(POOL):.3g}" in said
    assert f"chosen: 1 row, median {POOL[0]:.3g}" in said
    assert "ifd (not shown: 6 of pool)" in said
    [axes] = figure.axes
    assert {line.get_xdata()[0] for line in axes.lines} == {group["quantiles"][2] for group in summary["groups"]}


def test_lengths_are_named_one_by_one():
    summary = distribution("response_words", GROUPS, log=True)
    figure = draw_lengths(summary)
    labels = [label.get_text().split("\n") for label in figure.axes[0].get_yticklabels()]
    assert labels == [[name, f"median {np.median(values):.3g}"] for name, values in GROUPS.items()]
    assert figure.axes[0].get_xscale() == "log"


def test_overlaps_show_each_pair_once():
    named = {f"choice {at}": np.arange(at, at + 20) for at in range(4)}
    figure = draw_overlaps(overlaps(named, 400))
    numbers = [each for each in texts(figure) if each.startswith("0.") or each == "1.00"]
    assert sorted(numbers) == ["0.74", "0.82", "0.82", "0.90", "0.90", "0.90"]
    assert "Jaccard (rows in both / rows in either); two random draws from the pool: 0.026" in texts(figure)


def test_overlaps_of_a_shortlist_say_both_levels_of_chance():
    named = {f"round {at}": np.arange(at, at + 20) for at in range(2)} | {"Random": np.arange(0, 400, 20)}
    figure = draw_overlaps(overlaps(named, 400, (["round 0", "round 1"], 60)))
    said = [each for each in texts(figure) if each.startswith("Jaccard")]
    assert said == [
        "Jaccard (rows in both / rows in either); two random draws from the pool: 0.026,\n"
        "from the 60 rows that round 0 and round 1 are all from: 0.20"
    ]
    inside(figure)


@pytest.mark.parametrize("dark", [False, True])
def test_few_whole_numbers_have_a_bar_each(dark):
    words = np.array([1] * 50 + [4] * 50)
    summary = distribution("response_words", {"pool": words, "chosen": np.array([1, 1, 4])}, log=True)
    assert few_whole(summary) == [1, 2, 3, 4]
    figure = draw_lengths(summary, dark=dark)
    [axes] = figure.axes
    assert axes.get_xscale() == "linear"
    assert axes.get_xticks().tolist() == [1, 2, 3, 4]
    for bars, shares in zip(axes.containers, ([50, 0, 0, 50], [2, 0, 0, 1]), strict=True):
        centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        assert centres == pytest.approx([1, 2, 3, 4])
        assert len({round(bar.get_width(), 9) for bar in bars}) == 1
        heights = np.array([bar.get_height() for bar in bars])
        assert heights / heights.sum() == pytest.approx(np.array(shares) / sum(shares))
    inside(figure)
    assert draw_scores(summary).axes[0].get_xticks().tolist() == [1, 2, 3, 4]


def test_many_whole_numbers_keep_their_axis():
    summary = distribution("response_words", {"pool": np.arange(1, 60)}, log=True)
    assert few_whole(summary) == []
    assert draw_lengths(summary).axes[0].get_xscale() == "log"


def test_what_is_not_1_is_not_written_as_1():
    said = [plain_number(each) for each in (1.0, 1.003, 0.9996, 0.99996, -1.0004, 0.964, 1.01, 1.0000001)]
    assert said == ["1", "1.003", "0.9996", "0.99996", "-1.0004", "0.964", "1.01", "1"]


@pytest.mark.parametrize("count", [2, 12])
def test_few_and_many_choices(count):
    named = {f"a rather long name of a method, {at}": np.arange(at, at + 20) for at in range(count)}
    figure = draw_overlaps(overlaps(named, 400), dark=True)
    assert len([each for each in texts(figure) if each.startswith("0.")]) == count * (count - 1) / 2
    inside(figure)


def test_a_map_marks_the_cells_with_chosen_rows():
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    summary = embedding_map("embedding", vectors, np.arange(20), bins=10)
    figure = draw_map(summary)
    [discs] = [each for each in figure.axes[0].collections if type(each).__name__ == "PathCollection"]
    cells = np.argwhere(np.array(summary["chosen"]))
    x, y = (np.convolve(summary[axis], [0.5, 0.5], "valid") for axis in ("x", "y"))
    assert np.asarray(discs.get_offsets()) == pytest.approx(
        np.stack([x[cells[:, 1]], y[cells[:, 0]]], axis=1), abs=1e-4
    )
    assert "pool: 300 rows" in texts(figure)
    draw_map(embedding_map("embedding", vectors, np.array([], dtype=np.int64)))


@pytest.mark.parametrize("count", [1, 4, 30])
def test_rounds_name_as_many_as_fit(count):
    rounds = [(at, POOL + at, POOL[:30] + at) for at in range(count)]
    figure = draw_rounds(distribution_by_round("ifd", rounds, log=True))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) == {1: 1, 4: 4, 30: 10}[count]
    assert labels[-1].startswith({1: "round 0\n", 4: "round 3\n", 30: "27"}[count])


def test_loss_leaves_out_what_is_not_finite():
    figure = draw_loss([(1, 3.0), (2, float("nan")), (3, 2.0)], [(3, 2.5)])
    training, evaluation = figure.axes[0].lines
    assert training.get_xydata().tolist() == [[1, 3], [3, 2]]
    assert evaluation.get_xydata().tolist() == [[3, 2.5]]


@pytest.mark.parametrize("dark", [False, True])
def test_silhouette_and_elbow_stand_side_by_side(dark):
    figure = draw_cluster_choice(CHOICE, "How many", dark)
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [list(each) for each in zip(KS, SILHOUETTES, strict=True)]
    assert right.lines[0].get_xydata().tolist() == [list(each) for each in zip(KS, INERTIAS, strict=True)]
    assert [left.lines[-1].get_xydata().tolist(), right.lines[-1].get_xydata().tolist()] == [
        [[2048, 0.2]],
        [[512, 0.46]],
    ]
    assert {"How many", "highest at k = 2,048", "elbow at k = 512"} <= set(texts(figure))
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    inside(figure)


@pytest.mark.parametrize("ks", [[50], [2, 3], [1000, 1001, 1002], list(range(2, 400))])
def test_any_k_is_drawn(ks):
    summary = ClusterChoice(CHOICE, ks=ks, silhouette=[0.5] * len(ks), inertia=[9.0] * len(ks), best=ks[0], elbow=None)
    figure = draw_cluster_choice(summary)
    assert "no elbow" in texts(figure)
    labels = figure.axes[0].get_xticklabels()
    assert f"{ks[0]:,}" in [label.get_text() for label in labels]
    boxes = [label.get_window_extent() for label in labels]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    inside(figure)


def test_the_marked_k_is_always_named():
    for marked in KS:
        assert marked in named_ks(KS, marked, 1.0)
    assert named_ks(KS, None, 20.0) == KS


def test_shares_of_low_clusters():
    figure = draw_cluster_quality(QUALITY)
    [line] = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[2, 0.5], [4, 0.75]]
    assert "mean quality below 0.3" in texts(figure)
    assert {"share of clusters", "0%", "80%"} <= set(texts(figure))
    inside(figure)


def inside(figure) -> None:
    """Check that nothing sticks out of the image."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_and_text_stands_out(dark):
    theme = theme_of(dark)
    for colour in (theme.ink, theme.muted, theme.chosen, *theme.others):
        assert contrast(colour, theme.ground) > 4.5
    for colour in (theme.pool, *theme.density):
        assert contrast(theme.chosen, colour) > 2
    name = "W" * 500
    figure = draw_scores(distribution(name, {name: POOL, "chosen": POOL[:9]}), name, dark)
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == theme.ground
    inside(figure)


def contrast(one: str, other: str) -> float:
    """How far two colours are apart, 1 to 21, as WCAG counts it."""
    lights = []
    for colour in (one, other):
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


def test_settings_of_others_are_neither_used_nor_changed():
    ours = {"font.family": ["serif"], "axes.facecolor": "red", "font.size": 30.0, "text.usetex": False}
    with matplotlib.rc_context(ours):
        before = dict(matplotlib.rcParams)
        figure = draw_lengths(distribution("x", GROUPS))
        assert dict(matplotlib.rcParams) == before
    assert matplotlib.colors.to_hex(figure.axes[0].get_facecolor()) == "#ffffff"
    assert {label.get_fontname() for label in figure.axes[0].get_xticklabels()} == {"DejaVu Sans"}
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("draw", [getattr(plots, name) for name in plots.__all__ if name.startswith("draw_")])
def test_without_matplotlib_the_extra_is_named(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = {
        "draw_map": embedding_map("x", np.eye(3), np.array([0])),
        "draw_overlaps": overlaps({"a": np.array([0]), "b": np.array([1])}, 2),
        "draw_rounds": distribution_by_round("x", [(0, POOL, POOL)]),
        "draw_loss": [(1, 2.0)],
        "draw_cluster_choice": CHOICE,
        "draw_cluster_quality": QUALITY,
    }
    with pytest.raises(
        DataselError, match=rf"{draw.__name__} draws with matplotlib.*pip install 'hf-datasel\[plot\]'"
    ):
        draw(arguments.get(draw.__name__, distribution("x", GROUPS)))


# -- text of other people --------------------------------------------------------------------------------------------
def test_text_is_one_short_line():
    assert shortened("a\tb\u2028c\x00d\u202ee") == "a b c d e"
    assert shortened("x" * 500, 10) == "x" * 9 + "…"
    assert shortened("") == ""


def test_characters_that_the_font_lacks_are_boxes():
    pytest.importorskip("matplotlib")
    assert printable("naïve 日本") == "naïve □□"


def test_mathematics_is_left_as_it_is():
    figure = draw_scores(distribution("$x^2$", {"$a_b$": POOL, "_c": POOL[:9]}), r"\frac $\alpha$")
    said = " ".join(texts(figure))
    for each in ("$x^2$", "$a_b$", "_c", r"\frac $\alpha$"):
        assert each in said
    with settings(theme_of(False)):
        assert matplotlib.rcParams["text.parse_math"] is False
    assert not any(each.get_parse_math() for each in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("low", [1e-9, 0.2, 0.9, 1, 37, 1e6])
@pytest.mark.parametrize("factor", [1.0000001, 1.01, 1.2, 3, 9, 40, 2000, 1e9, 1e30])
def test_ticks_are_few_and_inside(low, factor):
    ticks = log_ticks(low, low * factor)
    assert 1 < len(ticks) <= 8
    assert sorted(ticks) == ticks
    assert low * 0.99 <= ticks[0] and ticks[-1] <= low * factor * 1.01
