import io
import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel import Selection, select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_round, run_selector
from hf_datasel.scores import Cluster, Embedding, Length, Loss, RewardGap
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import explain
from hf_datasel.selectors import KMQ, IterativeKMQ, get_selector, per_source
from hf_datasel.strategies.clusters import quotas
from hf_datasel.strategies.reweighting import cluster_means, effective_number, update_weights
from hf_datasel.testing import contract

GAP = RewardGap(scorer="perplexity", max_new_tokens=2)


@contract(
    IterativeKMQ(quality="reward", gap=GAP),
    IterativeKMQ(quality="deita", weights="proportional", shares="equal", gap=GAP, update="softmax", rounds=2),
    IterativeKMQ(quality=Length(), clusters=Cluster(k=2), vectors=Embedding(), gap=GAP, restart_each_round=True),
)
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


# -- playing rounds --------------------------------------------------------------------------------------------------
def pool_of(clusters, quality=None):
    """Rows in these clusters, -1 or None for none."""
    size = len(clusters)
    values = np.random.default_rng(1).normal(size=size).tolist() if quality is None else quality
    return Pool(
        Dataset.from_dict(
            {"prompt": [f"Say {at}." for at in range(size)], "completion": [f"It is {at}." for at in range(size)]}
        )
        .add_column("cluster_id", list(clusters))
        .add_column("q", list(values))
    )


def gaps_by(values):
    """A model whose gap at a row is what `values` says, None where it has none."""

    def compute(score, rows):
        assert isinstance(score, RewardGap)
        found = [values[row] for row in rows.tolist()]
        reasons = ["empty_generation" if each is None else "" for each in found]
        return {"reward_gap": pa.array(found, pa.float32()), "reward_gap_reason": pa.array(reasons)}

    return compute


def saved(state):
    """What comes back from a checkpoint."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file) as stored:
        return {name: stored[name] for name in stored}


def play(selector, pool, budget, computes, seed=0, eligible=None, through=saved):
    """All rounds by hand; returns each of them with its selection."""
    able = np.ones(len(pool), dtype=bool) if eligible is None else eligible
    plan = selector.plan(budget, 9.0, len(pool))
    done, state, selected = [], {}, np.empty(0, dtype=np.int64)
    for index, (each, compute) in enumerate(zip(plan, computes, strict=True)):
        context = RoundContext(
            RoundCache(pool, compute),
            budget=each.budget,
            index=index,
            eligible=able,
            seed=seed,
            selected=selected,
            state=state,
            plan=plan,
        )
        done.append((context, run_selector(selector, context)))
        selected, state = done[-1][1], through(context.state)
    return done


def made(**settings):
    return IterativeKMQ(**{"quality": "q", "gap": GAP, **settings})


# -- budgets ---------------------------------------------------------------------------------------------------------
def test_round_sizes():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size, rounds = int(rng.integers(4, 40)), int(rng.integers(1, 5))
        clusters = rng.integers(-1, rng.integers(1, 12), size)  # many hold a row or two
        quality = np.where(rng.random(size) < 0.2, np.nan, rng.normal(size=size))
        eligible = rng.random(size) < 0.9
        able = eligible & (clusters >= 0) & np.isfinite(quality)
        if able.sum() < rounds:
            continue
        budget = int(rng.integers(rounds, able.sum() + 1))
        values = [None if rng.random() < 0.3 else float(each) for each in rng.normal(scale=9, size=size)]

        def some(score, rows, values=values):
            return gaps_by([values[at] or float(at == rows[0]) or None for at in range(len(values))])(score, rows)

        selector = made(rounds=rounds, update=("exponential", "softmax")[seed % 2])
        pool = pool_of(clusters.tolist(), [None if np.isnan(each) else each for each in quality])
        before = np.empty(0, dtype=np.int64)
        for index, (context, selected) in enumerate(play(selector, pool, budget, [some] * rounds, seed, eligible)):
            assert len(selected) == (index + 1) * budget // rounds
            assert selected[: len(before)].tolist() == before.tolist()
            assert able[selected].all()
            assert context.record.exclusions.total() == (eligible & ~able).sum(), "rows without a gap are not excluded"
            before = selected


def test_a_used_up_cluster_gives_its_share_to_the_others():
    clusters = [0] * 2 + [1] * 10 + [2] * 10
    [(_, first), (context, second)] = play(
        made(rounds=2, shares="equal"), pool_of(clusters), 12, [None, gaps_by([50.0] * 2 + [0.0] * 20)]
    )
    of = np.array(clusters)
    assert np.bincount(of[first]).tolist() == [2, 2, 2]
    assert context.record.notes["cluster_weights"][0] > 0.999, "nearly all of the weight is where nothing is left"
    assert np.bincount(of[second], minlength=3).tolist() == [2, 5, 5]


def test_tiny_weight():
    clusters = [0] * 6 + [1] * 6
    values = gaps_by([1e6] * 6 + [-1e6] * 6)
    [_, (_, second), (context, third)] = play(
        made(rounds=3, gap_temperature=1e-300), pool_of(clusters), 12, [None, values, values]
    )
    assert np.bincount(np.array(clusters)[second]).tolist() == [6, 2]
    assert len(third) == 12
    assert context.record.notes["cluster_weights"][0] == 1.0


def test_shortfall(caplog):
    pool = pool_of([0, 0, 1, None, 1], [1.0, 2.0, None, 1.0, 1.0])
    plan = made(rounds=2).plan(5, 1.0, 5)
    state = {}
    first = RoundContext(RoundCache(pool, None), budget=plan[0].budget, eligible=np.ones(5, dtype=bool), state=state)
    selected = run_selector(made(rounds=2), first)
    second = RoundContext(
        RoundCache(pool, gaps_by([1.0] * 5)),
        budget=5,
        index=1,
        eligible=np.ones(5, dtype=bool),
        selected=selected,
        state=state,
    )
    assert sorted(run_round(made(rounds=2), second, strict=False).tolist()) == [0, 1, 4]
    assert "the 3 of 5 rows that can be selected (1 in no cluster, 1 without q)" in caplog.text


def test_the_first_round_is_kmq(full):
    selector = made(quality="reward", rounds=3, temperature=0.5, shares="equal")
    [(context, selected), *_] = play(selector, Pool(full), 9, [None] + [gaps_by([1.0] * 12)] * 2, seed=3)
    kmq = KMQ(quality="reward", temperature=0.5, shares="equal")
    assert selected.tolist() == select(full, kmq, size=3, seed=3).indices.tolist()
    assert context.record.notes["clusters"] == [0, 1, 2]
    assert context.record.notes["cluster_weights"] == [0.333333] * 3
    assert context.record.notes["cluster_gap"] == [None] * 3


# -- weights ---------------------------------------------------------------------------------------------------------
def plainly(weights, means, update, temperature):
    """Each scored cluster by its formula, and all of them scaled to what they had together."""
    known = [at for at, mean in enumerate(means) if mean is not None]
    formula = {
        "exponential": lambda at: weights[at] * np.exp(means[at] / temperature),
        "softmax": lambda at: np.exp(means[at] / temperature),
        "paper": lambda at: weights[at] * means[at],
    }[update]
    new = {at: formula(at) for at in known}
    had = sum(weights[at] for at in known)
    return [had * new[at] / sum(new.values()) if at in new else weights[at] for at in range(len(weights))]


@pytest.mark.parametrize("update", ["exponential", "softmax", "paper"])
def test_weights_against_a_plain_version(update):
    rng = np.random.default_rng(4)
    for _ in range(200):
        k = int(rng.integers(1, 9))
        weights = rng.dirichlet(np.ones(k))
        means = [None if rng.random() < 0.3 else float(each) for each in rng.exponential(2, k)]
        if update != "paper":
            means = [None if each is None else each - 2 for each in means]
        temperature = 1.0 if update == "paper" else float(rng.uniform(0.3, 3))
        given = weights.copy()
        found = update_weights(weights, np.array(means, dtype=float), update, temperature)
        np.testing.assert_allclose(found, plainly(weights, means, update, temperature), rtol=1e-10)
        assert found.sum() == pytest.approx(1, abs=1e-12)
        assert (weights == given).all()


def test_the_weights_of_the_published_code_and_eq_6_as_it_is_written(shared):
    golden = json.loads((shared / "golden" / "iterative_kmq_update.json").read_text(encoding="utf-8"))
    selected = golden["selected_iter0"]
    gaps = np.subtract(*np.array(golden["reward_gold_gen"]).T)
    means = cluster_means(np.array(golden["clusters"])[selected], gaps, golden["K"])
    np.testing.assert_allclose(means, golden["cluster_mean_gold_minus_gen"], rtol=1e-6)
    equal = np.full(golden["K"], 1 / golden["K"])
    np.testing.assert_allclose(update_weights(equal, means, "softmax"), golden["authors_p_next"], rtol=1e-5)
    np.testing.assert_allclose(update_weights(equal, means), golden["authors_p_next"], rtol=1e-5)
    assert min(golden["paper_eq5_6_literal_w1"]) < 0
    with pytest.raises(SelectionError, match="3 of 6 are below 0"):
        update_weights(equal, means, "paper")


@pytest.mark.parametrize("update", ["exponential", "softmax"])
def test_a_common_offset_and_huge_gaps_do_no_harm(update):
    weights, means = np.array([0.2, 0.3, 0.5]), np.array([1.0, 2.0, 4.0])
    expected = update_weights(weights, means, update)
    np.testing.assert_allclose(update_weights(weights, means + 1e4, update), expected, rtol=1e-9)
    assert update_weights(weights, means * 1e300, update, 1e-5).tolist() == [1e-300, 1e-300, 1.0]
    back = update_weights([1e-300, 1e-300, 1.0], [800.0, 0.0, 0.0], update)
    assert back[0] > 0.99, "a weight next to nothing can come up again"


def test_a_cluster_without_a_gap_keeps_its_weight():
    for update in ("exponential", "softmax", "paper"):
        found = update_weights([0.25, 0.25, 0.5], [3.0, 1.0, np.nan], update)
        assert found[2] == 0.5
        assert found[0] > 0.25 > found[1]
        assert update_weights([0.25, 0.75], [np.nan, np.nan], update).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ([1.0, -0.5, np.nan], r"1 of 2 are below 0, the lowest -0.5\. update='exponential' accepts any means"),
        ([-1.0, -2.0, -3.0], r"3 of 3 are below 0, the lowest -3"),
        ([0.0, 0.0, np.nan], r"no mean is below 0 and at least one is above, but all are 0"),
    ],
)
def test_the_paper_has_no_weights_for_gaps_below_zero(means, message):
    with pytest.raises(SelectionError, match=message):
        update_weights([0.2, 0.3, 0.5], means, "paper")


def test_an_unknown_update():
    with pytest.raises(SelectionError, match=r"update='code': it has to be 'exponential', 'softmax' or 'paper'"):
        update_weights([1.0], [1.0], "code")


def test_means_leave_out_rows_without_a_gap_and_in_no_cluster():
    found = cluster_means([0, 0, 1, -1, 3], [1.0, np.nan, np.nan, 9.0, np.inf], clusters=4)
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan, np.nan])


def test_effective_number_of_clusters():
    assert effective_number([1.0]) == pytest.approx(1)
    assert effective_number(np.full(2048, 1 / 2048)) == pytest.approx(2048)
    assert effective_number([0.5, 0.5, 0.0]) == pytest.approx(2)


# -- rounds after the first ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("update", ["exponential", "softmax", "paper"])
def test_quotas_follow_the_weights_over_the_rounds(update):
    clusters = np.repeat(np.arange(4), [40, 30, 20, 10])
    rng = np.random.default_rng(2)
    values = [rng.uniform(0.1, 3, 100).tolist() for _ in range(2)]
    values[0][0] = values[1][5] = None
    rounds = play(made(update=update), pool_of(clusters.tolist()), 30, [None, *map(gaps_by, values)])
    weights, before = [0.4, 0.3, 0.2, 0.1], rounds[0][1]
    for (context, selected), found in zip(rounds[1:], values, strict=True):
        means = [
            np.mean([found[row] for row in before if clusters[row] == each and found[row] is not None])
            for each in range(4)
        ]
        weights = plainly(weights, means, update, 1.0)
        np.testing.assert_allclose(context.record.notes["cluster_gap"], means, rtol=1e-5)
        np.testing.assert_allclose(context.record.notes["cluster_weights"], weights, rtol=1e-5)
        left = np.ones(100, dtype=bool)
        left[before] = False
        expected = quotas(clusters, 10, dict(enumerate(weights)), eligible=left)
        assert np.bincount(clusters[selected[len(before) :]], minlength=4).tolist() == list(expected.values())
        assert context.record.logs["mean_gap"] == pytest.approx(
            np.mean([found[r] for r in before if found[r] is not None])
        )
        assert context.record.logs["effective_clusters"] == pytest.approx(effective_number(weights))
        assert context.record.logs["largest_cluster_weight"] == pytest.approx(max(weights))
        assert json.loads(json.dumps(context.record.notes)) == context.record.notes
        before = selected


def test_gap_of_selected_rows_only():
    asked = []

    def compute(score, rows):
        asked.append(rows.tolist())
        return gaps_by([1.0] * 20)(score, rows)

    rounds = play(made(), pool_of([0, 1] * 10), 9, [compute] * 3)
    assert asked == [rounds[0][1].tolist(), rounds[1][1].tolist()]


def test_quality_decides_within_a_cluster_in_later_rounds_too():
    quality = np.arange(30.0)
    clusters = np.arange(30) % 3
    [(_, first), (_, second)] = play(
        made(rounds=2, temperature=1e-3), pool_of(clusters.tolist(), quality.tolist()), 12, [None, gaps_by([0.0] * 30)]
    )
    assert sorted(first.tolist()) == list(range(24, 30))
    assert sorted(second.tolist()) == list(range(18, 30))


def test_mixed_gaps_stop_the_papers_update():
    values = [1.0 if at % 2 else -1.0 for at in range(20)]
    with pytest.raises(SelectionError, match=r"update='paper'.*\(Eq\. 6\).*1 of 2 are below 0"):
        play(made(update="paper", rounds=2), pool_of([0, 1] * 10), 8, [None, gaps_by(values)])


def test_a_round_in_which_no_row_has_a_gap_is_refused():
    with pytest.raises(
        SelectionError,
        match=r"^Round 1 of IterativeKMQ: none of the 3 rows selected so far has a reward_gap \(3 empty_generation\), "
        r"which .* lower max_new_tokens of RewardGap; .* or KMQ",
    ):
        play(made(), pool_of([0] * 6 + [1] * 14), 9, [gaps_by([None] * 20)] * 3)


def test_answers_that_no_prompt_leaves_room_for(full, tiny_model_dir):
    gap = RewardGap(scorer="perplexity", max_new_tokens=1000)
    compute = Engine(Pool(full), str(tiny_model_dir)).compute
    with pytest.raises(SelectionError, match=r"none of the 4 rows .* has a reward_gap \(4 prompt_fills_window\)"):
        play(made(quality="reward", gap=gap, rounds=2), Pool(full), 8, [compute, compute])


@pytest.mark.parametrize(("known", "silent"), [(2, True), (1, False)])
def test_warning_if_most_gaps_are_missing(caplog, known, silent):
    def compute(score, rows):
        values = [None] * 20
        for row in rows[:known]:
            values[row] = 1.0
        return gaps_by(values)(score, rows)

    [(_, first), (context, _)] = play(made(rounds=2), pool_of([0, 1] * 10), 8, [None, compute])
    assert len(first) == 4
    said = (
        "Round 1 of IterativeKMQ: 3 of the 4 rows selected so far have no reward_gap (3 empty_generation). The weights"
    )
    assert [each[: len(said)] for each in caplog.messages] == ([] if silent else [said])
    assert context.record.logs["mean_gap"] == 1.0


# -- in groups -------------------------------------------------------------------------------------------------------
def grouped_pool():
    """Rows of source a and then of b, each in two clusters by turns."""
    pool = pool_of([0, 1] * 20)
    return Pool(pool.dataset.add_column("source", ["a"] * 20 + ["b"] * 20))


def test_group_without_gaps_keeps_weights(caplog):
    values = [None] * 20 + [1.0, -1.0] * 10
    rounds = play(per_source(made(), "source", "equal"), grouped_pool(), 12, [gaps_by(values)] * 3)
    groups = [context.record.notes["groups"] for context, _ in rounds]
    assert [each["a"]["cluster_weights"] for each in groups] == [[0.5, 0.5]] * 3
    assert groups[1]["b"]["cluster_weights"] == [0.880797, 0.119203]
    assert groups[2]["b"]["cluster_weights"] == [0.982014, 0.0179862]
    assert groups[2]["b"]["clusters"] == [0, 1]
    assert [each["a"]["rows_before"] for each in groups] == [0, 2, 4]
    assert "cluster_weights" not in rounds[2][0].record.notes
    assert caplog.messages == [
        f"Round {index} of IterativeKMQ, group 'a': none of the {2 * index} rows selected so far has a reward_gap "
        f"({2 * index} empty_generation). Its clusters keep their weights."
        for index in (1, 2)
    ]


def test_where_no_group_has_a_gap_the_round_is_refused():
    selector = per_source(made(), "source", "equal")
    with pytest.raises(
        SelectionError, match=r"none of the 4 rows selected so far has a reward_gap \(4 empty_generation"
    ):
        play(selector, grouped_pool(), 12, [gaps_by([None] * 40)] * 3)


def test_a_checkpoint_between_rounds_changes_nothing_and_the_seed_decides():
    pool, values = pool_of([0, 1, 2, 3, 4] * 8), np.random.default_rng(0).normal(size=40).tolist()

    def choices(through, seed):
        done = play(made(), pool, 12, [gaps_by(values)] * 3, seed, through=through)
        return [selected.tolist() for _, selected in done]

    assert choices(saved, 1) == choices(lambda state: state, 1) == choices(saved, 1)
    assert choices(saved, 1) != choices(saved, 2)


def test_repeated_round():
    pool, state = pool_of([0, 1, 2] * 6), {}
    able = np.ones(18, dtype=bool)
    selected = run_selector(made(), RoundContext(RoundCache(pool, None), budget=3, eligible=able, state=state))
    gaps = gaps_by(np.linspace(-2, 2, 18).tolist())
    first = RoundContext(
        RoundCache(pool, gaps), budget=6, index=1, eligible=able, selected=selected, state=dict(state)
    )
    rows = run_selector(made(), first)
    again = RoundContext(
        RoundCache(pool, gaps), budget=6, index=1, eligible=able, selected=selected, state=dict(state)
    )
    assert run_selector(made(), again).tolist() == rows.tolist()
    assert again.record.notes == first.record.notes


# -- what stays from the first round ---------------------------------------------------------------------------------
def test_clusters_and_a_computed_quality_are_those_of_the_first_round(pool_rows, tiny_model_dir):
    data = pool_rows
    selector = made(quality=Loss(), clusters=Cluster(k=3), vectors=Embedding(), rounds=2)
    pool, able = Pool(data), np.ones(24, dtype=bool)
    state = {}
    first = RoundContext(
        RoundCache(pool, Engine(pool, str(tiny_model_dir)).compute), budget=6, eligible=able, state=state
    )
    selected = run_selector(selector, first)
    second = RoundContext(
        RoundCache(pool, gaps_by(np.linspace(0, 1, 24).tolist())),
        budget=12,
        index=1,
        eligible=able,
        selected=selected,
        state=saved(state),
    )
    run_selector(selector, second)  # the fake model has no vectors and no loss
    for name in ("cluster_id", "loss"):
        assert second.record.scored[name][1].equals(first.record.scored[name][1])
    assert {spec["score"] for spec in second.record.score_specs} == {"loss", "embedding", "cluster", "reward_gap"}
    both = [Selection.from_round(each, selector, selected) for each in (first, second)]
    assert both[0].scores("cluster_id").tolist() == both[1].scores("cluster_id").tolist()
    assert [each.provenance["rows_scored"] for each in both] == [24, 6]


def test_with_a_model(full, tiny_model_dir):
    selector = made(quality="reward", rounds=2)
    compute = Engine(Pool(full), str(tiny_model_dir)).compute
    [(_, first), (context, second)] = play(selector, Pool(full), 8, [compute, compute])
    found = np.full(12, np.nan)
    found[first] = Selection.from_round(context, selector, second).scores("reward_gap")[first]
    assert np.isfinite(found[first]).all()
    means = cluster_means(full["cluster_id"][:], found, 3)
    np.testing.assert_allclose(np.array(context.record.notes["cluster_gap"], dtype=float), means, rtol=1e-5)
    assert len(second) == 8


# -- settings, explanations ------------------------------------------------------------------------------------------
def test_explained_from_the_record(full):
    selector = made(quality="reward", rounds=2)
    [(begun, first), (context, selected)] = play(selector, Pool(full), 8, [None, gaps_by([2.0] * 6 + [None] * 6)])
    selection, ids = Selection.from_round(context, selector, selected), np.array(full["cluster_id"][:])
    for row in range(12):
        when = {True: ["It was selected in an earlier round."], False: ["It is new in this round."]}
        said = when[row in first] if row in selected else []
        each = ids[row]
        inside, mine = (ids == each).sum(), (ids[selected] == each).sum()
        way = f"of which {mine} were selected: drawn at random by reward, with seed 0."
        weight, gap = context.record.notes["cluster_weights"][each], context.record.notes["cluster_gap"][each]
        known = "none of its rows had a gap" if gap is None else f"the mean gap of its rows was {gap:.4g}"
        assert explain(selection, full, row)["decided"] == [
            *said,
            f"Cluster {each} has {inside} rows to select from, {way}",
            f"The cluster had {weight:.3%} of the weight in this round: {known}.",
        ]
    drawn = explain(Selection.from_round(begun, selector, first), full, int(first[0]))["decided"]
    assert drawn[0].startswith(f"Cluster {ids[first[0]]} has")
    assert len(drawn) == 1


def test_clusters_of_a_model_that_was_trained_since_are_not_guessed(full, tiny_model_dir):
    selector = made(quality="reward", clusters=Cluster(k=2), vectors=Embedding(), rounds=2)
    compute = Engine(Pool(full), str(tiny_model_dir)).compute
    [_, (context, selected)] = play(selector, Pool(full), 8, [compute, compute])
    selection, last = Selection.from_round(context, selector, selected), int(selected[-1])
    while_training = selector.explain(context, selected, last)
    assert while_training[1].startswith("Cluster ")
    assert explain(selection, full, last)["decided"] == while_training, "the selection holds the clusters"
    selection.table = selection.table.drop_columns(["cluster_id"])
    decided = explain(selection, full, last, model=str(tiny_model_dir))["decided"]
    assert decided == [
        "It is new in this round.",
        "Its cluster is that of the vectors of the first round, whose model is not available.",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gap": "reward_gap"}, r"IterativeKMQ\(gap='reward_gap'\): it has to be RewardGap"),
        ({"gap": RewardGap("me/model", scorer="perplexity")}, r"gap=RewardGap\('me/model', .*Name no model"),
        ({"update": "exponentiel"}, r"update='exponentiel'\): .*Did you mean 'exponential'"),
        ({"gap_temperature": 0}, r"IterativeKMQ\(gap_temperature=0\): it has to be a number above 0"),
        ({"update": "paper", "gap_temperature": 2.0}, r"gap_temperature=2.0\): update='paper' has no temperature"),
        ({"rounds": 0}, r"IterativeKMQ\(rounds=0\)"),
        ({"weights": "rank"}, r"IterativeKMQ\(weights='rank'\)"),
        ({"quality": None}, r"IterativeKMQ\(quality=None\)"),
        ({"shares": "paper"}, r"IterativeKMQ\(shares='paper'\)"),
        ({"quality": "reward_gap"}, r"IterativeKMQ: quality and gap are both called 'reward_gap'.*column_prefix"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        made(**settings)


def test_in_a_recipe():
    settings = {
        "quality": {"score": "reward", "model": "me/reward"},
        "clusters": {"score": "cluster", "k": 512},
        "vectors": {"score": "embedding", "model": "me/encoder"},
        "gap": {"score": "reward_gap", "reward_model": "me/reward"},
        "update": "softmax",
    }
    selector = get_selector("iterative_kmq", settings)
    assert selector.gap == RewardGap(reward_model="me/reward")
    assert (selector.rounds, selector.restart_each_round) == (3, False)
    spec = json.loads(json.dumps(selector.spec()))
    assert spec["gap"] == settings["gap"]
    assert get_selector(spec.pop("selector"), spec) == selector
    with pytest.raises(ConfigError, match="iterative_kmq needs the setting 'quality'"):
        get_selector("iterative_kmq", {"gap": settings["gap"]})
    with pytest.raises(ConfigError, match="iterative_kmq needs the setting 'gap'"):
        get_selector("iterative_kmq", {"quality": "reward"})
