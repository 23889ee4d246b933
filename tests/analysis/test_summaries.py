from __future__ import annotations

import json

import numpy as np
import pytest

from hf_datasel.analysis import distribution, distribution_by_round, embedding_map, overlaps
from hf_datasel.analysis.summaries import threshold_of
from hf_datasel.errors import ConfigError, SelectionError


@pytest.fixture
def scores() -> np.ndarray:
    values = np.random.default_rng(0).lognormal(-0.3, 0.4, 500)
    values[::50] = np.nan
    return values


def test_distribution_equals_numpy(scores):
    selected = scores[100:120]
    summary = distribution("ifd", {"pool": scores, "selected": selected}, bins=7, limits=(0.25, 2))
    assert json.loads(json.dumps(summary)) == summary
    for spread, values in zip(summary["groups"], (scores, selected), strict=True):
        values = values[~np.isnan(values)]
        assert spread["rows"] == values.size
        assert spread["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert spread["quantiles"] == pytest.approx(np.percentile(values, [0, 25, 50, 75, 100]), rel=1e-5)
        assert spread["counts"] == np.histogram(values, np.linspace(0.25, 2, 8))[0].tolist()
    assert summary["edges"] == pytest.approx(np.linspace(0.25, 2, 8))


@pytest.mark.parametrize("log", [False, True])
def test_default_limits(scores, log):
    scores[7] = 300.0
    selected = np.sort(scores)[:3]
    summary = distribution("ifd", {"pool": scores, "selected": selected}, log=log)
    pool, few = summary["groups"]
    assert summary["edges"][0] <= selected[0]
    assert summary["edges"][-1] == pytest.approx(np.nanpercentile(scores, 99), rel=1e-5)
    assert sum(few["counts"]) == few["rows"] == 3
    assert 0.98 * pool["rows"] < sum(pool["counts"]) < pool["rows"]
    assert pool["quantiles"][-1] == 300
    assert distribution("ifd", {"a": scores, "b": np.append(scores, 1000.0)})["edges"][-1] < 300


@pytest.mark.parametrize("bins", [1, 2, 40])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_edges_include_all_values(bins, log, scale):
    values = (1 + np.random.default_rng(1).random(60)) * scale
    near = 1e6 * scale + values
    for item in (values, near):
        summary = distribution("x", {"pool": item}, bins, (item.min(), item.max()), log)
        assert (np.diff(summary["edges"]) > 0).all()
        assert sum(summary["groups"][0]["counts"]) == 60
        assert len(summary["edges"]) == bins + 1


def test_json_is_short(scores):
    assert len(json.dumps(distribution("ifd", {"pool": scores, "selected": scores[1:9]}))) < 1000


def test_integer_bins():
    ratings = np.array([1, 2, 2, 3, 5, 5, 5])
    summary = distribution("rating", {"pool": ratings, "selected": ratings[4:]})
    assert summary["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert [group["counts"] for group in summary["groups"]] == [[1, 2, 1, 0, 3], [0, 0, 0, 0, 3]]
    words = np.arange(1, 1000)
    for log in (False, True):
        wide = distribution("words", {"pool": words, "selected": words[[0, -1]]}, log=log)
        assert {edge % 1 for edge in wide["edges"]} == {0.5}
        assert sum(wide["groups"][0]["counts"]) == 999
        assert 20 < len(wide["edges"]) <= 41


@pytest.mark.parametrize("value", [0.5, 0.0, -3.25, 7, 1e30, 1e-30])
def test_single_value(value):
    for log in (False, True) if value > 0 else (False,):
        summary = distribution("x", {"pool": np.full(5, value), "selected": np.full(1, value)}, log=log)
        assert summary["edges"][0] < value < summary["edges"][-1]
        counts = summary["groups"][0]["counts"]
        assert counts[len(counts) // 2] == 5


def test_nan_and_inf_are_ignored():
    summary = distribution("x", {"pool": np.array([np.inf, 0.25, np.nan, -np.inf, 0.75])})
    assert summary["groups"][0]["rows"] == 2
    assert summary["groups"][0]["mean"] == 0.5


def test_invalid_distributions():
    with pytest.raises(SelectionError, match="needs at least one group"):
        distribution("ifd", {})
    with pytest.raises(SelectionError, match="No row of 'selected' has a value of 'ifd'"):
        distribution("ifd", {"pool": np.ones(2), "selected": np.array([np.nan])})
    with pytest.raises(SelectionError, match=r"cannot show -0\.98"):
        distribution("ifd", {"pool": np.array([-1.0, 1])}, log=True)
    with pytest.raises(ConfigError, match="bins=0"):
        distribution("ifd", {"pool": np.ones(2)}, bins=0)
    with pytest.raises(ConfigError, match="the lower one first"):
        distribution("ifd", {"pool": np.ones(2)}, limits=(2, 1))


def test_distribution_by_round(scores):
    summary = distribution_by_round("ifd", [(0, scores, scores[1:9]), (2, scores / 2, scores[1:9] / 2)])
    names = [group["name"] for group in summary["groups"]]
    assert names == ["round 0: scored", "round 0: selected", "round 2: scored", "round 2: selected"]
    both = np.concatenate([scores, scores / 2])
    low, high = np.nanpercentile(both, [1, 99])
    assert summary["edges"][0] == pytest.approx(min(low, scores[1:9].min() / 2), rel=1e-5)
    assert summary["edges"][-1] == pytest.approx(max(high, scores[1:9].max()), rel=1e-5)
    for selected in summary["groups"][1::2]:
        assert sum(selected["counts"]) == selected["rows"] == 8
    with pytest.raises(SelectionError, match="No scored row of round 1"):
        distribution_by_round("ifd", [(1, scores[:1], scores)])
    with pytest.raises(SelectionError, match="at least one round"):
        distribution_by_round("ifd", [])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("bins", [2, 7, 40])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1e6])
def test_threshold_is_an_edge(scores, log, bins, scale):
    pool, selected = scores * scale, np.array([0.35, 0.98, 0.999]) * scale
    for summary in (
        distribution("ifd", {"pool": pool, "selected": selected}, bins, log=log, threshold=scale),
        distribution_by_round("ifd", [(0, pool, selected), (1, pool, selected)], bins, log=log, threshold=scale),
    ):
        edges = np.array(summary["edges"])
        assert scale in edges
        assert (np.diff(edges) > 0).all()
        assert len(edges) <= bins + 1
        widths = np.diff(np.log(edges) if log else edges)
        assert widths == pytest.approx(np.full(len(widths), widths[0]), rel=1e-3)
        for group in summary["groups"][1::2]:
            above = [n for n, low in zip(group["counts"], edges, strict=False) if low >= scale]
            assert sum(above) == 0 and sum(group["counts"]) == 3
        assert sum(summary["groups"][0]["counts"]) > 400


def test_threshold_outside_the_limits(scores):
    plain = distribution("ifd", {"pool": scores})
    assert distribution("ifd", {"pool": scores}, threshold=50.0) == plain
    assert distribution("ifd", {"pool": scores}, threshold=-1.0) == plain


def test_threshold_of():
    rounds = [{"exclusions": {}}, {"exclusions": {"with loss < 2": 3, "with ifd >= 1": 19, "with a(b >= 0.25": 2}}]
    assert threshold_of(rounds, "ifd") == 1.0
    assert threshold_of(rounds, "loss") == 2.0
    assert threshold_of(rounds, "a(b") == 0.25
    assert threshold_of(rounds, "if") is None
    assert threshold_of(rounds[:1], "ifd") is None


# -- overlaps ---------------------------------------------------------------------------------------------------------
def test_overlaps():
    rng = np.random.default_rng(0)
    named = {f"selection {index}": rng.choice(2000, 200, replace=False) for index in range(5)}
    summary = overlaps(named, 2000)
    matrix = np.array(summary["matrix"])
    assert json.loads(json.dumps(summary)) == summary
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 1).all()
    for row, one in enumerate(named.values()):
        for column, other in enumerate(named.values()):
            shared = len(set(one.tolist()) & set(other.tolist()))
            assert matrix[row, column] == pytest.approx(shared / (400 - shared), rel=1e-5)
    assert summary["chance"] == pytest.approx(200 / 3800, rel=1e-5)
    assert matrix[np.triu_indices(5, 1)].mean() == pytest.approx(summary["chance"], rel=0.2)


def test_overlaps_with_shortlist():
    rng = np.random.default_rng(0)
    named = {f"round {index}": rng.choice(780, 260, replace=False) for index in range(3)} | {
        "Random": np.arange(260) * 20
    }
    summary = overlaps(named, 5200, (list(named)[:3], 780))
    assert summary["chance"] == pytest.approx(0.0256, rel=0.01)
    assert summary["shortlist"] == {"names": ["round 0", "round 1", "round 2"], "rows": 780, "chance": 0.2}
    assert np.mean([summary["matrix"][1][0], summary["matrix"][2][1]]) == pytest.approx(0.2, rel=0.1)


def test_overlaps_of_empty_selections():
    nothing = np.array([], dtype=np.int64)
    assert overlaps({"a": nothing, "b": nothing}, 0) == {
        "names": ["a", "b"],
        "matrix": [[1.0, 1.0], [1.0, 1.0]],
        "chance": 0.0,
        "shortlist": None,
    }
    assert overlaps({"all": np.arange(4)}, 4)["chance"] == 1.0
    with pytest.raises(SelectionError, match="at least one"):
        overlaps({}, 5)
    with pytest.raises(SelectionError, match="'b' has row numbers from 1 to 5, but the pool has 5 rows"):
        overlaps({"a": np.array([0]), "b": np.array([1, 5])}, 5)


# -- maps -------------------------------------------------------------------------------------------------------------
def clusters(rows: int, numbers: int) -> np.ndarray:
    """Vectors spread along two directions that are not those of the numbers, with a little noise."""
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(numbers, 2)))[0]
    return 5 + rng.normal(size=(rows, 2)) * [4, 2] @ plane.T + 0.01 * rng.normal(size=(rows, numbers))


@pytest.mark.parametrize(("rows", "numbers"), [(400, 6), (30, 80), (5, 2), (9, 1)])
def test_embedding_map_counts(rows, numbers):
    vectors = clusters(rows, max(numbers, 2))[:, :numbers]
    vectors[3] = np.nan
    selected = np.array([0, 3, 4])
    summary = embedding_map("embedding", vectors, selected, bins=13)
    assert json.loads(json.dumps(summary)) == summary
    pool, selected_counts = np.array(summary["pool"]), np.array(summary["selected"])
    assert pool.shape == selected_counts.shape == (13, 13)
    assert pool.sum() == rows - 1
    assert selected_counts.sum() == 2
    assert (selected_counts <= pool).all()
    assert summary["explained"] == pytest.approx(1, abs=1e-3)
    for axis in ("x", "y"):
        assert len(summary[axis]) == 14
        assert (np.diff(summary[axis]) > 0).all()


def test_principal_axes():
    vectors = clusters(600, 6)
    summary = embedding_map("embedding", vectors, np.array([0]), bins=20)
    centred = vectors - vectors.mean(axis=0)
    _, strength, right = np.linalg.svd(centred, full_matrices=False)
    axes = right[:2] * np.sign(right[:2][[0, 1], np.abs(right[:2]).argmax(axis=1)])[:, None]
    points = centred @ axes.T
    assert summary["explained"] == pytest.approx((strength[:2] ** 2).sum() / (strength**2).sum(), rel=1e-5)
    x, y = np.array(summary["x"]), np.array(summary["y"])
    assert [x[0], x[-1]] == pytest.approx(np.percentile(points[:, 0], [0.5, 99.5]), rel=1e-4)
    clipped = np.clip(points, [x[0], y[0]], [x[-1], y[-1]])
    assert np.abs(np.histogram2d(clipped[:, 1], clipped[:, 0], [y, x])[0] - summary["pool"]).sum() <= 2


def test_embedding_map_in_blocks(monkeypatch):
    vectors = clusters(500, 5).astype(np.float32)
    summary = embedding_map("embedding", vectors, np.arange(50))
    assert embedding_map("embedding", vectors, np.arange(50)[::-1]) == summary
    monkeypatch.setattr("hf_datasel.analysis.projection._BLOCK", 35)
    assert embedding_map("embedding", vectors, np.arange(50)) == summary


def test_axes_fitted_to_a_sample(monkeypatch):
    vectors = clusters(3000, 5)
    exact = embedding_map("embedding", vectors, np.array([0]))
    monkeypatch.setattr("hf_datasel.analysis.projection._ROWS", 1000)
    rough = embedding_map("embedding", vectors, np.array([0]))
    assert rough != exact
    assert np.sum(rough["pool"]) == 3000
    assert rough["x"] == pytest.approx(exact["x"], abs=1.5)


def test_embedding_map_of_equal_vectors():
    summary = embedding_map("embedding", np.full((7, 3), 0.1, dtype=np.float32), np.array([1, 2]), bins=5)
    assert summary["explained"] == 0
    assert summary["pool"][2][2] == 7
    assert summary["selected"][2][2] == 2


def test_invalid_maps():
    with pytest.raises(SelectionError, match=r"needs vectors of shape \(rows, dimensions\), and got float64 of shape"):
        embedding_map("embedding", np.zeros(4), np.array([0]))
    with pytest.raises(SelectionError, match="got object"):
        embedding_map("embedding", np.array([[None, 1]]), np.array([0]))
    with pytest.raises(SelectionError, match="No row has a vector in 'embedding'"):
        embedding_map("embedding", np.full((2, 3), np.nan), np.array([0]))
    with pytest.raises(SelectionError, match="from 0 to 2, but the pool has 2 rows"):
        embedding_map("embedding", np.zeros((2, 3)), np.array([0, 2]))
