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
    selections = []
    for index, item in enumerate(weights):
        selection = select(rows, Random(), size=1)
        selection.provenance |= {
            "round": index,
            "notes": {"clusters": ids or list(range(len(item))), "cluster_weights": list(item)},
        }
        selections.append(selection)
    return selections


def test_curves_are_cumulative_weights():
    result = cluster_weights(rounds_of([0.25] * 4, [0.1, 0.6, 0.1, 0.2]))
    assert result["rounds"] == [0, 1]
    assert result["ranks"] == [1, 2, 3, 4]
    assert result["curves"] == [[0.25, 0.5, 0.75, 1.0], [0.6, 0.8, 0.9, 1.0]]
    entropy = -sum(item * np.log(item) for item in (0.1, 0.6, 0.1, 0.2))
    assert result["effective"] == [4.0, pytest.approx(np.exp(entropy), rel=1e-5)]
    assert json.loads(json.dumps(result))["clusters"] == 4


def test_moved_clusters():
    selections = rounds_of([0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5], [0.35, 0.1, 0.2, 0.35], ids=[3, 5, 8, 40])
    assert cluster_weights(selections, moved=3)["moved"] == [
        {"cluster": 5, "weights": [0.3, 0.0, 0.1]},
        {"cluster": 40, "weights": [0.2, 0.5, 0.35]},
        {"cluster": 3, "weights": [0.3, 0.0, 0.35]},
    ]
    assert cluster_weights(selections, moved=0)["moved"] == []
    assert len(cluster_weights(selections)["moved"]) == 4


def test_many_clusters():
    weights = np.random.default_rng(0).dirichlet(np.ones(2048), 3)
    result = cluster_weights(rounds_of(*weights.tolist()))
    assert (result["ranks"][0], result["ranks"][-1], result["clusters"]) == (1, 2048, 2048)
    assert len(result["ranks"]) <= 200
    for position, item in enumerate(weights):
        cumulative = np.cumsum(np.sort(item)[::-1])
        np.testing.assert_allclose(result["curves"][position], cumulative[np.array(result["ranks"]) - 1], rtol=1e-5)
        np.testing.assert_allclose(result["deciles"][position], np.quantile(item, [0.1, 0.9]), rtol=1e-5)
    assert len(json.dumps(result)) < 20_000


def test_invalid_rounds():
    with pytest.raises(SelectionError, match="at least two rounds, and got 1"):
        cluster_weights(rounds_of([1.0]))
    with pytest.raises(
        SelectionError, match=r"by random, round 0.* records no weights of clusters: only IterativeKMQ does"
    ):
        cluster_weights([select(ROWS, Random(), size=1)] * 2)
    with pytest.raises(SelectionError, match="different clusters"):
        cluster_weights([*rounds_of([0.5, 0.5]), *rounds_of([0.5, 0.5], ids=[1, 2])])
    with pytest.raises(DatasetMismatchError, match="different datasets"):
        cluster_weights([*rounds_of([0.5, 0.5]), *rounds_of([0.5, 0.5], rows=ROWS.select([0, 1]))])
    with pytest.raises(ConfigError, match="moved=-1 has to be a whole number"):
        cluster_weights(rounds_of([1.0], [1.0]), moved=-1)


def test_saved_selections(tmp_path):
    before = rounds_of([0.5, 0.5], [0.4, 0.6])
    for position, item in enumerate(before):
        item.save(tmp_path / str(position))
    assert cluster_weights([Selection.load(tmp_path / str(position)) for position in range(2)]) == cluster_weights(
        before
    )


# -- the plot ---------------------------------------------------------------------------------------------------------
def visible_texts(figure):
    from matplotlib.text import Text

    return [item.get_text() for item in figure.findobj(Text) if item.get_visible() and item.get_text().strip()]


@pytest.mark.parametrize(("clusters", "rounds"), [(1, 2), (2, 3), (64, 12), (2048, 3)])
@pytest.mark.parametrize("dark", [False, True])
def test_draw_cluster_weights_labels(clusters, rounds, dark):
    rng = np.random.default_rng(clusters)
    weights = [rng.dirichlet(np.full(clusters, 0.05 if position else 5.0)).tolist() for position in range(rounds)]
    summary = cluster_weights(rounds_of(*weights))
    figure = draw_cluster_weights(summary, "The title", dark)
    texts = visible_texts(figure)
    assert "The title" in texts
    assert f"all equal: {clusters:,} clusters" in texts
    labels_with_counts = [item for item in texts if item.endswith(" effective")]
    assert len(labels_with_counts) == min(rounds, 5)
    assert labels_with_counts[-1].startswith(f"round {rounds - 1}: ")
    assert {f"cluster {item['cluster']:,}" for item in summary["moved"]} <= set(texts)
    width, height = figure.canvas.get_width_height()
    labels = [item for item in figure.axes[-1].texts if item.get_text().startswith("cluster ")]
    boxes = sorted((item.get_window_extent() for item in labels), key=lambda box: box.y0)
    assert all(box.x0 > 0 and box.x1 <= width and box.y0 > 0 and box.y1 <= height for box in boxes)
    assert all(low.y1 <= high.y0 + 3 for low, high in pairwise(boxes))


def test_draw_cluster_weights_curves():
    summary = cluster_weights(rounds_of([0.25] * 4, [0.1, 0.6, 0.1, 0.2]))
    figure = draw_cluster_weights(summary)
    left, right = figure.axes[1:]
    equal, *curves = [line.get_ydata().tolist() for line in left.lines]
    assert equal == [0.25, 0.5, 0.75, 1.0]
    assert curves == summary["curves"]
    assert [line.get_ydata().tolist() for line in right.lines] == [item["weights"] for item in summary["moved"]]
