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
    draw_cluster_fits,
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
from hf_datasel.analysis.clusters import ClusterFits
from hf_datasel.analysis.plots.clusters import labelled_ks
from hf_datasel.analysis.plots.spreads import bin_shares, integer_bins
from hf_datasel.analysis.plots.theme import drawable, format_number, log_ticks, shortened, theme_of, theme_settings
from hf_datasel.errors import DataselError

POOL = np.random.default_rng(0).lognormal(3, 1, 300)
GROUPS = {"pool": POOL, "selected": POOL[POOL > 60], "Random": POOL[:30], "Longest": np.sort(POOL)[-30:]}

KS = [64, 128, 256, 512, 1024, 2048, 4096]
SILHOUETTES, INERTIAS = [0.17, 0.16, 0.14, 0.17, 0.18, 0.2, 0.19], [0.7, 0.6, 0.52, 0.46, 0.42, 0.4, 0.39]
FITS = ClusterFits(
    ks=KS, silhouette=SILHOUETTES, spread=[0.01] * 7, starts=5, inertia=INERTIAS, best=2048, ties=[4096], elbow=512,
    rows=50_000, sample=10_000,
)  # fmt: skip
QUALITY = cluster_quality({2: np.array([0, 0, 1, 1]), 4: np.arange(4)}, np.array([0.1, 0.2, 0.2, 0.9]))


def texts(figure) -> list[str]:
    """List all that is written in a figure and is seen."""
    from matplotlib.text import Text

    return [item.get_text() for item in figure.findobj(Text) if item.get_visible() and item.get_text().strip()]


def test_bin_shares_per_group():
    for log in (False, True):
        summary = distribution("x", GROUPS, log=log)
        for group in summary["groups"]:
            assert bin_shares(summary, group).sum() == pytest.approx(sum(group["counts"]) / group["rows"], rel=1e-3)
    words = distribution("words", {"pool": np.arange(1, 9)}, bins=4, log=True)
    density = bin_shares(words, words["groups"][0]) / np.array(words["groups"][0]["counts"])
    assert density == pytest.approx(1 / np.diff(np.log(words["edges"])) * density[0] * np.log(words["edges"][1] * 2))


def test_draw_scores_labels():
    summary = distribution("ifd", {"pool": POOL, "selected": POOL[:1]})
    figure = draw_scores(summary, "The title")
    shown = texts(figure)
    assert "The title" in shown
    assert f"pool: 300 rows, median {np.median(POOL):.3g}" in shown
    assert f"selected: 1 row, median {POOL[0]:.3g}" in shown
    assert "ifd (not shown: 6 of pool)" in shown
    [axes] = figure.axes
    assert {line.get_xdata()[0] for line in axes.lines} == {group["quantiles"][2] for group in summary["groups"]}


def test_draw_lengths_labels():
    summary = distribution("response_words", GROUPS, log=True)
    figure = draw_lengths(summary)
    labels = [label.get_text().split("\n") for label in figure.axes[0].get_yticklabels()]
    assert labels == [[name, f"median {np.median(values):.3g}"] for name, values in GROUPS.items()]
    assert figure.axes[0].get_xscale() == "log"


def test_draw_overlaps_shows_each_pair_once():
    named = {f"selection {index}": np.arange(index, index + 20) for index in range(4)}
    figure = draw_overlaps(overlaps(named, 400))
    numbers = [item for item in texts(figure) if item.startswith("0.") or item == "1.00"]
    assert sorted(numbers) == ["0.74", "0.82", "0.82", "0.90", "0.90", "0.90"]
    assert "Jaccard (rows in both / rows in either); two random selections from the pool: 0.026" in texts(figure)


def test_draw_overlaps_with_shortlist():
    named = {f"round {index}": np.arange(index, index + 20) for index in range(2)} | {"Random": np.arange(0, 400, 20)}
    figure = draw_overlaps(overlaps(named, 400, (["round 0", "round 1"], 60)))
    shown = [item for item in texts(figure) if item.startswith("Jaccard")]
    assert shown == [
        "Jaccard (rows in both / rows in either); two random selections from the pool: 0.026,\n"
        "from the 60 rows that round 0 and round 1 are all from: 0.20"
    ]
    check_inside(figure)


@pytest.mark.parametrize("dark", [False, True])
def test_few_integers_have_a_bar_each(dark):
    words = np.array([1] * 50 + [4] * 50)
    summary = distribution("response_words", {"pool": words, "selected": np.array([1, 1, 4])}, log=True)
    assert integer_bins(summary) == [1, 2, 3, 4]
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
    check_inside(figure)
    assert draw_scores(summary).axes[0].get_xticks().tolist() == [1, 2, 3, 4]


def test_many_integers_on_a_log_axis():
    summary = distribution("response_words", {"pool": np.arange(1, 60)}, log=True)
    assert integer_bins(summary) == []
    assert draw_lengths(summary).axes[0].get_xscale() == "log"


def test_format_number_near_1():
    shown = [format_number(item) for item in (1.0, 1.003, 0.9996, 0.99996, -1.0004, 0.964, 1.01, 1.0000001)]
    assert shown == ["1", "1.003", "0.9996", "0.99996", "-1.0004", "0.964", "1.01", "1"]


@pytest.mark.parametrize("count", [2, 12])
def test_draw_overlaps_of_few_and_many_selections(count):
    named = {f"a rather long name of a method, {index}": np.arange(index, index + 20) for index in range(count)}
    figure = draw_overlaps(overlaps(named, 400), dark=True)
    assert len([item for item in texts(figure) if item.startswith("0.")]) == count * (count - 1) / 2
    check_inside(figure)


def test_draw_map_discs():
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    summary = embedding_map("embedding", vectors, np.arange(20), bins=10)
    figure = draw_map(summary)
    [discs] = [item for item in figure.axes[0].collections if type(item).__name__ == "PathCollection"]
    cells = np.argwhere(np.array(summary["selected"]))
    x, y = (np.convolve(summary[axis], [0.5, 0.5], "valid") for axis in ("x", "y"))
    assert np.asarray(discs.get_offsets()) == pytest.approx(
        np.stack([x[cells[:, 1]], y[cells[:, 0]]], axis=1), abs=1e-4
    )
    assert "pool: 300 rows" in texts(figure)
    draw_map(embedding_map("embedding", vectors, np.array([], dtype=np.int64)))


@pytest.mark.parametrize("count", [1, 4, 30])
def test_draw_rounds_labels(count):
    rounds = [(index, POOL + index, POOL[:30] + index) for index in range(count)]
    figure = draw_rounds(distribution_by_round("ifd", rounds, log=True))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) == {1: 1, 4: 4, 30: 10}[count]
    assert labels[-1].startswith({1: "round 0\n", 4: "round 3\n", 30: "27"}[count])


def test_draw_loss_skips_nan():
    figure = draw_loss([(1, 3.0), (2, float("nan")), (3, 2.0)], [(3, 2.5)])
    training, evaluation = figure.axes[0].lines
    assert training.get_xydata().tolist() == [[1, 3], [3, 2]]
    assert evaluation.get_xydata().tolist() == [[3, 2.5]]


@pytest.mark.parametrize("dark", [False, True])
def test_draw_cluster_fits(dark):
    figure = draw_cluster_fits(FITS, "How many", dark)
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [list(item) for item in zip(KS, SILHOUETTES, strict=True)]
    bars = [segment[:, 1].tolist() for segment in left.collections[0].get_segments()]
    assert bars == [pytest.approx([value - 0.01, value + 0.01]) for value in SILHOUETTES]
    assert right.lines[0].get_xydata().tolist() == [list(item) for item in zip(KS, INERTIAS, strict=True)]
    assert [left.lines[-1].get_xydata().tolist(), right.lines[-1].get_xydata().tolist()] == [
        [[2048, 0.2]],
        [[512, 0.46]],
    ]
    assert {"How many", "highest at k = 2,048 or 4,096", "elbow at k = 512"} <= set(texts(figure))
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    check_inside(figure)


@pytest.mark.parametrize("ks", [[50], [2, 3], [1000, 1001, 1002], list(range(2, 400))])
def test_draw_cluster_fits_with_any_k(ks):
    silhouettes, spread = {"silhouette": [0.5] * len(ks), "spread": [None] * len(ks)}, {"ties": ks[1:], "starts": 1}
    summary = ClusterFits(FITS, ks=ks, **silhouettes, **spread, inertia=[9.0] * len(ks), best=ks[0], elbow=None)
    figure = draw_cluster_fits(summary)
    assert f"highest at k = {ks[0]:,}" in texts(figure)
    assert "no elbow" in texts(figure)
    labels = figure.axes[0].get_xticklabels()
    assert f"{ks[0]:,}" in [label.get_text() for label in labels]
    boxes = [label.get_window_extent() for label in labels]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    check_inside(figure)


def test_marked_k_is_labelled():
    for marked in KS:
        assert marked in labelled_ks(KS, marked, 1.0)
    assert labelled_ks(KS, None, 20.0) == KS


def test_draw_cluster_quality():
    figure = draw_cluster_quality(QUALITY)
    [line] = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[2, 0.5], [4, 0.75]]
    assert "mean quality below 0.3" in texts(figure)
    assert {"share of clusters", "0%", "80%"} <= set(texts(figure))
    check_inside(figure)


def check_inside(figure) -> None:
    """Check that nothing sticks out of the image."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


@pytest.mark.parametrize("dark", [False, True])
def test_layout_and_contrast(dark):
    theme = theme_of(dark)
    for colour in (theme.ink, theme.muted, theme.selected, *theme.others):
        assert contrast(colour, theme.background) > 4.5
    for colour in (theme.pool, *theme.density):
        assert contrast(theme.selected, colour) > 2
    name = "W" * 500
    figure = draw_scores(distribution(name, {name: POOL, "selected": POOL[:9]}), name, dark)
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == theme.background
    check_inside(figure)


def contrast(one: str, other: str) -> float:
    """How far two colours are apart, 1 to 21, as WCAG counts it."""
    lights = []
    for colour in (one, other):
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


def test_rcparams_are_neither_used_nor_changed():
    settings = {"font.family": ["serif"], "axes.facecolor": "red", "font.size": 30.0, "text.usetex": False}
    with matplotlib.rc_context(settings):
        before = dict(matplotlib.rcParams)
        figure = draw_lengths(distribution("x", GROUPS))
        assert dict(matplotlib.rcParams) == before
    assert matplotlib.colors.to_hex(figure.axes[0].get_facecolor()) == "#ffffff"
    assert {label.get_fontname() for label in figure.axes[0].get_xticklabels()} == {"DejaVu Sans"}
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("draw", [getattr(plots, name) for name in plots.__all__ if name.startswith("draw_")])
def test_without_matplotlib(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = {
        "draw_map": embedding_map("x", np.eye(3), np.array([0])),
        "draw_overlaps": overlaps({"a": np.array([0]), "b": np.array([1])}, 2),
        "draw_rounds": distribution_by_round("x", [(0, POOL, POOL)]),
        "draw_loss": [(1, 2.0)],
        "draw_cluster_fits": FITS,
        "draw_cluster_quality": QUALITY,
    }
    with pytest.raises(
        DataselError, match=rf"{draw.__name__} draws with matplotlib.*pip install 'hf-datasel\[plot\]'"
    ):
        draw(arguments.get(draw.__name__, distribution("x", GROUPS)))


# -- text of other people ---------------------------------------------------------------------------------------------
def test_shortened():
    assert shortened("a\tb\u2028c\x00d\u202ee") == "a b c d e"
    assert shortened("x" * 500, 10) == "x" * 9 + "…"
    assert shortened("") == ""


def test_drawable_replaces_missing_characters():
    pytest.importorskip("matplotlib")
    assert drawable("naïve 日本") == "naïve □□"


def test_math_text_is_not_parsed():
    figure = draw_scores(distribution("$x^2$", {"$a_b$": POOL, "_c": POOL[:9]}), r"\frac $\alpha$")
    shown = " ".join(texts(figure))
    for item in ("$x^2$", "$a_b$", "_c", r"\frac $\alpha$"):
        assert item in shown
    with theme_settings(theme_of(False)):
        assert matplotlib.rcParams["text.parse_math"] is False
    assert not any(item.get_parse_math() for item in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("low", [1e-9, 0.2, 0.9, 1, 37, 1e6])
@pytest.mark.parametrize("factor", [1.0000001, 1.01, 1.2, 3, 9, 40, 2000, 1e9, 1e30])
def test_log_ticks(low, factor):
    ticks = log_ticks(low, low * factor)
    assert 1 < len(ticks) <= 8
    assert sorted(ticks) == ticks
    assert low * 0.99 <= ticks[0] and ticks[-1] <= low * factor * 1.01
