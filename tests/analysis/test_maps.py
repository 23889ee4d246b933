"""t-SNE maps: which rows are in them, that neighbours stay neighbours, and what cannot be mapped."""

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
def found(vectors):
    chosen = {"first": np.arange(0, 60, 3), "best of all": np.array([179, 5, 5, 7])}
    return tsne_map("embedding", vectors, chosen, sample=100, most_chosen=10, seed=1)


def test_the_rows_in_a_map(found):
    assert json.loads(json.dumps(found)) == found
    assert found["rows"] == sorted(set(found["rows"]))
    assert len(found["points"]) == len(found["rows"]) <= 100 + 10 + 3
    assert len(found["sampled"]) == 100
    first, best = ([found["rows"][at] for at in found["chosen"][name]] for name in ("first", "best of all"))
    assert len(first) == 10 and set(first) <= set(range(0, 60, 3))
    assert best == [5, 7, 179]
    assert found["chosen_rows"] == {"first": 20, "best of all": 3}
    assert found["pool_rows"] == 180
    points = np.array(found["points"])
    assert points.min(axis=0).tolist() == [0, 0] and points.max() == 10_000
    assert set(found["sampled"]) | {at for each in found["chosen"].values() for at in each} == set(range(len(points)))


def test_the_nearest_in_the_map_are_of_the_same_group(found):
    points, group = np.array(found["points"], dtype=float), np.array(found["rows"]) % 3
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    assert (group[apart.argmin(axis=1)] == group).mean() > 0.95


def test_the_seed_decides(vectors, found):
    chosen = {"first": np.arange(0, 60, 3), "best of all": np.array([179, 5, 7])}
    settings = {"sample": 100, "most_chosen": 10}
    assert tsne_map("embedding", vectors, chosen, seed=1, **settings) == found
    assert tsne_map("embedding", 1e-3 * vectors + 5, chosen, seed=1, **settings)["rows"] == found["rows"]
    assert tsne_map("embedding", vectors, chosen, seed=2, **settings)["rows"] != found["rows"]


def test_vectors_are_left_alone_and_rows_without_one_left_out(vectors):
    holes = vectors[:30].astype(np.float32)
    holes[[2, 9]] = np.nan
    before = holes.copy()
    found = tsne_map("embedding", holes, {"a": np.array([1, 2, 3])})
    assert np.array_equal(holes, before, equal_nan=True)
    assert not {2, 9} & set(found["rows"])
    assert found["chosen_rows"] == {"a": 2} and found["pool_rows"] == 28
    assert found["perplexity"] == 9.0


@pytest.mark.parametrize("shape", [(5, 1), (6, 2), (40, 1), (8, 300)])
def test_few_rows_and_few_numbers(shape):
    found = tsne_map("embedding", np.random.default_rng(0).normal(size=shape), {}, sample=shape[0])
    assert len(found["points"]) == shape[0] and found["chosen"] == {}
    assert len({tuple(point) for point in found["points"]}) > shape[0] // 2


def test_equal_vectors_beside_others():
    vectors = np.repeat(np.eye(4), 10, axis=0)
    points = np.array(tsne_map("embedding", vectors, {})["points"])
    assert len(points) == 40 and np.ptp(points) == 10_000


def test_maps_that_cannot_be(vectors):
    for wrong, message in (
        (np.zeros(4), r"got float64 of shape \(4,\)"),
        (np.array([["a"]]), r"got <U1 of shape"),
        (np.full((9, 2), np.nan), r"needs at least 5 rows with a vector in 'embedding', and has 0"),
        (vectors[:4], r"and has 4"),
        (np.full((9, 2), 0.1), r"are all the same"),
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
        ({"most_chosen": 1.5}, r"most_chosen=1.5"),
        ({"seed": -1}, r"seed=-1 has to be an int of at least 0"),
        ({"perplexity": 0}, r"perplexity=0 has to be a number above 0"),
        ({"perplexity": float("nan")}, r"perplexity=nan"),
    ],
)
def test_settings_that_cannot_be(vectors, settings, message):
    with pytest.raises(ConfigError, match=message):
        tsne_map("embedding", vectors, {}, **settings)


# -- the plot ---------------------------------------------------------------------------------------------------------
def test_one_selection_has_a_legend_with_counts(found):
    alone = {**found, "chosen": {"_first": found["chosen"]["first"]}, "chosen_rows": {"_first": 20}}
    [axes] = draw_tsne(alone, "Map").axes
    named = [text.get_text().strip() for text in axes.get_legend().get_texts()]
    assert named == ["pool: 100 rows", "_first: 10 of 20 rows"]
    pool, chosen = axes.collections
    assert len(pool.get_offsets()) == 100
    points = np.array(found["points"])[found["chosen"]["first"]]
    assert np.asarray(chosen.get_offsets()).tolist() == points.tolist()


@pytest.mark.parametrize("count", [0, 2, 4, 7])
def test_several_selections_are_beside_each_other(found, count):
    names = [f"{at} {'W' * 40}" for at in range(count)]
    many = {**found, "chosen": {name: [0, 3] for name in names}, "chosen_rows": dict.fromkeys(names, 2)}
    figure = draw_tsne({**many, "column": "W" * 50}, "W" * 90, dark=count == 4)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert [title.split("\n")[1] for title in titles] == ["2 rows"] * (count if count > 1 else 0)
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.collections]
    for at, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[at + 1 :])
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
