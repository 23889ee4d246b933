import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, concatenate_datasets
from transformers import TrainingArguments

from hf_datasel import select
from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError
from hf_datasel.rounds.allocation import group_quotas
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import run_selector
from hf_datasel.scores import Cluster, Embedding, Length, RewardGap
from hf_datasel.selectors import (
    LESS,
    Chain,
    DiverseEvol,
    InRange,
    IterativeKMQ,
    IterIT,
    LengthKM,
    Random,
    Superfiltering,
    Top,
    Within,
    get_selector,
    per_source,
    within_clusters,
)
from hf_datasel.strategies.clusters import quotas, top_per_cluster
from hf_datasel.testing import contract

SOURCES = ["a", "a", "b", "a", "b", "a", "b", "a", "a", "b", "a", "a"]


@pytest.fixture
def grouped(rows):
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    data = rows.add_column("source", SOURCES).add_column("cluster_id", [0, 0, 5, 0, 5, 0, 5, 0, 9, 5, 0, 0])
    return data.add_column("embedding", vectors.tolist())


@contract(
    within_clusters(Top(by="ifd")),
    per_source(Random(), "source"),
    Within(Superfiltering(quality="ifd"), "source", "equal"),
    Within(Top(by=Length()), "source", {"a": 1, "b": 3}),
    within_clusters(Random(), Cluster(k=3)),
)
def test_contract(check, selector, grouped):
    check(selector, grouped)


@pytest.mark.parametrize("budget", range(1, 13))
def test_top_within_clusters_is_the_best_of_each_cluster(grouped, budget):
    expected = top_per_cluster(grouped["ifd"][:], grouped["cluster_id"][:], budget)
    found = select(grouped, within_clusters(Top(by="ifd")), size=budget).indices
    assert sorted(found.tolist()) == sorted(expected.tolist())


def test_shares_by_name(grouped):
    selected = select(grouped, per_source(Top(by="ifd"), "source", {"a": 1, "b": 2}), size=6).indices
    assert sorted(SOURCES[row] for row in selected) == ["a", "a", "b", "b", "b", "b"]


def test_shares_by_number_as_json_writes_them(grouped):
    selector = get_selector("within", {"method": {"selector": "random"}, "shares": {"0": 1, "5": 0, "9": 0}})
    selected = select(grouped, selector, size=7)
    assert set(np.array(grouped["cluster_id"][:])[selected.indices]) == {0}
    assert selected.provenance["exclusions"] == {"in a group with share 0": 5}
    with pytest.raises(SelectionError, match=r"more than the 7 of 12 rows .*5 in a group with share 0"):
        select(grouped, selector, size=8)


def test_small_groups(grouped):
    few = grouped.remove_columns("ifd").add_column("ifd", [1.5 if each == "b" else 0.5 for each in SOURCES])
    selected = select(few, Within(Superfiltering(quality="ifd"), "source", "equal"), size=8).indices
    assert {SOURCES[row] for row in selected} == {"a"}
    with pytest.raises(SelectionError, match=r"more than the 8 of 12 rows that can be selected \(4 with ifd >= 1\)"):
        select(few, Within(Superfiltering(quality="ifd"), "source", "equal"), size=9)


def test_rows_without_a_group_are_excluded_and_counted(grouped):
    data = grouped.remove_columns("source").add_column("source", [None, *SOURCES[1:]])
    selected = select(data, per_source(Random(), "source"), size=11)
    assert 0 not in selected.indices
    assert selected.provenance["exclusions"] == {"in no group": 1}


def test_any_beginning_is_spread_over_the_groups(grouped):
    selected = select(grouped, Within(Top(by="ifd"), "source", "equal"), size=8).indices
    for length in range(2, 9, 2):
        assert [SOURCES[row] for row in selected[:length]].count("a") == length // 2


def test_a_group_sees_only_its_own_rows(grouped):
    class Seen(Random):
        def select(self, context):
            seen.append((context.pool["output"][:], context.column("ifd").tolist(), context.texts("response")))
            return super().select(context)

    seen = []
    select(grouped, per_source(Seen(), "source", "equal"), size=4)
    for source, (outputs, ifd, texts) in zip("ab", seen, strict=True):
        at = [row for row, each in enumerate(SOURCES) if each == source]
        assert outputs == texts == [grouped["output"][row] for row in at]
        assert ifd == [grouped["ifd"][row] for row in at]


def test_a_score_is_computed_once_for_all_groups(grouped, make_round):
    context, calls = make_round(grouped, 6), []
    compute = context._cache.compute
    context._cache.compute = lambda score, rows: calls.append(rows) or compute(score, rows)
    per_source(Top(by=Length()), "source").select(context)
    assert calls == [None]


def test_state_is_kept_by_group(grouped, make_round):
    selector = per_source(IterIT(quality="ifd", candidate_factor=1), "source", "equal")
    first = make_round(grouped, 4)
    selector.select(first)
    assert sorted(first.state) == ["0/window", "1/window"]
    second = make_round(grouped, 4, index=1, state=first.state)
    assert len(selector.select(second)) == 4
    assert selector.reselects
    assert len(selector.plan(4, 3, 12)) == 3


def played(selector, names, make_round):
    """Rounds of a method that grows over rows of two named groups: rows, and what is kept, as npz files hold it."""
    size = 40
    columns = {"prompt": [f"p{at}" for at in range(size)], "completion": [f"c {at}" for at in range(size)]}
    columns |= {"q": [float(at % 5) for at in range(size)], "cluster_id": [at // 2 % 2 for at in range(size)]}
    data = Dataset.from_dict({**columns, "source": [names[at % 2] for at in range(size)]})
    found, state, selected = [], {}, np.empty(0, dtype=np.int64)
    for index, each in enumerate(plan := selector.plan(16, 4.0, size)):
        context = make_round(data, each.budget, index, state=state)
        context.plan, context.selected = plan, selected
        context._cache.compute = lambda _, rows: {
            "reward_gap": pa.array(np.where(rows % 4 < 2, 1.0, -1.0), pa.float32()),
            "reward_gap_reason": pa.array([""] * len(rows)),
        }
        selected = run_selector(selector, context)
        file = io.BytesIO()
        np.savez(file, **{f"state/{name}": values for name, values in context.state.items()})
        with np.load(io.BytesIO(file.getvalue())) as stored:
            state = {name.removeprefix("state/"): stored[name] for name in stored}
        found.append((selected.tolist(), {name: values.tolist() for name, values in state.items()}))
    return found


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("a/b", "a"),
        ("a", "a/b"),
        ("", "/"),
        ("1", "0"),
        ("1/0", "1"),
        ("first", "then/"),
        ("a.npy", "a"),
        ("../a", "\0"),
    ],
)
def test_names_of_groups_may_be_anything(make_round, names, nested):
    method = IterativeKMQ(quality="q", gap=RewardGap(scorer="perplexity"), rounds=4)
    selector = per_source(per_source(method, "source") if nested else method, "source")
    found = played(selector, names, make_round)
    assert found == played(selector, ("x", "y"), make_round)
    weights = [values for name, values in found[-1][1].items() if name.endswith("cluster_weights")]
    assert len(weights) == 2
    assert all(high > 0.9 for high, _ in weights), "each group has followed its gaps for three rounds"


def test_group_writes_only_its_state(grouped, make_round):
    class Counts(Random):
        def select(self, context):
            if not context.index:
                context.state["kept"] = np.array([len(context.pool)])
            context.state["round"] = np.array([context.index])
            return super().select(context)

    first = make_round(grouped, 6)
    per_source(Counts(), "source").select(first)
    second = make_round(grouped, 6, index=1, state=dict(first.state))
    second.state["0/kept"] = np.array([-1])
    kept = second.state["1/kept"]
    per_source(Counts(), "source").select(second)
    assert {name: each.tolist() for name, each in second.state.items()} == {
        "0/kept": [-1],
        "1/kept": [4],
        "0/round": [1],
        "1/round": [1],
    }
    assert second.state["1/kept"] is kept


def test_groups_inside_groups(grouped):
    selected = select(grouped, per_source(within_clusters(Random()), "source", "equal"), size=6).indices
    assert [SOURCES[row] for row in selected].count("b") == 3


def test_interrupted_in_a_group(grouped):
    class Stops(Random):
        def select(self, context):
            if len(context.pool) == 4:
                raise Interrupted(np.array([2]))
            return super().select(context)

    with pytest.raises(Interrupted, match="5 rows had been selected") as stop:
        select(grouped, per_source(Stops(), "source"), size=6)
    assert [SOURCES[row] for row in stop.value.selected].count("b") == 1
    assert stop.value.selected.tolist() == stop.value.selection.indices.tolist()
    assert 6 in stop.value.selected  # the third row of b


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "top"}, r"Within\(method='top'\): it has to be a selector.* method: {selector: top}"),
        ({"method": Random(), "groups": 3}, r"Within\(groups=3\): .* a column, or Cluster\(...\)"),
        ({"method": Random(), "shares": "half"}, r"Within\(shares='half'\): it has to be 'proportional', 'equal'"),
        ({"method": Random(), "shares": "equall"}, r"Did you mean 'equal'\?"),
        ({"method": Random(), "shares": {}}, r"Within\(shares=\{\}\)"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        Within(**settings)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 1}, "has no share for 'b'"),
        ({"a": 1, "b": -1}, r"\{'b': -1\}\): a share is a number of at least 0"),
        ({"a": 1, "b": 1, "c": 1}, r"\{'c': 1\}\): .* has the groups 'a', 'b'"),
        ({"a": 0, "b": 0}, "gives 0 to every group"),
    ],
)
def test_shares_that_do_not_fit_the_groups(grouped, shares, message):
    with pytest.raises(SelectionError, match=message):
        select(grouped, per_source(Random(), "source", shares), size=2)


def test_a_column_that_is_missing_or_no_group(grouped):
    with pytest.raises(ColumnError, match=r"Within needs column 'sauce', but .*Did you mean 'source'\?"):
        select(grouped, per_source(Random(), "sauce"), size=2)
    with pytest.raises(ColumnError, match="Column 'ifd' must contain cluster numbers"):
        select(grouped, per_source(Random(), "ifd"), size=2)
    with pytest.raises(ColumnError, match=r"It is added with hf_datasel\.score\(dataset, \[Cluster"):
        select(grouped.remove_columns("cluster_id"), within_clusters(Random()), size=2)


def test_the_same_as_a_method_that_knows_clusters_itself(grouped):
    outputs = [" " if row in (0, 1, 3) else text for row, text in enumerate(grouped["output"][:])]
    data = grouped.remove_columns("output").add_column("output", outputs).add_column("tokens", list(range(12)))
    for size in range(1, 9):
        own = select(data, LengthKM(by="tokens"), size=size).indices
        assert sorted(own) == sorted(select(data, within_clusters(Top(by="tokens")), size=size).indices)


def test_every_part_draws_by_itself(grouped):
    data = concatenate_datasets([grouped.remove_columns(["source", "cluster_id"])] * 8)
    data = data.add_column("source", ["a"] * 48 + ["b"] * 48).add_column("cluster_id", [0, 1, 2, 3] * 24)
    selected = select(data, per_source(within_clusters(Random()), "source"), size=32, seed=1).indices
    first, second = sorted(selected[selected < 48].tolist()), sorted((selected[selected >= 48] - 48).tolist())
    assert first != second
    alone = select(data, Random(), size=96, seed=1).indices
    one_group = select(data.add_column("one", [0] * 96), Within(Random(), "one"), size=96, seed=1).indices
    assert alone.tolist() != one_group.tolist()


def test_scores_of_some_rows_of_each_group_are_recorded(grouped, make_round):
    class Some(Random):
        def select(self, context):
            rows = super().select(context)
            context.score(Length(), rows)
            return rows

    context = make_round(grouped, 6)
    selected = per_source(Some(), "source", "equal").select(context)
    at, words = context.record.scored["response_words"]
    assert sorted(at.tolist()) == sorted(selected.tolist())
    assert words.to_pylist() == [len(grouped["output"][row].split()) for row in at.tolist()]


def test_second_call_restarts(grouped):
    ifd = [1.5 if source == "a" and row > 3 else 0.9 - row / 100 for row, source in enumerate(SOURCES)]
    data = grouped.remove_columns("ifd").add_column("ifd", ifd)
    for candidates in ("filtered", "algorithm-1", "code"):
        selector = per_source(IterIT(quality="ifd", candidates=candidates), "source", "equal")
        assert len(select(data, selector, size=7).indices) == 7


def test_groups_of_a_method_that_reselects_stay(grouped, make_round):
    selector = Within(IterIT(quality="ifd", candidate_factor=1), Cluster(k=2))
    first = make_round(grouped, 6)
    selector.select(first)
    other = np.random.default_rng(9).normal(size=(12, 3)).astype(np.float32)
    moved = grouped.remove_columns("embedding").add_column("embedding", other.tolist())
    second = make_round(moved, 6, index=1, state=first.state)
    assert len(selector.select(second)) == 6
    assert second.record.scored["cluster_id"][1].to_pylist() == first.record.scored["cluster_id"][1].to_pylist()
    assert second.record.columns_reused == {"cluster_id"}


def moving(grouped, seed):
    """The same rows, with the vectors of another model."""
    vectors = np.random.default_rng(seed).normal(size=(12, 3)).astype(np.float32)
    return grouped.remove_columns("embedding").add_column("embedding", vectors.tolist())


def grown(selector, datasets, budgets, make_round):
    """Play the rounds of a method that grows, each with its own vectors; returns the rounds and the selections."""
    plan, selected, state, played = selector.plan(max(budgets), 1.0, 12), np.empty(0, dtype=np.int64), {}, []
    for index, (data, budget) in enumerate(zip(datasets, budgets, strict=True)):
        context = make_round(data, budget, index, state=state)
        context.plan, context.selected = plan, selected
        played.append((context, run_selector(selector, context)))
        selected = np.array(list(dict.fromkeys([*selected.tolist(), *played[-1][1].tolist()])), dtype=np.int64)
        state = context.state
    return played


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_a_method_that_grows_stay_and_so_do_its_rows(grouped, make_round, seed):
    selector = Within(DiverseEvol("embedding", rounds=4), Cluster(k=3))
    datasets = [moving(grouped, 10 * seed + at) for at in range(4)]
    played = grown(selector, datasets, [3, 5, 8, 11], make_round)
    groups = [context.record.scored["cluster_id"][1].to_pylist() for context, _ in played]
    assert groups == groups[:1] * 4
    for (_, before), (context, rows) in pairwise(played):
        assert set(before.tolist()) < set(rows.tolist())
        assert len(rows) == context.budget
        [spec] = [each for each in context.record.score_specs if each["score"] == "cluster"]
        assert spec["k"] == 3


def test_state_fits_groups_of_later_rounds(grouped, make_round):
    gap = RewardGap(scorer="perplexity", max_new_tokens=2)
    method = IterativeKMQ(Cluster(k=2), quality="ifd", vectors="embedding", gap=gap, rounds=3)
    datasets = [moving(grouped, seed) for seed in range(3)]

    def make(*args, **kwargs):
        context = make_round(*args, **kwargs)
        gaps = {"reward_gap": pa.array([1.0] * 12, pa.float32()), "reward_gap_reason": pa.array([""] * 12)}
        context._cache.compute = lambda _, rows: {name: each.take(rows) for name, each in gaps.items()}
        return context

    played = grown(Within(method, Cluster(k=3)), datasets, [4, 8, 12], make)
    assert [len(rows) for _, rows in played] == [4, 8, 12]
    assert set(played[0][1]) < set(played[1][1])


def test_groups_that_cannot_be_found_again_are_not_made_up(grouped, make_round):
    selector = Within(DiverseEvol(rounds=2), Cluster(k=2), vectors=Embedding(as_trained=True))
    said = selector.explain(make_round(grouped, 6, index=1), np.arange(6), 0)
    assert said == ["Its group is that of the vectors of the first round, whose model is not available."]


# -- shares of rounds that grow --------------------------------------------------------------------------------------
def test_largest_remainders_keep_earlier_rows(make_round):
    sizes = [28, 2, 18, 24, 23, 13]
    ids = np.repeat(np.arange(6), sizes)
    totals = [(at + 1) * 46 // 7 for at in range(7)]
    alone = [list(quotas(ids, total).values()) for total in totals]
    assert any(later < before for rows in pairwise(alone) for before, later in zip(*rows, strict=True))
    data = Dataset.from_dict({"prompt": ["a"] * len(ids), "completion": ["b"] * len(ids), "cluster_id": ids.tolist()})
    data = data.add_column("embedding", np.random.default_rng(0).normal(size=(len(ids), 4)).tolist())
    played = grown(Within(DiverseEvol("embedding", rounds=7)), [data] * 7, totals, make_round)
    for (_, before), (_, rows) in pairwise(played):
        assert set(before.tolist()) < set(rows.tolist())
    assert [len(rows) for _, rows in played] == totals
    last = np.bincount(ids[played[-1][1]])
    assert np.abs(last - 46 * np.array(sizes) / sum(sizes)).max() < 1.5, "still about the shares"


def test_a_round_with_fewer_rows_keeps_those_selected_first(grouped, make_round):
    selector = per_source(DiverseEvol("embedding", rounds=4), "source")
    played = grown(selector, [grouped] * 4, [3, 9, 4, 10], make_round)
    rows = [set(each.tolist()) for _, each in played]
    assert rows[0] < rows[2] < rows[1] < rows[3]


def test_quotas_of_a_growing_round(grouped, make_round):
    rng = np.random.default_rng(3)
    for trial in range(300):
        ids = rng.integers(-1, rng.integers(1, 6), 12)
        can = (ids >= 0) & (rng.random(12) < 0.8)
        selected = rng.permutation(12)[: rng.integers(0, 13)]
        budget = int(rng.integers(0, 13))
        shares = ["proportional", "equal", {int(each): float(rng.random() + 0.1) for each in range(6)}][trial % 3]
        if isinstance(shares, dict):
            shares = {each: shares[each] for each in np.unique(ids[ids >= 0]).tolist()}
        context = make_round(grouped, budget)
        context.selected = selected
        plain = quotas(ids, min(budget, int(can.sum())), shares, eligible=can)
        assert group_quotas(context, ids, shares, can) == plain, "rounds that select anew"
        context.plan = (RoundPlan(budget, kind="growing"),)
        found = group_quotas(context, ids, shares, can)
        held = {group: int(((ids == group) & can)[selected[:budget]].sum()) for group in plain}
        assert sum(found.values()) == min(budget, int(can.sum()))
        assert all(held[group] <= found[group] <= ((ids == group) & can).sum() for group in plain)
        assert all(found[group] <= max(plain[group], held[group]) for group in plain), "only what is held is above"
        if all(plain[group] >= held[group] for group in plain):
            assert found == plain


def test_reselection_ignores_earlier_rows(grouped, make_round):
    context = make_round(grouped, 6, index=1)
    context.plan, context.selected = (RoundPlan(6), RoundPlan(6)), np.array([0, 1, 3, 5, 7, 8])  # all of source a
    selected = per_source(Top(by="ifd"), "source", "equal").select(context)
    assert [SOURCES[row] for row in selected].count("b") == 3


def test_settings_of_training_are_checked_by_the_method_inside(tmp_path):
    args = TrainingArguments(str(tmp_path), optim="sgd", use_cpu=True, bf16=False)
    less = LESS(validation="bbh.jsonl")
    for selector in (Within(less), Chain([InRange("ifd")], less), Chain([], Within(less))):
        with pytest.raises(ConfigError, match="LESS reads the moments of AdamW"):
            selector.check_training(args)
    Within(Random()).check_training(args)


def test_groups_by_labels_and_by_yes_and_no(grouped):
    data = grouped.add_column("good", [source == "a" for source in SOURCES])
    labelled = data.cast_column("cluster_id", ClassLabel(num_classes=10, names=[f"kind {at}" for at in range(10)]))
    shares = {"kind 0": 1, "kind 5": 1, "kind 9": 0}
    selected = select(labelled, Within(Random(), "cluster_id", shares), size=6).indices
    assert sorted(labelled["cluster_id"][row] for row in selected) == [0, 0, 0, 5, 5, 5]
    assert len(select(data, Within(Random(), "good", {"True": 1, "False": 0}), size=7).indices) == 7
