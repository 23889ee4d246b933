"""t-SNE maps: their rows, preserved neighbours, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_datasel.analysis import draw_tsne, tsne_map
from hf_datasel.errors import ConfigError, SelectionError


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Give three groups of 60 rows far apart, one after the other in turn, in 70 dimensions."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(3, 70)) * 8)[np.arange(180) % 3] + rng.normal(size=(180, 70))


@pytest.fixture(scope="module")
def tsne(vectors):
    selected = {"first": np.arange(0, 60, 3), "best of all": np.array([179, 5, 5, 7])}
    return tsne_map("embedding", vectors, selected, sample=100, max_selected=10, seed=1)


def test_rows_of_the_map(tsne):
    assert json.loads(json.dumps(tsne)) == tsne
    assert tsne["rows"] == sorted(set(tsne["rows"]))
    assert len(tsne["points"]) == len(tsne["rows"]) <= 100 + 10 + 3
    assert len(tsne["sampled"]) == 100
    first, best = ([tsne["rows"][index] for index in tsne["selected"][name]] for name in ("first", "best of all"))
    assert len(first) == 10 and set(first) <= set(range(0, 60, 3))
    assert best == [5, 7, 179]
    assert tsne["selected_rows"] == {"first": 20, "best of all": 3}
    assert tsne["pool_rows"] == 180
    points = np.array(tsne["points"])
    assert points.min(axis=0).tolist() == [0, 0] and points.max() == 10_000
    assert set(tsne["sampled"]) | {index for positions in tsne["selected"].values() for index in positions} == set(
        range(len(points))
    )


def test_neighbours_are_preserved(tsne):
    points, group = np.array(tsne["points"], dtype=float), np.array(tsne["rows"]) % 3
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    assert (group[apart.argmin(axis=1)] == group).mean() > 0.95


def test_seed(vectors, tsne):
    selected = {"first": np.arange(0, 60, 3), "best of all": np.array([179, 5, 7])}
    settings = {"sample": 100, "max_selected": 10}
    assert tsne_map("embedding", vectors, selected, seed=1, **settings) == tsne
    assert tsne_map("embedding", 1e-3 * vectors + 5, selected, seed=1, **settings)["rows"] == tsne["rows"]
    assert tsne_map("embedding", vectors, selected, seed=2, **settings)["rows"] != tsne["rows"]


def test_rows_without_vector_are_ignored(vectors):
    holes = vectors[:30].astype(np.float32)
    holes[[2, 9]] = np.nan
    before = holes.copy()
    tsne = tsne_map("embedding", holes, {"a": np.array([1, 2, 3])})
    assert np.array_equal(holes, before, equal_nan=True)
    assert not {2, 9} & set(tsne["rows"])
    assert tsne["selected_rows"] == {"a": 2} and tsne["pool_rows"] == 28
    assert tsne["perplexity"] == 9.0


@pytest.mark.parametrize("shape", [(5, 1), (6, 2), (40, 1), (8, 300)])
def test_few_rows_or_dimensions(shape):
    tsne = tsne_map("embedding", np.random.default_rng(0).normal(size=shape), {}, sample=shape[0])
    assert len(tsne["points"]) == shape[0] and tsne["selected"] == {}
    assert len({tuple(point) for point in tsne["points"]}) > shape[0] // 2


def test_equal_vectors():
    vectors = np.repeat(np.eye(4), 10, axis=0)
    points = np.array(tsne_map("embedding", vectors, {})["points"])
    assert len(points) == 40 and np.ptp(points) == 10_000


def test_invalid_maps(vectors):
    for wrong, message in (
        (np.zeros(4), r"got float64 of shape \(4,\)"),
        (np.array([["a"]]), r"got <U1 of shape"),
        (np.full((9, 2), np.nan), r"needs at least 5 rows with a vector in 'embedding', and has 0"),
        (vectors[:4], r"and has 4"),
        (np.full((9, 2), 0.1), r"are all equal"),
    ):
        with pytest.raises(SelectionError, match=message):
            tsne_map("embedding", wrong, {})
    for rows in ([0, 180], [-1]):
        with pytest.raises(SelectionError, match=r"'mine' has row numbers from .* but the pool has 180 rows"):
            tsne_map("embedding", vectors, {"mine": np.array(rows)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample": 0}, r"sample=0 has to be an int of at least 1"),
        ({"max_selected": 1.5}, r"max_selected=1.5"),
        ({"seed": -1}, r"seed=-1 has to be an int of at least 0"),
        ({"perplexity": 0}, r"perplexity=0 has to be a number above 0"),
        ({"perplexity": float("nan")}, r"perplexity=nan"),
    ],
)
def test_invalid_settings(vectors, settings, message):
    with pytest.raises(ConfigError, match=message):
        tsne_map("embedding", vectors, {}, **settings)


# -- the plot ---------------------------------------------------------------------------------------------------------
def test_draw_tsne_legend(tsne):
    alone = {**tsne, "selected": {"_first": tsne["selected"]["first"]}, "selected_rows": {"_first": 20}}
    [axes] = draw_tsne(alone, "Map").axes
    named = [text.get_text().strip() for text in axes.get_legend().get_texts()]
    assert named == ["pool: 100 rows", "_first: 10 of 20 rows"]
    pool, selected = axes.collections
    assert len(pool.get_offsets()) == 100
    points = np.array(tsne["points"])[tsne["selected"]["first"]]
    assert np.asarray(selected.get_offsets()).tolist() == points.tolist()


@pytest.mark.parametrize("count", [0, 2, 4, 7])
def test_draw_tsne_of_several_selections(tsne, count):
    names = [f"{index} {'W' * 40}" for index in range(count)]
    many = {**tsne, "selected": {name: [0, 3] for name in names}, "selected_rows": dict.fromkeys(names, 2)}
    figure = draw_tsne({**many, "column": "W" * 50}, "W" * 90, dark=count == 4)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert [title.split("\n")[1] for title in titles] == ["2 rows"] * (count if count > 1 else 0)
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.collections]
    for index, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[index + 1 :])
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
