from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import Selection, select
from hf_datasel.analysis import cluster_weights, draw_cluster_weights
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.selectors import Random

ROWS = Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"]})


def rounds_of(*weights, ids=None, rows=ROWS):
    """Selections of a run with these weights in its rounds."""
    made = []
    for index, each in enumerate(weights):
        selection = select(rows, Random(), size=1)
        selection.provenance |= {
            "round": index,
            "notes": {"clusters": ids or list(range(len(each))), "cluster_weights": list(each)},
        }
        made.append(selection)
    return made


def test_curves_are_what_the_heaviest_have_together():
    found = cluster_weights(rounds_of([0.25] * 4, [0.1, 0.6, 0.1, 0.2]))
    assert found["rounds"] == [0, 1]
    assert found["ranks"] == [1, 2, 3, 4]
    assert found["curves"] == [[0.25, 0.5, 0.75, 1.0], [0.6, 0.8, 0.9, 1.0]]
    entropy = -sum(each * np.log(each) for each in (0.1, 0.6, 0.1, 0.2))
    assert found["effective"] == [4.0, pytest.approx(np.exp(entropy), rel=1e-5)]
    assert json.loads(json.dumps(found))["clusters"] == 4


def test_the_clusters_that_moved_most_come_first_under_their_own_numbers():
    selections = rounds_of([0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5], [0.35, 0.1, 0.2, 0.35], ids=[3, 5, 8, 40])
    assert cluster_weights(selections, moved=3)["moved"] == [
        {"cluster": 5, "weights": [0.3, 0.0, 0.1]},
        {"cluster": 40, "weights": [0.2, 0.5, 0.35]},
        {"cluster": 3, "weights": [0.3, 0.0, 0.35]},
    ]
    assert cluster_weights(selections, moved=0)["moved"] == []
    assert len(cluster_weights(selections)["moved"]) == 4


def test_many_clusters_make_a_short_summary():
    weights = np.random.default_rng(0).dirichlet(np.ones(2048), 3)
    found = cluster_weights(rounds_of(*weights.tolist()))
    assert (found["ranks"][0], found["ranks"][-1], found["clusters"]) == (1, 2048, 2048)
    assert len(found["ranks"]) <= 200
    for at, each in enumerate(weights):
        together = np.cumsum(np.sort(each)[::-1])
        np.testing.assert_allclose(found["curves"][at], together[np.array(found["ranks"]) - 1], rtol=1e-5)
        np.testing.assert_allclose(found["middle"][at], np.quantile(each, [0.1, 0.9]), rtol=1e-5)
    assert len(json.dumps(found)) < 20_000


def test_what_cannot_be_compared():
    with pytest.raises(SelectionError, match="at least two rounds, and got 1"):
        cluster_weights(rounds_of([1.0]))
    with pytest.raises(
        SelectionError, match=r"by random, round 0.* records no weights of clusters: IterativeKMQ does"
    ):
        cluster_weights([select(ROWS, Random(), size=1)] * 2)
    with pytest.raises(SelectionError, match="different clusters"):
        cluster_weights([*rounds_of([0.5, 0.5]), *rounds_of([0.5, 0.5], ids=[1, 2])])
    with pytest.raises(DatasetMismatchError, match="different datasets"):
        cluster_weights([*rounds_of([0.5, 0.5]), *rounds_of([0.5, 0.5], rows=ROWS.select([0, 1]))])
    with pytest.raises(ConfigError, match="moved=-1 has to be a whole number"):
        cluster_weights(rounds_of([1.0], [1.0]), moved=-1)


def test_a_selection_that_was_saved_has_its_weights(tmp_path):
    before = rounds_of([0.5, 0.5], [0.4, 0.6])
    for at, each in enumerate(before):
        each.save(tmp_path / str(at))
    assert cluster_weights([Selection.load(tmp_path / str(at)) for at in range(2)]) == cluster_weights(before)


# -- the plot --------------------------------------------------------------------------------------------------------
def said(figure):
    from matplotlib.text import Text

    return [each.get_text() for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]


@pytest.mark.parametrize(("clusters", "rounds"), [(1, 2), (2, 3), (64, 12), (2048, 3)])
@pytest.mark.parametrize("dark", [False, True])
def test_the_plot_names_rounds_and_clusters_and_nothing_is_written_over_something(clusters, rounds, dark):
    rng = np.random.default_rng(clusters)
    weights = [rng.dirichlet(np.full(clusters, 0.05 if at else 5.0)).tolist() for at in range(rounds)]
    summary = cluster_weights(rounds_of(*weights))
    figure = draw_cluster_weights(summary, "The title", dark)
    texts = said(figure)
    assert "The title" in texts
    assert f"all equal: {clusters:,} clusters" in texts
    named = [each for each in texts if each.endswith(" effective")]
    assert len(named) == min(rounds, 5)
    assert named[-1].startswith(f"round {rounds - 1}: ")
    assert {f"cluster {each['cluster']:,}" for each in summary["moved"]} <= set(texts)
    width, height = figure.canvas.get_width_height()
    labels = [each for each in figure.axes[-1].texts if each.get_text().startswith("cluster ")]
    boxes = sorted((each.get_window_extent() for each in labels), key=lambda box: box.y0)
    assert all(box.x0 > 0 and box.x1 <= width and box.y0 > 0 and box.y1 <= height for box in boxes)
    assert all(low.y1 <= high.y0 + 3 for low, high in pairwise(boxes))


def test_the_curves_drawn_are_those_of_the_summary():
    summary = cluster_weights(rounds_of([0.25] * 4, [0.1, 0.6, 0.1, 0.2]))
    figure = draw_cluster_weights(summary)
    left, right = figure.axes[1:]
    equal, *curves = [line.get_ydata().tolist() for line in left.lines]
    assert equal == [0.25, 0.5, 0.75, 1.0]
    assert curves == summary["curves"]
    assert [line.get_ydata().tolist() for line in right.lines] == [each["weights"] for each in summary["moved"]]
