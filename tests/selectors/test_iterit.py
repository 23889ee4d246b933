import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_datasel import Selection, score, select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import run_round
from hf_datasel.scores import IFD
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import explain
from hf_datasel.selectors import IterIT, per_source
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenSettings

END = "<|end_of_text|>"


@contract(
    IterIT(quality="ifd"),
    IterIT(quality="ifd", candidates="code", decay=0.0),
    IterIT(quality="ifd", candidates="algorithm-1", candidate_factor=12),
    IterIT(quality="ifd", diversity="none"),
    IterIT(quality="ifd", diversity="both", weighting="paper", candidate_factor=1),
)
def test_contract(check, selector, rows):
    check(selector, rows)


@contract(IterIT())
def test_contract_with_a_model(check, selector, pool_rows, tiny_model_dir):
    check(selector, pool_rows, tiny_model_dir)


def replaced(dataset, **columns):
    for name, values in columns.items():
        dataset = dataset.remove_columns(name).add_column(name, values)
    return dataset


@pytest.fixture(scope="module")
def long_row(rows):
    """Row 0 says by far the most, and is not among the four highest IFDs below 1: rows 9, 2, 4 and 8."""
    long = "Seven brown foxes jump over one lazy dog while twelve quick wizards quietly mix black quartz potions"
    return replaced(rows, output=[long, *[f"word{row} alone" for row in range(1, 12)]])


# -- the published selection ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published(shared):
    golden = json.loads((shared / "golden" / "iterit_selection.json").read_text(encoding="utf-8"))["cases"]
    rows = json.loads((shared / "data" / "alpaca_random_5200.json").read_text(encoding="utf-8"))[:2000]
    with open(shared / "golden" / "iterit_ifd_2000.csv", encoding="utf-8", newline="") as file:
        ifd = {int(line["row"]): float(line["ifd_float32"]) for line in csv.DictReader(file)}
    data = Dataset.from_list(rows).add_column("ifd", [ifd.get(row) for row in range(2000)])
    return golden, data


@pytest.mark.shared
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_published_code(published, make_round, decay):
    golden, data = published
    cases = [case for case in golden if case["b"] == decay]
    assert {case["name"] for case in cases} == {"top150_by_ifd_lt1", "top150_row_order"}
    context = make_round(data, cases[0]["M"])
    selected = IterIT(quality="ifd", decay=decay, candidate_factor=3).select(context).tolist()
    for case in cases:
        assert selected == case["selected"]
        window = context.state["window"].tolist()
        expected = case["candidate_ids"]
        assert window == expected if case["name"] == "top150_by_ifd_lt1" else sorted(window) == expected
    assert select(data, IterIT(quality="ifd", decay=decay), ratio=0.025).indices.tolist() == selected


# -- the first round -------------------------------------------------------------------------------------------------
def test_the_papers_window_is_filtered_first_and_selected_from_alone(long_row, make_round):
    context = make_round(long_row, 2)
    selected = IterIT(quality="ifd", candidate_factor=2).select(context)
    assert context.state["window"].tolist() == [9, 2, 4, 8]
    assert set(selected.tolist()) <= {9, 2, 4, 8}
    assert context.record.exclusions == {"with ifd >= 1": 2}


def test_algorithm_1_cuts_the_window_before_it_filters(long_row, make_round):
    context = make_round(long_row, 2)
    selected = IterIT(quality="ifd", candidates="algorithm-1", candidate_factor=2).select(context)
    ifd = np.array(long_row["ifd"][:])
    highest = np.argsort(-ifd, kind="stable")[:4]
    assert context.state["window"].tolist() == highest.tolist() == [1, 5, 9, 2]
    assert sorted(selected.tolist()) == [2, 9]
    filtered = make_round(long_row, 2)
    IterIT(quality="ifd", candidate_factor=2).select(filtered)
    assert context.record.exclusions == filtered.record.exclusions == {"with ifd >= 1": 2}


def test_algorithm_1_reports_a_shortfall(long_row):
    selector = IterIT(quality="ifd", candidates="algorithm-1", candidate_factor=1)
    message = (
        r"^IterIT\(candidates='algorithm-1'\) can select 1 rows for a budget of 3: of the 3 rows with the highest "
        r"ifd, "
        r"which are candidate_factor=1 x the budget, 2 have a value of 1 or more\. Raise candidate_factor, or use "
        r"candidates='filtered', which drops such rows before it cuts\.$"
    )
    with pytest.raises(SelectionError, match=message):
        select(long_row, selector, size=3)
    assert len(select(long_row, replace(selector, candidates="filtered"), size=3).indices) == 3
    assert len(select(long_row, replace(selector, candidate_factor=2), size=3).indices) == 3


def test_algorithm_1_in_group(long_row):
    data = long_row.add_column("source", ["one"] * 6 + ["two"] * 6)
    selector = IterIT(quality="ifd", candidates="algorithm-1", candidate_factor=1)
    selected = select(data, per_source(selector, "source"), size=4).indices
    assert len(selected) == 4


def test_later_rounds_of_algorithm_1_go_on_with_fewer_rows(long_row, make_round, caplog):
    selector = IterIT(quality="ifd", candidates="algorithm-1", candidate_factor=2)
    first = make_round(long_row, 2)
    run_round(selector, first)
    assert first.state["window"].tolist() == [1, 5, 9, 2]
    harder = [1.5 if row in (1, 5, 9) else value for row, value in enumerate(long_row["ifd"][:])]
    second = make_round(replaced(long_row, ifd=harder), 2, index=1, state=first.state)
    assert run_round(selector, second, strict=False).tolist() == [2]
    assert "is more than the 1 of 12 rows that can be selected (3 with ifd >= 1)" in caplog.text
    easier = [0.5] * 12
    third = make_round(replaced(long_row, ifd=easier), 2, index=2, state=first.state)
    assert len(run_round(selector, third)) == 2
    assert third.state["window"].tolist() == [1, 5, 9, 2], "rows of 1 or more stay in the window and may come back"


def test_the_former_name_of_filtered_is_refused_with_the_three_names():
    message = r"candidates='paper'\): it has to be 'filtered'.*'algorithm-1'.*'code'"
    with pytest.raises(ConfigError, match=message):
        IterIT(candidates="paper")


def test_saved_selections_with_the_former_name_can_be_loaded_and_explained(rows, tmp_path):
    selection = select(rows, IterIT(quality="ifd"), size=2)
    selection.save(tmp_path)
    path = tmp_path / "selection.json"
    record = json.loads(path.read_text())
    record["format_version"] = 2
    record["selector"]["candidates"] = "paper"
    del record["sha256"]
    path.write_text(json.dumps(record))
    loaded = Selection.load(tmp_path)
    assert loaded.provenance["selector"]["candidates"] == "filtered"
    row = int(loaded.indices[0])
    assert explain(loaded, rows, row)["decided"] == explain(selection, rows, row)["decided"] != []


def test_the_codes_window_is_the_selection_then_one_or_more_then_the_rest(long_row, make_round):
    context = make_round(long_row, 2)
    selected = IterIT(quality="ifd", candidates="code").select(context).tolist()
    assert selected == [0, 9]
    assert context.state["window"].tolist() == [0, 9, 1, 5, 2, 4]


def test_the_codes_window_ends_where_the_pool_does(long_row, make_round):
    context = make_round(long_row, 10)
    selected = IterIT(quality="ifd", candidates="code").select(context).tolist()
    assert context.state["window"].tolist() == [*selected, 1, 5]


def test_code_selects_before_window(long_row, make_round):
    context = make_round(long_row, 2)
    assert IterIT(quality="ifd", candidates="code", candidate_factor=1).select(context).tolist() == [0, 9]
    assert context.state["window"].tolist() == [0, 9]


@pytest.mark.parametrize("weighting", ["smooth-l2", "paper"])
@pytest.mark.parametrize("diversity", ["response", "prompt", "both"])
def test_ngrams_of_part(rows, make_round, diversity, weighting):
    context = make_round(rows, 4)
    selected = IterIT(quality="ifd", candidate_factor=2, diversity=diversity, weighting=weighting).select(context)
    window = np.sort(context.state["window"])
    end = END if weighting == "smooth-l2" else ""
    texts = [text + end for text in context.texts(diversity, window)]
    expected = window[ngram_greedy(texts, np.array(rows["ifd"][:])[window], 4, 0.1, weighting)]
    assert selected.tolist() == expected.tolist()


def test_parts_differ(rows):
    picks = {
        diversity: select(rows, IterIT(quality="ifd", diversity=diversity), size=4).indices.tolist()
        for diversity in ("response", "prompt", "both", "none")
    }
    assert len({tuple(rows) for rows in picks.values()}) > 2
    assert picks["none"] == [9, 2, 4, 8]


def test_the_end_token_is_a_setting(rows, make_round):
    context = make_round(rows, 4)
    selected = IterIT(quality="ifd", candidate_factor=2, end_token=" the end").select(context)
    window = np.sort(context.state["window"])
    texts = [f"{text} the end" for text in context.texts("response", window)]
    assert selected.tolist() == window[ngram_greedy(texts, np.array(rows["ifd"][:])[window], 4)].tolist()


# -- later rounds ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("candidates", ["filtered", "algorithm-1", "code"])
def test_later_rounds_select_from_window(rows, make_round, candidates):
    selector = IterIT(quality="ifd", candidates=candidates, candidate_factor=2)
    first = make_round(rows, 3)
    selector.select(first)
    window = first.state["window"].copy()
    # every row outside is now better than any inside, two of which are now too hard
    ifd = [0.99 if row not in window else 0.3 for row in range(12)]
    for row in window[:2]:
        ifd[row] = 1.5
    second = make_round(replaced(rows, ifd=ifd), 3, index=1, state=first.state)
    selected = selector.select(second)
    assert set(selected.tolist()) <= set(window.tolist()) - set(window[:2].tolist())
    assert len(selected) == 3
    assert second.state["window"].tolist() == window.tolist()
    third = make_round(replaced(rows, ifd=[0.5] * 12), 3, index=2, state=second.state)
    assert len(set(selector.select(third).tolist()) & set(window.tolist())) == 3


def test_ties_go_to_the_lower_row_in_every_round(rows, make_round):
    same = replaced(rows, output=["the same words"] * 12)
    selector = IterIT(quality="ifd", candidate_factor=2)
    first = make_round(same, 2)
    assert selector.select(first).tolist() == [9, 2]
    assert first.state["window"].tolist() == [9, 2, 4, 8]
    second = make_round(replaced(same, ifd=[0.5] * 12), 2, index=1, state=first.state)
    assert selector.select(second).tolist() == [2, 4]


def test_later_rounds_score_the_window_with_the_model_of_the_round(pool_rows, tiny_model_dir, later_model):
    pool, eligible = Pool(pool_rows), np.ones(24, dtype=bool)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    first = RoundContext(RoundCache(pool, Engine(pool, str(tiny_model_dir)).compute), budget=3, eligible=eligible)
    IterIT(candidate_factor=2).select(first)
    second = RoundContext(
        RoundCache(pool, Engine(pool, later_model, tokenizer).compute),
        budget=3,
        index=1,
        eligible=eligible,
        state=first.state,
    )
    selected = IterIT(candidate_factor=2).select(second)
    assert len(first.record.scored["ifd"][0]) == 24
    scored, column = second.record.scored["ifd"]
    values = column.to_numpy()
    assert scored.tolist() == first.state["window"].tolist()
    assert len(scored) == 6
    alone = np.array(score(pool_rows, [IFD()], model=later_model, processing_class=tokenizer)["ifd"][:])
    before = np.array(score(pool_rows, [IFD()], model=str(tiny_model_dir))["ifd"][:])
    assert np.allclose(values, alone[scored], atol=1e-5)
    assert not np.allclose(values, before[scored], atol=1e-3)
    assert set(selected.tolist()) <= set(scored[values < 1].tolist())


@pytest.mark.parametrize("length", [24, 40, None])
def test_convention_iterit_is_cut_where_training_cuts(pool_rows, tiny_model_dir, later_model, length):
    tokenizer, score_of_round = AutoTokenizer.from_pretrained(tiny_model_dir), IterIT(convention="iterit").score()
    pool, live = Pool(pool_rows), {"model": later_model, "processing_class": tokenizer}
    engine = Engine(pool, later_model, tokenizer, settings=TokenSettings(max_length=length))
    found = engine.compute(score_of_round)["ifd"].to_pylist()
    offline = score(pool_rows, IFD(convention="iterit", max_length=length), **live)["ifd"][:]
    assert found == pytest.approx(offline, abs=1e-6)
    spec = engine.describe(score_of_round)
    assert spec["max_length"] == spec["tokens"]["max_length"] == length
    published = score(pool_rows, IFD(convention="iterit"), **live)["ifd"][:]
    assert (found == pytest.approx(published, abs=1e-6)) == (length is None)


@pytest.mark.parametrize("convention", ["iterit", "cherry", "superfiltering"])
def test_another_models_published_convention_keeps_its_length_in_training(
    pool_rows, tiny_model_dir, later_model, convention
):
    tokenizer, other = AutoTokenizer.from_pretrained(tiny_model_dir), str(tiny_model_dir)
    engine = Engine(Pool(pool_rows), later_model, tokenizer, settings=TokenSettings(max_length=24))
    found = engine.compute(IFD(other, convention=convention))["ifd"].to_pylist()
    assert found == pytest.approx(score(pool_rows, IFD(other, convention=convention))["ifd"][:], abs=1e-6)
    length = 512 if convention == "cherry" else 1024
    spec = engine.describe(IFD(other, convention=convention))
    assert spec["max_length"] == spec["tokens"]["max_length"] == length


def test_reselects_every_epoch():
    plan = IterIT().plan(260, 2.5, 5200)
    assert plan == (RoundPlan(260, 1.0), RoundPlan(260, 1.0), RoundPlan(260, 0.5))


# -- the paper's ablations, by settings alone ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def repeated(rows):
    """Four responses, three times each, prompts of their own, and a rising IFD: the last row is the hardest."""
    outputs = [
        "alpha beta gamma delta",
        "seven quick foxes jump",
        "copper wires carry current",
        "plain white rice bowl",
    ]
    own = {"instruction": [f"what{row} is{row} this{row}" for row in range(12)], "input": [""] * 12}
    ifd = [0.5 + row / 100 for row in range(12)]
    return replaced(rows, output=[outputs[row % 4] for row in range(12)], ifd=ifd, **own)


def test_without_iteration_the_first_selection_stays_for_all_epochs(rows, make_round):
    from hf_datasel.training import SelectiveSFTConfig
    from hf_datasel.training.schedule import planned_rounds

    selector, plans = IterIT(quality="ifd", candidate_factor=2), {}
    for how in ("epoch", "no"):
        config = SelectiveSFTConfig("out", reselection_strategy=how, use_cpu=True, bf16=False)
        plans[how] = planned_rounds(selector, config, 3, 3.0, 12)
    assert plans["no"] == (RoundPlan(3, 3.0),)
    assert plans["epoch"] == (RoundPlan(3, 1.0),) * 3
    selected = {}
    for how, plan in plans.items():
        context = make_round(rows, 3)
        context.plan = plan
        selected[how] = selector.select(context).tolist()
    assert selected["no"] == selected["epoch"], "the first round is the same"


def test_duplicates_without_diversity(repeated):
    by_ifd = select(repeated, IterIT(quality="ifd", diversity="none"), size=6).indices.tolist()
    assert by_ifd == [11, 10, 9, 8, 7, 6]
    diverse = select(repeated, IterIT(quality="ifd", candidate_factor=12), size=4).indices
    assert sorted(row % 4 for row in diverse) == [0, 1, 2, 3]


@pytest.mark.parametrize(("part", "repeats"), [("response", False), ("prompt", True), ("both", False)])
def test_diversity_of_part(repeated, part, repeats):
    """No word is in two prompts, and responses repeat: only by the prompt alone is a response taken twice."""
    rows = replaced(repeated, ifd=[0.9 if row % 4 == 1 else 0.5 for row in range(12)])
    selected = select(rows, IterIT(quality="ifd", candidate_factor=12, diversity=part), size=3).indices
    assert ([row % 4 for row in selected] == [1, 1, 1]) == repeats


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4])
def test_m_is_the_rows_of_a_round_and_scales_the_window(rows, make_round, ratio):
    selector = IterIT(quality="ifd", candidate_factor=2)
    found = select(rows, selector, ratio=ratio)
    assert len(found.indices) == int(ratio * 12)
    context = make_round(rows, int(ratio * 12))
    assert selector.select(context).tolist() == found.indices.tolist()
    assert len(context.state["window"]) == 2 * int(ratio * 12)


def test_candidate_factor_trades_difficulty_for_diversity(repeated):
    selected = {a: select(repeated, IterIT(quality="ifd", candidate_factor=a), size=3).indices for a in (1, 2, 4)}
    ifd = np.array(repeated["ifd"][:])
    assert sorted(selected[1].tolist()) == [9, 10, 11], "the highest IFDs, whatever they say"
    lowest = [ifd[selected[a]].min() for a in (1, 2, 4)]
    assert lowest == sorted(lowest, reverse=True)
    for a in (1, 2, 4):
        assert set(selected[a].tolist()) <= set(np.argsort(-ifd)[: 3 * a].tolist())


@pytest.mark.parametrize("weighting", ["smooth-l2", "paper"])
def test_decay_of_covered_ngrams(repeated, weighting):
    rows = replaced(repeated, ifd=[0.9 if row % 4 == 1 else 0.5 for row in range(12)])
    ways = {
        b: select(rows, IterIT(quality="ifd", candidate_factor=12, decay=b, weighting=weighting), size=8).indices
        for b in (0.0, 0.1, 0.5, 1.0)
    }
    kinds = {b: [int(row) % 4 for row in rows] for b, rows in ways.items()}
    assert sorted(kinds[0.0][:4]) == [0, 1, 2, 3], "what has been said counts for nothing"
    assert sorted(kinds[0.1][:4]) == [0, 1, 2, 3], "or for a tenth, and 0.9 is not ten times 0.5"
    assert kinds[1.0][:3] == [1, 1, 1], "nothing is taken off: the three hardest, which say the same"
    said_again = {b: kinds[b].index(1, kinds[b].index(1) + 1) for b in kinds}
    assert said_again[1.0] < said_again[0.5] <= said_again[0.1], "the less is taken off, the sooner it is said again"


# -- where published code crashes or corrupts ------------------------------------------------------------------------
SETTINGS = pytest.mark.parametrize(
    "selector",
    [
        IterIT(quality="ifd", candidates=how, diversity=part)
        for how in ("filtered", "algorithm-1", "code")
        for part in ("response", "none")
    ],
    ids=lambda selector: f"{selector.candidates}-{selector.diversity}",
)


@SETTINGS
def test_exactly_one_valid_row(rows, selector):
    data = replaced(rows, ifd=[1.5] * 7 + [0.2] + [1.0] * 4)
    if selector.candidates == "algorithm-1":
        selector = replace(selector, candidate_factor=12)
    assert select(data, selector, size=1).indices.tolist() == [7]


@SETTINGS
def test_no_valid_row(rows, selector):
    with pytest.raises(
        SelectionError, match=r"^None of the 12 rows can be selected \(9 with ifd >= 1, 3 without ifd\)\.$"
    ):
        select(replaced(rows, ifd=[1.5] * 9 + [None] * 3), selector, size=1)


@SETTINGS
def test_budget_above_valid_rows(rows, selector):
    data = replaced(rows, ifd=[None, *rows["ifd"][1:]], output=[*rows["output"][:11], ""])
    with pytest.raises(
        SelectionError,
        match=r"size=9 is more than the 8 of 12 rows that can be selected "
        r"\(2 with ifd >= 1, 1 empty_response, 1 without ifd\)\. Lower it\.",
    ):
        select(data, selector, size=9)
    assert len(select(data, selector, size=8).indices) == 8


@pytest.mark.parametrize("end_token", ["", None])
@pytest.mark.parametrize("weighting", ["smooth-l2", "paper"])
def test_a_response_without_an_ngram_comes_last(rows, end_token, weighting):
    data = replaced(
        rows, output=["?", *[f"answer number {row} of many" for row in range(1, 12)]], ifd=[0.99] + [0.5] * 11
    )
    selector = IterIT(quality="ifd", end_token=end_token, weighting=weighting)
    selected = select(data, selector, size=12).indices.tolist()
    assert selected[-1] == 0
    assert sorted(selected) == list(range(12))


@pytest.mark.parametrize("candidates", ["filtered", "algorithm-1", "code"])
def test_no_response_has_an_ngram(rows, candidates):
    data = replaced(rows, output=["!"] * 12)
    selector = IterIT(quality="ifd", end_token="", candidates=candidates)
    assert len(set(select(data, selector, size=10).indices.tolist())) == 10


@SETTINGS
def test_all_scores_equal(rows, selector):
    same = replaced(rows, ifd=[0.5] * 12, output=["the same words"] * 12)
    assert select(same, selector, size=5).indices.tolist() == [0, 1, 2, 3, 4]


def test_a_negative_quality_is_refused(rows):
    with pytest.raises(
        SelectionError, match=r"IterIT needs a quality of 0 or more, and column 'ifd' is negative in .*add_col"
    ):
        select(replaced(rows, ifd=[-0.5] * 12), IterIT(quality="ifd"), size=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_factor": 0}, r"IterIT\(candidate_factor=0\)"),
        ({"candidate_factor": 1.5}, r"IterIT\(candidate_factor=1.5\)"),
        ({"decay": 2}, r"IterIT\(decay=2\)"),
        ({"decay": "0.1"}, r"IterIT\(decay='0.1'\)"),
        ({"diversity": "answer"}, r"IterIT\(diversity='answer'\): it has to be 'response', 'prompt'"),
        ({"weighting": "tfidf"}, r"IterIT\(weighting='tfidf'\)"),
        ({"candidates": "authors"}, r"IterIT\(candidates='authors'\)"),
        ({"convention": "itterit"}, "Did you mean 'iterit'"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        IterIT(**settings)


@pytest.mark.parametrize("candidates", ["filtered", "algorithm-1", "code"])
def test_a_window_as_large_as_the_pool_keeps_scores_with_their_rows(pool_rows, candidates):
    quality = np.linspace(0.9, 0.1, len(pool_rows))[np.random.default_rng(0).permutation(len(pool_rows))]

    def compute(score, indices):
        rows = np.arange(len(quality)) if indices is None else indices
        return {"ifd": pa.array(quality[rows], pa.float32())}

    state = {}
    pool = Pool(pool_rows)
    for index in range(3):
        context = RoundContext(
            RoundCache(pool, compute), budget=8, index=index, eligible=np.ones(len(pool_rows), dtype=bool), state=state
        )
        selected = IterIT(diversity="none", candidates=candidates).select(context)
        assert set(selected.tolist()) == set(np.argsort(-quality)[:8].tolist())
