"""Filters one after the other, then a selector: what is kept, in what order, in later rounds, and what is refused."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from hf_datasel import Selection, select
from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_selector
from hf_datasel.rounds.selector import RowFilter
from hf_datasel.scores import IFD, Cluster, Embedding, Length, RewardGap, URLs
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import explain
from hf_datasel.selectors import (
    All,
    Chain,
    Cherry,
    DiverseEvol,
    InRange,
    IterativeKMQ,
    IterIT,
    KMRandom,
    NoNearDuplicates,
    Random,
    Superfiltering,
    Top,
    Within,
    get_filter,
    get_selector,
    per_source,
    within_clusters,
)
from hf_datasel.testing import contract

LONG = InRange("num_tokens", 10, 50)


@contract(
    Chain([LONG], Top(by="ifd")),
    Chain([LONG, NoNearDuplicates(by="reward")], IterIT(quality="ifd")),
    Chain([NoNearDuplicates(threshold=0.5)], Random()),
    Chain([InRange(Length(), low=2)], Within(Superfiltering(quality="ifd"))),
    Chain([InRange("ifd", high=1)], Chain([InRange("loss")], KMRandom(Cluster(k=2)))),
    Chain([], Top(by="loss")),
    Chain([LONG], All()),
)
def test_contract(check, selector, full):
    check(selector, full)


@contract(Chain([InRange(Length(), low=2)], IterIT()))
def test_contract_with_a_model(check, selector, pool_rows, tiny_model_dir):
    check(selector, pool_rows, tiny_model_dir)


def test_all_rows_that_pass(gaps, caplog, tmp_path):
    chain = Chain([InRange("ifd", high=1)], All())
    passing = [row for row, value in enumerate(gaps["ifd"][:]) if row not in (2, 5) and value < 1]
    selection = select(gaps, chain, size=3)
    assert selection.indices.tolist() == passing
    assert f"Chain always selects {len(passing)} rows and ignores the budget" in caplog.text
    assert selection.provenance["budget"] == len(passing)
    assert selection.provenance["shortfall"] == 0
    assert select(gaps, {"chain": {"filters": [{"filter": "in_range", "by": "ifd", "high": 1}], "then": {
        "selector": "all"}}}).indices.tolist() == passing  # fmt: skip
    assert explain(selection, gaps, 0)["decided"] == [f"It is one of {len(passing)} rows that the filters kept."]
    assert select(gaps, within_clusters(chain)).provenance["shortfall"] == 0
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(.*with ifd >= 0\.1"):
        select(gaps, Chain([InRange("ifd", high=0.1)], All()))


@pytest.mark.parametrize("size", [12, 11])  # more than can be trained on, more than pass
def test_too_many_rows_name_all(gaps, size):
    with pytest.raises(SelectionError, match=r"Lower it, or keep all rows that pass the filters with then=All\(\)"):
        select(gaps, Chain([InRange("ifd", high=1)], Random()), size=size)


def replaced(dataset, **columns):
    for name, values in columns.items():
        dataset = dataset.remove_columns(name) if name in dataset.column_names else dataset
        dataset = dataset.add_column(name, values)
    return dataset


@pytest.fixture(scope="module")
def copies(rows):
    """Give the 12 rows with vectors in pairs of near-duplicates, rows 0 and 1, 2 and 3 ..., and made-up values."""
    vectors = np.repeat(np.eye(6, dtype=np.float32), 2, axis=0)
    vectors[1::2, 0] += 0.1
    return replaced(rows, embedding=vectors.tolist(), value=[1, 2, 2, 1, 5, 5, 3, 4, 9, 8, 0, 7])


def left(make_round, dataset, *filters):
    """The rows that filters leave, and the round."""
    context = make_round(dataset, 12)
    return sorted(Chain(filters, Random()).select(context).tolist()), context


# -- the filters -----------------------------------------------------------------------------------------------------
def test_in_range_keeps_low_and_not_high(copies, make_round):
    found, context = left(make_round, copies, InRange("value", 2, 5))
    assert found == [1, 2, 6, 7]
    assert context.record.exclusions == {"with value < 2": 3, "with value >= 5": 5}


def test_in_range_leaves_out_rows_without_a_value(copies, make_round):
    data = replaced(copies, value=[None, float("nan"), float("inf"), *range(9)])
    found, context = left(make_round, data, InRange("value"))
    assert found == list(range(2, 12)), "infinity is a value"
    assert context.record.exclusions == {"without value": 2}
    assert left(make_round, data, InRange("value", low=0))[0] == list(range(2, 12))
    assert left(make_round, data, InRange("value", high=8))[0] == list(range(3, 11))


def test_in_range_of_another_column_of_a_score(copies, make_round):
    data = replaced(copies, output=["Click here.", "See www.a.b, or click here.", "No."] * 4)
    found, context = left(make_round, data, InRange(URLs(), high=1, column="link_phrases"))
    assert found == [2, 5, 8, 11]
    assert context.record.exclusions == {"with link_phrases >= 1": 8}
    prefixed = InRange(URLs(column_prefix="my_"), high=1, column="my_link_phrases")
    assert left(make_round, data, prefixed)[0] == found
    with pytest.raises(ConfigError, match=r"InRange\(column='link_phrase'\).* Did you mean 'link_phrases'\?"):
        InRange(URLs(), column="link_phrase")
    with pytest.raises(ConfigError, match=r"InRange\(by='ifd', column='loss'\): name one column, in by"):
        InRange("ifd", column="loss")


def test_in_range_score_of_remaining_rows(copies, make_round):
    context = make_round(copies, 3)
    Chain([InRange("value", high=3), InRange(Length(), low=1)], Random()).select(context)
    assert context.record.scored["response_words"][0].tolist() == [0, 1, 2, 3, 10]
    assert [spec["score"] for spec in context.record.score_specs] == ["length"]


@pytest.mark.parametrize(
    ("by", "expected"),
    [("value", [1, 2, 4, 7, 8, 11]), (None, [0, 2, 4, 6, 8, 10]), ("ifd", None)],
)
def test_of_near_duplicates_the_highest_stays_else_the_first(copies, make_round, by, expected):
    found, context = left(make_round, copies, NoNearDuplicates(by=by))
    if expected is None:
        ifd = copies["ifd"][:]
        expected = [row if ifd[row] >= ifd[row + 1] else row + 1 for row in range(0, 12, 2)]
    assert found == expected
    assert context.record.exclusions == {"near-duplicates by embedding": 6}


def test_near_duplicates_against_a_plain_version(rows, make_round):
    rng = np.random.default_rng(0)
    for _ in range(30):
        vectors = rng.integers(-2, 3, (12, 2)).astype(np.float32)
        values = rng.integers(0, 3, 12).astype(float)
        values[rng.random(12) < 0.1] = np.nan
        threshold = float(rng.choice([-0.5, 0.0, 0.8, 0.99]))
        stays = []
        for row in sorted(np.flatnonzero(np.isfinite(values)), key=lambda at: (-values[at], at)):
            lengths = [np.linalg.norm(vectors[row]) * np.linalg.norm(vectors[each]) or 1 for each in stays]
            cosines = [vectors[row] @ vectors[each] / long for each, long in zip(stays, lengths, strict=True)]
            if all(cosine <= threshold + 1e-9 for cosine in cosines):
                stays.append(row)
        data = replaced(rows, embedding=vectors.tolist(), value=values.tolist())
        assert left(make_round, data, NoNearDuplicates(threshold=threshold, by="value"))[0] == sorted(stays)


def test_rows_that_cannot_be_compared_are_excluded(copies, make_round):
    vectors = [None, *copies["embedding"][1:]]
    found, context = left(
        make_round, replaced(copies, embedding=vectors, value=[1, None, *range(10)]), NoNearDuplicates(by="value")
    )
    assert found == [3, 5, 7, 9, 11]
    assert context.record.exclusions == {"near-duplicates by embedding": 5, "without embedding": 1, "without value": 1}
    assert (
        left(make_round, replaced(copies, embedding=vectors), InRange("ifd", 0.6, 0.65), NoNearDuplicates())[0] == []
    )


def test_vectors_are_computed_for_the_rows_that_are_left(pool_rows, tiny_text_model_dir, make_round):
    vectors, asked = Embedding(str(tiny_text_model_dir), part="response"), []
    context = make_round(pool_rows, 3)
    compute = context._cache.compute
    context._cache.compute = lambda score, rows: asked.append((score, rows)) or compute(score, rows)
    chain = Chain([InRange(Length(), low=6), NoNearDuplicates(vectors, threshold=1)], Top(by=Length()))
    selected = chain.select(context)
    words = [len(row["output"].split()) for row in pool_rows]
    expected = [row for row in range(24) if words[row] >= 6]
    assert 0 < len(expected) < 24
    assert [(type(score).__name__, rows if rows is None else rows.tolist()) for score, rows in asked] == [
        ("Length", None),
        ("Embedding", expected),
        ("Length", expected),
    ]
    assert set(selected.tolist()) <= set(expected)


# -- one after the other ---------------------------------------------------------------------------------------------
def test_the_order_matters_where_it_should(copies, make_round):
    near, small = NoNearDuplicates(by="value"), InRange("value", high=5)
    assert left(make_round, copies, near, small)[0] == [1, 2, 7], "the better copies go afterwards"
    assert left(make_round, copies, small, near)[0] == [1, 2, 7, 10], "row 10 has lost its better copy before"
    high = InRange("ifd", high=1)
    assert left(make_round, copies, high, small)[0] == left(make_round, copies, small, high)[0]


def test_shortfall_message(copies):
    chain = Chain([InRange("value", low=2), NoNearDuplicates(by="value")], Superfiltering(quality="ifd"))
    with pytest.raises(
        SelectionError,
        match=r"^size=9 is more than the 5 of 12 rows that can be selected "
        r"\(3 near-duplicates by embedding, 3 with value < 2, 1 with ifd >= 1\)\. "
        r"Lower it, or keep all rows that pass the filters with then=All",
    ):
        select(copies, chain, size=9)
    with pytest.raises(SelectionError, match=r"^None of the 12 rows can be selected \(12 with value < 100\)\.$"):
        select(copies, Chain([InRange("value", low=100), NoNearDuplicates()], Random()), size=1)
    exclusions = select(copies, chain, size=5).provenance["exclusions"]
    assert exclusions == {"with value < 2": 3, "near-duplicates by embedding": 3, "with ifd >= 1": 1}


def first_of(selector, dataset, budget, make_round):
    """The first round of a run of several, whose last one has this budget, before it is played."""
    plan = selector.plan(budget, 3.0, 12)
    context = make_round(dataset, plan[0].budget)
    context.plan = plan
    return context


@pytest.mark.parametrize("then", [Cherry(clusters="group", warmup_size=2), DiverseEvol("embedding", rounds=3)])
def test_budget_of_later_round_too_large(copies, make_round, then):
    data, low, near = replaced(copies, group=[0, 1] * 6), InRange("value", low=2), NoNearDuplicates(by="value")
    why = r"that can be selected \(3 near-duplicates by embedding, 3 with value < 2\)\. Lower it\.$"
    for chain in (Chain([low, near], then), Chain([low], Chain([near], then))):
        with pytest.raises(SelectionError, match=rf"^A round of 7 rows is more than the 6 of 12 rows {why}"):
            run_selector(chain, first_of(chain, data, 7, make_round))
    chain = Chain([low, near], DiverseEvol("embedding", rounds=3))
    assert len(run_selector(chain, first_of(chain, data, 6, make_round))) == 2


def test_small_group_after_filters(copies, make_round):
    data = replaced(copies, group=[0] * 6 + [1] * 6, value=[1, 1, 1, 1, 2, *[2] * 7])
    selector = Within(Chain([InRange("value", low=2)], DiverseEvol("embedding", rounds=2)), "group")
    plan, state, selected = selector.plan(8, 2.0, 12), {}, np.empty(0, dtype=np.int64)
    for index, each in enumerate(plan):
        context = make_round(data, each.budget, index, state=state)
        context.plan, context.selected = plan, selected
        selected = run_selector(selector, context)
    assert sorted(selected.tolist()) == list(range(4, 12))


@pytest.mark.parametrize("then", [Random(), KMRandom("group"), Within(Random(), "group"), KMRandom(Cluster(k=2))])
def test_the_selection_is_that_from_a_dataset_of_the_rows_left(copies, then):
    data = replaced(copies, group=[0, 1] * 6)
    rows = [1, 2, 4, 5, 6, 7, 8, 9, 11]
    chain = Chain([InRange("value", low=2)], then)
    for seed in (0, 1):
        alone = select(data.select(rows), then, size=5, seed=seed).indices
        assert select(data, chain, size=5, seed=seed).indices.tolist() == np.array(rows)[alone].tolist()


def test_clusters_that_were_found_are_recorded(copies):
    selected = select(copies, Chain([InRange("value", low=2)], KMRandom(Cluster(k=2), "equal")), size=4)
    ids = selected.scores("cluster_id")
    assert np.isnan(ids[[0, 3, 10]]).all()
    assert set(ids[selected.indices]) == {0, 1}


def test_within_each_source_and_each_source_within(copies, make_round):
    data = replaced(copies, source=["a", "b"] * 6)
    inside = per_source(Chain([NoNearDuplicates()], Top(by="value")), "source", "equal")
    assert sorted(select(data, inside, size=4).indices.tolist()) == [4, 8, 9, 11], "copies in two sources stay"
    after = Chain([NoNearDuplicates()], per_source(Top(by="value"), "source", "equal"))
    with pytest.raises(SelectionError, match="6 near-duplicates by embedding"):
        select(data, after, size=7)
    assert set(select(data, after, size=4).indices.tolist()) < {0, 2, 4, 6, 8, 10}


def test_a_budget_in_tokens(copies):
    counted = replaced(copies, num_tokens=[10] * 12)
    found = select(counted, Chain([InRange("value", low=2)], Top(by="value")), tokens=35)
    assert found.indices.tolist() == [8, 9, 11]


# -- IterIT ----------------------------------------------------------------------------------------------------------
def rounds_of(selector, dataset, models, budget):
    """Three rounds, the later two with another model: the rows and the round of each."""
    pool, state, found = Pool(dataset), {}, []
    for index, (model, tokenizer) in enumerate(models):
        usable = pool.reasons == ""
        plan = selector.plan(budget, len(models), len(pool))
        compute = Engine(pool, model, tokenizer).compute
        context = RoundContext(
            RoundCache(pool, compute), budget=budget, index=index, eligible=usable, plan=plan, state=state
        )
        found.append((run_selector(selector, context).tolist(), context))
        state = {name: np.array(each.tolist(), dtype=each.dtype) for name, each in context.state.items()}
    return found


@pytest.mark.parametrize("candidates", ["filtered", "code"])
def test_iterit_in_a_chain_is_iterit_on_the_rows_left(pool_rows, tiny_model_dir, later_model, candidates):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    models = [(str(tiny_model_dir), None), (later_model, tokenizer), (later_model, tokenizer)]
    words = [len(row["output"].split()) for row in pool_rows]
    rows = np.array([row for row in range(24) if 3 <= words[row] < 9])
    assert 6 < len(rows) < 24
    iterit = IterIT(candidate_factor=2, candidates=candidates)
    alone = rounds_of(iterit, pool_rows.select(rows), models, 3)
    chained = rounds_of(Chain([InRange(Length(), 3, 9)], iterit), pool_rows, models, 3)
    for (mine, small), (theirs, whole) in zip(alone, chained, strict=True):
        assert theirs == rows[mine].tolist()
        assert whole.record.scored["ifd"][0].tolist() == rows[small.record.scored["ifd"][0]].tolist()
        assert np.allclose(
            whole.record.scored["ifd"][1].to_numpy(), small.record.scored["ifd"][1].to_numpy(), atol=1e-6
        )
    assert [len(context.record.scored["ifd"][0]) for _, context in chained] == [len(rows), 6, 6]
    assert alone[0][0] != alone[1][0], "the later model selects otherwise"
    assert Chain([LONG], iterit).reselects
    assert len(Chain([LONG], iterit).plan(3, 2.5, 24)) == 3


def test_filters_run_once(copies, make_round):
    asked = []

    @dataclass(frozen=True)
    class Counted(InRange):
        def keep(self, context, rows):
            asked.append(context.index)
            return super().keep(context, rows)

    chain = Chain([Counted("value", low=2), NoNearDuplicates(by="value")], IterIT(quality="ifd", candidate_factor=1))
    first = make_round(copies, 3)
    chain.select(first)
    moved = replaced(copies, value=[9] * 12)  # of another model, as it were
    second = make_round(moved, 3, index=1, state=first.state)
    selected = chain.select(second)
    assert asked == [0]
    window = np.array([1, 2, 4, 7, 8, 11])[first.state["then/window"]]
    assert sorted(selected.tolist()) == sorted(window.tolist()) == [2, 4, 8]
    assert first.record.exclusions == {"with value < 2": 3, "near-duplicates by embedding": 3, "with ifd >= 1": 1}
    assert second.record.exclusions == {"with value < 2": 3, "near-duplicates by embedding": 3}
    assert second.record.columns_used == first.record.columns_used == ["value", "embedding", "ifd"]
    assert all(each.dtype != object for each in first.state.values()), "which is what checkpoints can hold"


def test_rows_whose_scores_are_remembered_are_not_counted_again(copies, make_round):
    """Words stand for a score by a model, which a later round does not compute again."""
    gap = RewardGap(scorer="perplexity", max_new_tokens=2)
    method = IterativeKMQ(Cluster(k=2), vectors="embedding", quality=Length(), gap=gap, rounds=2)

    def compute(score, rows):
        at = np.arange(12) if rows is None else rows
        if isinstance(score, Length):
            return {"response_words": pa.array(at + 1, pa.int32())}
        return {"reward_gap": pa.array(at / 10, pa.float32()), "reward_gap_reason": pa.array([""] * len(at))}

    counted = []
    for selector in (method, Chain([InRange("value", low=1)], method)):
        state, selected, plan = {}, np.empty(0, dtype=np.int64), selector.plan(8, 2.0, 12)
        for index, each in enumerate(plan):
            context = make_round(copies, each.budget, index, state=state)
            context.plan, context.selected, context._cache.compute = plan, selected, compute
            selected = run_selector(selector, context)
            counted.append(Selection.from_round(context, selector, selected).provenance["rows_scored"])
    assert counted == [12, 4, 11, 4]


def test_rows_that_were_excluded_stay_out_in_a_shortfall_of_a_later_round(copies, make_round):
    chain = Chain([InRange(Length(), low=3)], IterIT(quality="ifd"))
    first = make_round(copies, 3)
    chain.select(first)
    second = make_round(copies, 3, index=1, state=first.state)
    chain.select(second)
    assert {name: each for name, each in second.record.exclusions.items() if "words" in name} == {
        name: each for name, each in first.record.exclusions.items() if "words" in name
    }
    assert second.record.score_specs == json.loads(json.dumps(first.record.score_specs))


# -- in words --------------------------------------------------------------------------------------------------------
def test_explain_names_filter(copies):
    chain = Chain([InRange("value", low=2), NoNearDuplicates(by="value")], Superfiltering(quality="ifd"))
    selected = select(copies, chain, size=3)
    said = {row: explain(selected, copies, row)["decided"] for row in range(12)}
    assert said[0] == ["The filter 'value >= 2' excluded it: with value < 2.", "Its value is 1."]
    assert said[6][0] == (
        "The filter 'no near-duplicates by embedding (cosine > 0.9, highest value kept)' excluded it: "
        "near-duplicates by embedding."
    )
    assert said[6][1].startswith(
        "Its embedding has a cosine of 0.995 with that of row 7, whose value is 4; its own is 3"
    )
    assert said[2][0] == "It is one of 6 rows that the filters kept."
    assert said[2][1].startswith("Of the 5 rows to select from")


def test_explain_goes_on_in_the_selector(copies):
    chain = Chain([InRange("value", low=2)], IterIT(quality="ifd"))
    selected = select(copies, chain, size=2)
    inside = explain(selected, copies, int(selected.indices[1]))["decided"]
    assert any("when it was selected, after 1 others" in each for each in inside)


# -- your own filter -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Every(RowFilter):
    step: int = 2

    def keep(self, context, rows):
        return rows[:: self.step]


@dataclass(frozen=True)
class Wrong(RowFilter):
    how: str = "mask"

    def keep(self, context, rows):
        return np.ones(len(rows), dtype=bool) if self.how == "mask" else np.array([0, 99])


def test_a_filter_of_ones_own(copies):
    chain = Chain([InRange("value", low=2), Every(3)], Top(by="ifd"))
    selected = select(copies, chain, size=3)
    assert sorted(selected.indices.tolist()) == [1, 5, 8]
    assert selected.provenance["exclusions"] == {"with value < 2": 3, "excluded by Every": 6}
    spec = json.loads(json.dumps(chain.spec()))
    assert spec["filters"][1] == {"filter": f"{__name__}:Every", "step": 3}
    assert get_selector(spec.pop("selector"), spec, allow_imports=True) == chain
    with pytest.raises(
        ConfigError, match=rf"Filter '{__name__}:Every' is code outside hf_datasel\. Permit it with allow_imp"
    ):
        get_selector("chain", spec)
    assert explain(selected, copies, 2)["decided"][0].startswith("The selector is not available"), "without leave"
    assert explain(selected, copies, 2, allow_imports=True)["decided"] == [
        f"The filter '{__name__}:Every (step=3)' excluded it: excluded by Every."
    ]


@pytest.mark.parametrize(("how", "message"), [("mask", "bool of shape"), ("far", "that it was not called with")])
def test_a_filter_that_answers_otherwise(copies, how, message):
    with pytest.raises(SelectionError, match=rf"Wrong\.keep returned .*{message}"):
        select(copies, Chain([Wrong(how)], Random()), size=1)


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------
def test_interrupted_in_a_filter_nothing_is_selected(copies, make_round, stop_at):
    with pytest.raises(Interrupted, match="0 rows had been selected"):
        Chain([NoNearDuplicates()], Random()).select(stop_at(make_round(copies, 3), 2))


def test_interrupted_in_the_selector(copies):
    class Stops(Random):
        def select(self, context):
            raise Interrupted(np.array([2, 0]))

    with pytest.raises(Interrupted, match="2 rows had been selected") as stop:
        select(copies, Chain([InRange("value", low=2)], Stops()), size=4)
    assert stop.value.selection.indices.tolist() == [4, 1]


# -- recipes, and what is refused ------------------------------------------------------------------------------------
WRITTEN = {
    "filters": [
        {"filter": "in_range", "by": {"score": "length"}, "low": 10},
        {
            "filter": "no_near_duplicates",
            "vectors": {"score": "embedding", "model": "a/b", "max_length": 256},
            "by": "ifd",
        },
    ],
    "then": {"selector": "iterit", "decay": 0.0},
}


def test_as_recipes_write_it():
    chain = get_selector("chain", WRITTEN)
    near = NoNearDuplicates(Embedding("a/b", max_length=256), by="ifd")
    assert chain == Chain((InRange(Length(), low=10), near), IterIT(decay=0.0))
    assert chain.spec()["filters"] == WRITTEN["filters"]
    assert get_filter("in_range", {"by": IFD(), "high": 1}) == InRange(IFD(), high=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"filters": [{"filter": "in_rang", "by": "x"}]},
            r"no filter 'in_rang'\. Did you mean 'in_range'\? There are",
        ),
        (
            {"filters": [{"filter": "in_range", "by": "x", "lo": 1}]},
            r"in_range has no setting 'lo'\. Did you mean 'lo",
        ),
        ({"filters": [{"filter": "in_range", "low": 1}]}, r"needs the setting 'by': pass InRange\(by=\.\.\.\)\."),
        (
            {"filters": [{"filter": "in_range", "by": {"score": "lenght"}}]},
            r"no score 'lenght'\. Did you mean 'length'",
        ),
        ({"filters": [{"filter": "in_range", "by": 3}]}, r"InRange\(by=3\): it has to be the name of a column"),
        ({"filters": [{"filter": "in_range", "by": "x", "low": "2"}]}, r"InRange\(low='2'\): it has to be a number"),
        ({"filters": [{"filter": "in_range", "by": "x", "low": 2, "high": 2}]}, "excludes every row"),
        (
            {"filters": [{"filter": "no_near_duplicates", "threshold": 2}]},
            r"NoNearDuplicates\(threshold=2\).* from -1 to 1",
        ),
        ({"filters": [{"filter": "no_near_duplicates", "vectors": {"score": "length"}}]}, r"or Embedding\(...\)"),
        ({"filters": [{"filtre": "in_range"}]}, r"it has to be a filter such as .*\{filter: in_range"),
        ({"filters": {"filter": "in_range", "by": "x"}}, r"Chain\(filters=InRange\(...\)\): .* filters: \[{filter"),
        (
            {"filters": [], "then": "iterit"},
            r"Chain\(then='iterit'\): it has to be a selector.* then: {selector: iterit}",
        ),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        get_selector("chain", {"then": {"selector": "random"}, **settings})


def test_missing_columns():
    with pytest.raises(ConfigError, match=r"chain needs the setting 'then': pass Chain\(then=\.\.\.\)") as caught:
        get_selector("chain", {"filters": []})
    assert caught.value.cli_message == "chain needs the setting 'then': pass it in selector_kwargs."


def test_a_filter_is_named_where_its_column_is_missing(copies):
    with pytest.raises(ColumnError, match=r"^InRange needs column 'valeu', but .*Did you mean 'value'\?"):
        select(copies, Chain([InRange("valeu")], Random()), size=1)
    with pytest.raises(ColumnError, match=r"^Top needs column 'valeu'"):
        select(copies, Chain([InRange("value")], Top(by="valeu")), size=1)
