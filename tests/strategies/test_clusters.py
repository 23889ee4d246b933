import itertools
import json
from fractions import Fraction

import numpy as np
import pytest

from hf_datasel.errors import SelectionError
from hf_datasel.strategies.clusters import nearest_per_cluster, quotas, sample_per_cluster, top_per_cluster

NAN = float("nan")


def plain_quotas(cluster_id, budget, shares="proportional", eligible=None):
    """Largest remainder in exact fractions; clusters that cannot meet their quota give all they have."""
    inside = [int(c) if c is not None and c == c and c >= 0 else None for c in cluster_id]
    size = {c: inside.count(c) for c in sorted(set(inside) - {None})}
    usable = [True] * len(inside) if eligible is None else eligible
    capacity = {c: sum(ok for i, ok in zip(inside, usable, strict=True) if i == c) for c in size}
    weight = {
        c: Fraction(size[c]) if shares == "proportional" else Fraction(1) if shares == "equal" else Fraction(shares[c])
        for c in size
    }
    quota = {c: 0 for c in size}
    left = {c for c in size if weight[c]}
    while left:
        rows = budget - sum(quota.values())
        exact = {c: rows * weight[c] / sum(weight[c] for c in left) for c in left}
        parts = {c: exact[c].numerator // exact[c].denominator for c in left}
        for c in sorted(left, key=lambda c: (parts[c] - exact[c], -size[c], c))[: rows - sum(parts.values())]:
            parts[c] += 1
        full = {c for c in left if parts[c] > capacity[c]}
        quota |= {c: capacity[c] for c in full} if full else parts
        left = left - full if full else set()
    return quota


def plain_choice(ranked, cluster_id, quota):
    """The first rows of each cluster in a ranking of rows, as lists by cluster."""
    inside = {c: [row for row in ranked if cluster_id[row] == c] for c in quota}
    return {c: inside[c][: quota[c]] for c in quota}


def spread_out(selected):
    """Rows of several clusters by (rank + 1/2) / quota, then cluster."""
    when = [
        (Fraction(2 * rank + 1, 2 * len(rows)), c, row)
        for c, rows in selected.items()
        for rank, row in enumerate(rows)
    ]
    return [row for _, _, row in sorted(when)]


def random_case(rng):
    """Cluster ids with some rows in none, scores with ties and NaN, shares of all kinds."""
    n = int(rng.integers(1, 40))
    clusters = rng.choice([0, 1, 2, 5, 17, 2**40], size=int(rng.integers(1, 7)))
    cluster_id = rng.choice([-1, *clusters], size=n)
    scores = rng.choice([0.0, 1.0, 1.0, -2.5, *rng.normal(size=3)], size=n)
    scores[rng.random(n) < rng.choice([0.0, 0.4])] = NAN
    weights = {int(c): str(rng.choice([0, 1, 0.1, 0.2, 0.7, 30])) for c in clusters}
    shares = ["proportional", "equal", weights][rng.integers(3)]
    as_floats = {c: float(w) for c, w in weights.items()} if shares is weights else shares
    takes = [shares is not weights or float(weights.get(int(c), 0)) > 0 for c in cluster_id]
    available = int(np.sum((cluster_id >= 0) & np.isfinite(scores) & takes))
    return cluster_id, scores, shares, as_floats, available


# -- quotas ----------------------------------------------------------------------------------------------------------
def test_quotas_equal_exact_fractions():
    rng = np.random.default_rng(0)
    for _ in range(300):
        cluster_id, scores, shares, as_floats, available = random_case(rng)
        eligible = np.isfinite(scores)
        for budget in {0, 1, available // 2, available} & set(range(available + 1)):
            quota = quotas(cluster_id, budget, as_floats, eligible)
            assert quota == plain_quotas(cluster_id, budget, shares, eligible.tolist())
            assert list(quota) == sorted(quota)
            assert sum(quota.values()) == budget


def test_quota_of_small_cluster_goes_to_others():
    cluster_id = [0] * 2 + [1] * 10 + [2] * 20
    assert quotas(cluster_id, 12, "equal") == {0: 2, 1: 5, 2: 5}
    assert quotas(cluster_id, 25, "equal") == {0: 2, 1: 10, 2: 13}
    assert quotas(cluster_id, 32) == {0: 2, 1: 10, 2: 20}


def test_ineligible_rows_count_in_cluster_size():
    eligible = np.array([True, False, False, False, True, True, True, True])
    assert quotas([0, 0, 0, 0, 1, 1, 1, 1], 2, eligible=eligible) == {0: 1, 1: 1}
    assert quotas([0, 0, 0, 0, 1, 1, 1, 1], 4, eligible=eligible) == {0: 1, 1: 3}


def test_remainder_ties():
    assert quotas([3, 3, 1, 2, 2], 1, "equal") == {1: 0, 2: 1, 3: 0}
    assert quotas([4, 0, 9], 2) == {0: 1, 4: 1, 9: 0}


def test_remainder_ties_with_float_weights():
    # 3 x 0.1 / 0.6, 3 x 0.2 / 0.6 and 3 x 0.3 / 0.6: the halves are a tie, which goes to the lower id.
    assert quotas([0, 1, 2] * 5, 3, {0: 0.1, 1: 0.2, 2: 0.3}) == {0: 1, 1: 1, 2: 1}
    assert quotas([0, 1, 2] * 5, 3, {0: 0.3, 1: 0.2, 2: 0.1}) == {0: 2, 1: 1, 2: 0}


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e308])
def test_weights_are_relative(scale):
    assert quotas([0, 1, 2] * 9, 9, {0: scale, 1: scale / 2, 2: scale, 8: scale}) == {0: 4, 1: 2, 2: 3}


def test_more_clusters_than_budget():
    quota = quotas(np.arange(100), 3)
    assert [cluster for cluster, rows in quota.items() if rows] == [0, 1, 2]


@pytest.mark.parametrize(
    "cluster_id",
    [[7, None, 7, NAN, 2, -3], [7.0, NAN, 7.0, NAN, 2.0, -1.0], np.array([7, -1, 7, -9, 2, -1], dtype=np.int16)],
)
def test_rows_without_a_cluster(cluster_id):
    assert quotas(cluster_id, 3) == {2: 1, 7: 2}
    assert top_per_cluster([9, 8, 7, 6, 5, 4], cluster_id, 3).tolist() == [0, 2, 4]


def test_large_cluster_ids_are_not_rounded():
    assert quotas([2**60, 2**60 + 1, None], 2) == {2**60: 1, 2**60 + 1: 1}


def test_no_rows():
    assert quotas([], 0) == {}
    assert quotas([], 0, {}) == {}
    assert top_per_cluster([], [], 0).dtype == np.int64
    assert len(nearest_per_cluster([NAN], [0], 0)) == 0


# -- the rows --------------------------------------------------------------------------------------------------------
def test_top_and_nearest_equal_reference():
    rng = np.random.default_rng(1)
    for _ in range(300):
        cluster_id, scores, shares, as_floats, available = random_case(rng)
        before = scores.copy()
        budget = int(rng.integers(0, available + 1))
        quota = plain_quotas(cluster_id, budget, shares, np.isfinite(scores).tolist())
        rows = np.flatnonzero(np.isfinite(scores)).tolist()

        best = sorted(rows, key=lambda row: (-scores[row], row))
        expected_rows = set(itertools.chain(*plain_choice(best, cluster_id, quota).values()))
        selected = top_per_cluster(scores, cluster_id, budget, as_floats)
        assert selected.tolist() == [row for row in best if row in expected_rows]

        nearest = sorted(rows, key=lambda row: (scores[row], row))
        selected = nearest_per_cluster(scores, cluster_id, budget, as_floats)
        assert selected.tolist() == spread_out(plain_choice(nearest, cluster_id, quota))
        assert selected.dtype == np.int64
        np.testing.assert_array_equal(scores, before)


def test_single_cluster_equals_top():
    assert top_per_cluster([0.1, 0.9, 0.9, None, np.inf], [4] * 5, 3).tolist() == [1, 2, 0]


def test_nearest_of_each_cluster_first():
    distance = [0.5, 0.4, 0.3, 0.2, 0.2, 0.1]
    assert nearest_per_cluster(distance, [1, 0, 1, 0, 1, 1], 2, "equal").tolist() == [3, 5]
    assert nearest_per_cluster(distance, [1, 0, 1, 0, 1, 1], 6).tolist() == [5, 3, 4, 2, 1, 0]


def test_copies_without_distance_are_skipped():
    assert nearest_per_cluster([0.1, 0.1, 0.3, 0.9], [0] * 4, 2).tolist() == [0, 1]
    assert nearest_per_cluster([0.1, NAN, 0.3, 0.9], [0] * 4, 2).tolist() == [0, 2]


@pytest.mark.parametrize("shares", ["proportional", "equal"])
def test_prefixes_are_proportional(shares):
    rng = np.random.default_rng(2)
    cluster_id = rng.choice(8, size=4000, p=np.arange(1, 9) / 36)
    quota = np.array(list(quotas(cluster_id, 600, shares).values()))
    for selected in (
        nearest_per_cluster(rng.random(4000), cluster_id, 600, shares),
        sample_per_cluster(None, cluster_id, 600, rng, shares=shares),
    ):
        counts = np.cumsum(cluster_id[selected][:, None] == np.arange(8), axis=0)
        exact = np.arange(1, 601)[:, None] * quota / 600
        # Half a row by rounding in the cluster, and its share of half a row in each of the 8.
        assert (np.abs(counts - exact) <= 0.5 + quota / 600 * 4 + 1e-9).all()


# -- the draw --------------------------------------------------------------------------------------------------------
def successive(weights, draws):
    """Probability that each row comes up in so many draws without replacement, over all orders."""
    inclusion = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), draws):
        left, probability = sum(weights), 1.0
        for row in order:
            probability *= weights[row] / left
            left -= weights[row]
        inclusion[list(order)] += probability
    return inclusion


def inclusion_of(quality, draws, copies=20_000, seed=0, **settings):
    """Share of many equal clusters in which each row is drawn: one call is that many independent draws."""
    n = len(quality)
    cluster_id = np.repeat(np.arange(copies), n)
    rng = np.random.default_rng(seed)
    selected = sample_per_cluster(np.tile(quality, copies), cluster_id, draws * copies, rng, **settings)
    assert (np.bincount(cluster_id[selected]) == draws).all()
    return np.bincount(selected % n, minlength=n) / copies


def assert_drawn_with(share, probability, copies=20_000):
    within = 4.5 * np.sqrt(probability * (1 - probability) / copies) + 1e-4
    assert (np.abs(share - probability) < within).all(), (share, probability)


@pytest.mark.shared
def test_inclusion_probabilities_published(shared):
    golden = json.loads((shared / "golden" / "kmq_sampling.json").read_text(encoding="utf-8"))
    clusters, scores = np.array(golden["clusters"]), np.array(golden["scores"], dtype=float)
    for cluster, draws in enumerate(golden["per_cluster_code"]):
        inside = clusters == cluster
        share = inclusion_of(np.trunc(scores[inside]), draws)  # the published code draws by whole numbers
        assert_drawn_with(share, np.clip(np.array(golden["inclusion_exact_code"])[inside], 0, 1))


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, lambda q: np.exp(q)),
        ({"temperature": 3.0}, lambda q: np.exp(q / 3)),
        ({"weights": "proportional"}, lambda q: q),
        ({"weights": "proportional", "temperature": 0.5}, lambda q: q**2),
        ({"temperature": np.inf}, np.ones_like),
    ],
)
@pytest.mark.parametrize("draws", [1, 2, 4])
def test_inclusion_probabilities_sequential_sampling(settings, weights, draws):
    quality = np.array([0.3, 2.0, 1.0, 3.5, 0.3])
    assert_drawn_with(inclusion_of(quality, draws, **settings), successive(weights(quality), draws))


def test_sampling_with_replacement_until_quota_is_equivalent():
    quality, rng = np.array([0.3, 2.0, 1.0, 3.5]), np.random.default_rng(3)
    counts = np.zeros(4)
    for _ in range(4000):
        seen: set[int] = set()
        while len(seen) < 2:
            seen.add(int(rng.choice(4, p=quality / quality.sum())))
        counts[list(seen)] += 1
    share = inclusion_of(quality, 2, copies=4000, weights="proportional")
    assert np.abs(share - counts / 4000).max() < 4.5 * np.sqrt(0.5 / 4000)


def test_sampling_order():
    quality = np.array([0.0, 1.0, 2.0])
    cluster_id = np.repeat(np.arange(20_000), 3)
    selected = sample_per_cluster(np.tile(quality, 20_000), cluster_id, 60_000, np.random.default_rng(4))
    first = np.bincount(selected[:20_000] % 3) / 20_000
    assert_drawn_with(first, np.exp(quality) / np.exp(quality).sum())


def test_uniform_sampling_without_quality():
    copies = 20_000
    cluster_id = np.tile([0, 0, 0, 0, 0], copies) + np.repeat(np.arange(copies), 5)
    selected = sample_per_cluster(None, cluster_id, 2 * copies, np.random.default_rng(5))
    assert_drawn_with(np.bincount(selected % 5) / copies, np.full(5, 0.4))


def test_zero_quality_is_last_and_uniform():
    share = inclusion_of(np.array([0.0, 5.0, 0.0, 0.0]), 2, weights="proportional")
    assert_drawn_with(share, np.array([1 / 3, 1, 1 / 3, 1 / 3]))
    assert_drawn_with(inclusion_of(np.zeros(4), 1, weights="proportional"), np.full(4, 0.25))


@pytest.mark.parametrize("quality", [[1e4, 1e4 + 1, 0.0], [-1e4, 1 - 1e4, -2e4]])
def test_large_qualities(quality):
    p = 1 / (1 + np.e)
    assert_drawn_with(inclusion_of(np.array(quality), 1), np.array([p, 1 - p, 0]))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
@pytest.mark.parametrize("weights", ["softmax", "proportional"])
def test_low_temperature(temperature, weights):
    share = inclusion_of(np.array([1e4, 2.0, 2.0, 1.0, 0.5]), 2, temperature=temperature, weights=weights)
    assert_drawn_with(share, np.array([1, 0.5, 0.5, 0, 0]))


def test_sampling_is_distinct_and_deterministic():
    rng = np.random.default_rng(6)
    for _ in range(100):
        cluster_id, quality, shares, as_floats, available = random_case(rng)
        budget, seed = int(rng.integers(0, available + 1)), int(rng.integers(1000))
        first, second = (
            sample_per_cluster(quality, cluster_id, budget, np.random.default_rng(seed), shares=as_floats)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)
        drawn = {c: int(np.count_nonzero(cluster_id[first] == c)) for c in np.unique(cluster_id) if c >= 0}
        assert drawn == plain_quotas(cluster_id, budget, shares, np.isfinite(quality).tolist())
        assert len(set(first.tolist())) == budget
        assert np.isfinite(quality[first]).all()


def test_rows_without_quality_do_not_change_the_sample():
    quality, cluster_id = np.random.default_rng(7).normal(size=200), np.arange(200) % 7
    everything = sample_per_cluster(quality, cluster_id, 199, np.random.default_rng(8)).tolist()
    never = everything[0]
    quality[never] = NAN
    some = sample_per_cluster(quality, cluster_id, 190, np.random.default_rng(8)).tolist()
    for cluster in range(7):
        order = [row for row in everything if row % 7 == cluster and row != never]
        assert [row for row in some if row % 7 == cluster] == order[: len([row for row in some if row % 7 == cluster])]


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 4}, r"budget=4 is more than the 3 rows .*\(1 of 4 are without a cluster\)\. Lower it"),
        ({"budget": 0.5}, r"budget=0\.5 must be a whole number of rows"),
        ({"eligible": [True, True, False, False]}, r"2 rows .*\(2 of 4 are without a cluster or not eligible\)"),
        ({"eligible": [0, 1]}, r"eligible must be one bool for each of the 4 rows, but is int64 of shape \(2,\)"),
        ({"shares": "size"}, r"shares='size' must be 'proportional', 'equal' or \{cluster id: weight\}"),
        ({"shares": {0: 1.0}}, r"no weight for 1 of the 2 clusters \(the first is 5\)\. Pass weight 0"),
        ({"shares": {0: 1.0, 5: -1.0}}, r"must be finite and >= 0, but that of cluster 5 is -1\.0"),
        ({"shares": {0: 1.0, 5: NAN}}, r"must be finite and >= 0, but that of cluster 5 is nan"),
        ({"shares": {0: 1.0, 5: 0.0}}, r"2 of 4 are without a cluster, or in a cluster whose share is 0"),
        ({"cluster_id": [0.5, 1.0]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": [1.0, np.inf]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": ["1", "2"]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": ["a", None]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": [1.5, None]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": [2**63, 1]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": [2**70, 1]}, r"cluster ids must be whole numbers"),
        ({"cluster_id": [[0, 1]]}, r"one cluster id per row, shape \(n,\), but got shape \(1, 2\)"),
    ],
)
def test_invalid_quota_settings(settings, message):
    with pytest.raises(SelectionError, match=f"quotas.*{message}"):
        quotas(**{"cluster_id": [0, 0, 5, -1], "budget": 3} | settings)


@pytest.mark.parametrize("select", [top_per_cluster, nearest_per_cluster])
def test_wrong_number_of_values(select):
    with pytest.raises(SelectionError, match=r"one number for each of the 2 rows .*, but has shape \(3,\)"):
        select([1.0, 2.0, 3.0], [0, 0], 1)
    with pytest.raises(SelectionError, match=r"2 of 3 are without a cluster and a finite"):
        select([1.0, 2.0, NAN], [0, -1, 0], 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, r"temperature=0 must be above 0"),
        ({"temperature": NAN}, r"temperature=nan must be above 0"),
        ({"weights": "uniform"}, r"weights='uniform': it has to be 'softmax' or 'proportional'"),
        (
            {"weights": "proportional"},
            r"needs quality >= 0, but 1 of 3 are below \(the first is -2\.0 at position 1\)\. weights=.softmax. "
            r"accepts",
        ),
        ({"quality": [1.0]}, r"quality must be one number for each of the 3 rows"),
        ({"budget": 3}, r"2 rows .*\(1 of 3 are without a cluster and a finite quality\)"),
    ],
)
def test_invalid_sampling_settings(settings, message):
    arguments = {"quality": [1.0, -2.0, NAN], "cluster_id": [0, 0, 0], "budget": 1, "rng": np.random.default_rng(0)}
    with pytest.raises(SelectionError, match=message):
        sample_per_cluster(**arguments | settings)
