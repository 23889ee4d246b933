import json

import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError, ScoreError, SelectionError
from hf_datasel.scores import Cluster, Embedding, Length, Loss
from hf_datasel.selectors import KMQ, KMRandom, get_selector
from hf_datasel.strategies.clusters import sample_per_cluster
from hf_datasel.testing import contract


@contract(
    KMQ(quality="reward"),
    KMQ(quality="deita", weights="proportional", shares="equal"),
    KMQ(quality=Loss(), clusters=Cluster(k=3), temperature=0.5),
    KMQ(quality=Length(), clusters=Cluster(k=2), vectors=Embedding()),
)
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


@pytest.mark.parametrize("shares", ["proportional", "equal"])
@pytest.mark.parametrize("budget", [1, 5, 9])
def test_equals_strategy_on_eligible_rows(gaps, shares, budget):
    quality = np.array(gaps["reward"][:], dtype=float)
    ids = np.array(gaps["cluster_id"][:], dtype=float)
    ids[2] = np.nan
    expected = sample_per_cluster(quality, ids, budget, np.random.default_rng([3, 0]).spawn(1)[0], shares=shares)
    assert (
        select(gaps, KMQ(quality="reward", shares=shares), size=budget, seed=3).indices.tolist() == expected.tolist()
    )


def test_chances_are_those_of_the_published_code(shared, make_round):
    from datasets import Dataset

    golden = json.loads((shared / "golden" / "kmq_sampling.json").read_text(encoding="utf-8"))
    clusters, draws = golden["clusters"], 4000
    data = Dataset.from_dict(
        {
            "text": [f"row {at}" for at in range(14)],
            "cluster_id": clusters,
            "q": np.trunc(golden["scores"]).tolist(),  # the published code draws by whole numbers
        }
    )
    selector, counts = KMQ(quality="q", shares="equal"), np.zeros(14)
    context = make_round(data, sum(golden["per_cluster_code"]))
    for seed in range(draws):
        context.rng = np.random.default_rng(seed)
        counts[selector.select(context)] += 1
    chance = np.array(golden["inclusion_exact_code"])
    error = 5 * np.sqrt(np.clip(chance * (1 - chance), 1e-4, None) / draws)
    assert (np.abs(counts / draws - chance) < error).all()


def test_in_proportion_to_quality(full, make_round):
    data = full.remove_columns(["cluster_id", "deita"])
    data = data.add_column("cluster_id", [0] * 12).add_column("deita", [1.0, 3.0, *[0.0] * 10])
    selector, first = KMQ(quality="deita", weights="proportional"), []
    context = make_round(data, 1)
    for seed in range(2000):
        context.rng = np.random.default_rng(seed)
        first += selector.select(context).tolist()
    assert set(first) == {0, 1}
    assert abs(first.count(1) / 2000 - 0.75) < 0.05


def test_rows_without_any_weight_come_last(full):
    data = full.remove_columns("deita").add_column("deita", [0.0] * 8 + [1.0] * 4)
    data = data.remove_columns("cluster_id").add_column("cluster_id", [0] * 12)
    selected = select(data, KMQ(quality="deita", weights="proportional"), size=6).indices.tolist()
    assert set(selected[:4]) == {8, 9, 10, 11}


def test_low_temperature(full):
    quality, ids = np.array(full["reward"][:]), np.array(full["cluster_id"][:])
    selected = select(full, KMQ(quality="reward", shares="equal", temperature=1e-6), size=3).indices
    assert sorted(selected) == sorted(np.flatnonzero(ids == c)[quality[ids == c].argmax()] for c in range(3))


def test_the_seed_decides_and_no_global_state(full):
    draws = set()
    for seed in (0, 0, 1, 2):
        np.random.seed(len(draws))
        draws.add(tuple(select(full, KMQ(quality="reward"), size=6, seed=seed).indices.tolist()))
    assert len(draws) == 3


def test_quality_below_zero_has_no_proportion(full):
    with pytest.raises(SelectionError, match=r'quality >= 0, but \d+ of 12 are below .*weights="softmax" accepts any'):
        select(full, KMQ(quality="reward", weights="proportional"), size=3)


def test_quality_of_rows_that_cannot_be_selected_may_be_anything(gaps):
    deita = [-1.0 if at in (2, 8) else 2.0 for at in range(12)]  # no response, no cluster
    data = gaps.remove_columns("deita").add_column("deita", deita)
    selected = select(data, KMQ(quality="deita", weights="proportional"), size=10).indices
    assert not {2, 8} & set(selected.tolist())


def test_why_there_are_no_more(gaps):
    message = r"size=10 .*the 9 of 12 .*1 empty_response, 1 in no cluster, 1 without reward"
    with pytest.raises(SelectionError, match=message):
        select(gaps, KMQ(quality="reward"), size=10)


def test_more_clusters_than_rows(full):
    with pytest.raises(ScoreError, match=r"Cluster\(k=13\) has only 12 vectors"):
        select(full, KMQ(quality="reward", clusters=Cluster(k=13)), size=3)


def test_a_pool_of_one_cluster_of_equal_rows(full):
    same = full.remove_columns(["reward", "cluster_id"])
    same = same.add_column("reward", [1e6] * 12).add_column("cluster_id", [7] * 12)
    assert sorted(select(same, KMQ(quality="reward"), size=12).indices.tolist()) == list(range(12))


def test_within_a_token_budget(full):
    lengths = np.array(full["num_tokens"][:])
    selected = select(full, KMQ(quality="reward"), tokens=150)
    assert 0 < lengths[selected.indices].sum() <= 150
    assert lengths[select(full, KMQ(quality="reward"), size=len(selected.indices) + 1).indices].sum() > 150


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": None}, r"KMQ\(quality=None\).*the name of a column, or a score such as IFD"),
        ({"quality": "q", "weights": "rank"}, r"KMQ\(weights='rank'\): it has to be 'softmax' or 'proportional'"),
        ({"quality": "q", "temperature": 0}, r"KMQ\(temperature=0\): it has to be a number above 0"),
        ({"quality": "q", "temperature": float("nan")}, r"KMQ\(temperature=nan\)"),
        ({"quality": "q", "clusters": Length()}, r"KMQ\(clusters=Length"),
        ({"quality": "q", "shares": "paper"}, r"KMQ\(shares='paper'\)"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        KMQ(**settings)


def test_in_a_recipe(full, tiny_model_dir):
    model = str(tiny_model_dir)
    settings = {"quality": {"score": "loss", "model": model}, "clusters": {"score": "cluster", "k": 3}}
    made = get_selector("kmq", settings)
    assert made == KMQ(Cluster(k=3), quality=Loss(model))
    spec = json.loads(json.dumps(made.spec()))
    assert spec["quality"] == settings["quality"]
    assert get_selector(spec.pop("selector"), spec) == made
    assert len(select(full, made, size=5).indices) == 5
    with pytest.raises(ConfigError, match="kmq needs the setting 'quality'"):
        get_selector("kmq")


def test_it_shares_no_draw_with_km_random(gaps):
    equal = gaps.remove_columns("reward").add_column("reward", [1.0] * len(gaps))
    pairs = [
        [
            select(equal, selector, size=5, seed=seed).indices.tolist()
            for selector in (KMQ(quality="reward"), KMRandom())
        ]
        for seed in range(8)
    ]
    assert sum(one == other for one, other in pairs) < 4
