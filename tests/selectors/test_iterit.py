import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.scores import IFD
from hf_datasel.scoring.engine import Engine
from hf_datasel.selectors import IterIT
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.testing import contract

END = "<|end_of_text|>"


@contract(
    IterIT(quality="ifd"),
    IterIT(quality="ifd", candidates="code", decay=0.0),
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


# -- the published choice --------------------------------------------------------------------------------------------
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
def test_chooses_what_the_published_code_chooses(published, make_round, decay):
    golden, data = published
    cases = [case for case in golden if case["b"] == decay]
    assert {case["name"] for case in cases} == {"top150_by_ifd_lt1", "top150_row_order"}
    round = make_round(data, cases[0]["M"])
    chosen = IterIT(quality="ifd", decay=decay, candidate_factor=3).choose(round).tolist()
    for case in cases:
        assert chosen == case["selected"]
        window = round.state["window"].tolist()
        expected = case["candidate_ids"]
        assert window == expected if case["name"] == "top150_by_ifd_lt1" else sorted(window) == expected
    assert select(data, IterIT(quality="ifd", decay=decay), ratio=0.025).indices.tolist() == chosen


# -- the first round -------------------------------------------------------------------------------------------------
def test_the_papers_window_is_filtered_first_and_chosen_from_alone(long_row, make_round):
    round = make_round(long_row, 2)
    chosen = IterIT(quality="ifd", candidate_factor=2).choose(round)
    assert round.state["window"].tolist() == [9, 2, 4, 8]
    assert set(chosen.tolist()) <= {9, 2, 4, 8}
    assert round.left_out == {"with ifd >= 1": 2}


def test_the_codes_window_is_the_choice_then_one_or_more_then_the_rest(long_row, make_round):
    round = make_round(long_row, 2)
    chosen = IterIT(quality="ifd", candidates="code").choose(round).tolist()
    assert chosen == [0, 9]
    assert round.state["window"].tolist() == [0, 9, 1, 5, 2, 4]


def test_the_codes_window_ends_where_the_pool_does(long_row, make_round):
    round = make_round(long_row, 10)
    chosen = IterIT(quality="ifd", candidates="code").choose(round).tolist()
    assert round.state["window"].tolist() == [*chosen, 1, 5]


def test_the_code_chooses_before_it_cuts(long_row, make_round):
    round = make_round(long_row, 2)
    assert IterIT(quality="ifd", candidates="code", candidate_factor=1).choose(round).tolist() == [0, 9]
    assert round.state["window"].tolist() == [0, 9]


@pytest.mark.parametrize("weighting", ["smooth-l2", "paper"])
@pytest.mark.parametrize("diversity", ["response", "prompt", "both"])
def test_counts_the_ngrams_of_the_part_asked_for(rows, make_round, diversity, weighting):
    round = make_round(rows, 4)
    chosen = IterIT(quality="ifd", candidate_factor=2, diversity=diversity, weighting=weighting).choose(round)
    window = np.sort(round.state["window"])
    end = END if weighting == "smooth-l2" else ""
    texts = [text + end for text in round.texts(diversity, window)]
    expected = window[ngram_greedy(texts, np.array(rows["ifd"][:])[window], 4, 0.1, weighting)]
    assert chosen.tolist() == expected.tolist()


def test_parts_differ(rows):
    picks = {
        diversity: select(rows, IterIT(quality="ifd", diversity=diversity), size=4).indices.tolist()
        for diversity in ("response", "prompt", "both", "none")
    }
    assert len({tuple(rows) for rows in picks.values()}) > 2
    assert picks["none"] == [9, 2, 4, 8]


def test_the_end_token_is_a_setting(rows, make_round):
    round = make_round(rows, 4)
    chosen = IterIT(quality="ifd", candidate_factor=2, end_token=" the end").choose(round)
    window = np.sort(round.state["window"])
    texts = [f"{text} the end" for text in round.texts("response", window)]
    assert chosen.tolist() == window[ngram_greedy(texts, np.array(rows["ifd"][:])[window], 4)].tolist()


# -- later rounds ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("candidates", ["paper", "code"])
def test_later_rounds_choose_from_the_window_alone(rows, make_round, candidates):
    selector = IterIT(quality="ifd", candidates=candidates, candidate_factor=2)
    first = make_round(rows, 3)
    selector.choose(first)
    window = first.state["window"].copy()
    # every row outside is now better than any inside, two of which are now too hard
    ifd = [0.99 if row not in window else 0.3 for row in range(12)]
    for row in window[:2]:
        ifd[row] = 1.5
    second = make_round(replaced(rows, ifd=ifd), 3, index=1, state=first.state)
    chosen = selector.choose(second)
    assert set(chosen.tolist()) <= set(window.tolist()) - set(window[:2].tolist())
    assert len(chosen) == 3
    assert second.state["window"].tolist() == window.tolist()
    third = make_round(replaced(rows, ifd=[0.5] * 12), 3, index=2, state=second.state)
    assert len(set(selector.choose(third).tolist()) & set(window.tolist())) == 3


def test_ties_go_to_the_lower_row_in_every_round(rows, make_round):
    same = replaced(rows, output=["the same words"] * 12)
    selector = IterIT(quality="ifd", candidate_factor=2)
    first = make_round(same, 2)
    assert selector.choose(first).tolist() == [9, 2]
    assert first.state["window"].tolist() == [9, 2, 4, 8]
    second = make_round(replaced(same, ifd=[0.5] * 12), 2, index=1, state=first.state)
    assert selector.choose(second).tolist() == [2, 4]


def test_later_rounds_score_the_window_with_the_model_of_the_round(pool_rows, tiny_model_dir, later_model):
    pool, eligible = Pool(pool_rows), np.ones(24, dtype=bool)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    first = Round(0, pool, eligible, 3, Engine(pool, str(tiny_model_dir)).compute)
    IterIT(candidate_factor=2).choose(first)
    second = Round(1, pool, eligible, 3, Engine(pool, later_model, tokenizer).compute, state=first.state)
    chosen = IterIT(candidate_factor=2).choose(second)
    assert len(first.scored["ifd"][0]) == 24
    scored, column = second.scored["ifd"]
    values = column.to_numpy()
    assert scored.tolist() == first.state["window"].tolist()
    assert len(scored) == 6
    alone = np.array(score(pool_rows, [IFD()], model=later_model, tokenizer=tokenizer)["ifd"][:])
    before = np.array(score(pool_rows, [IFD()], model=str(tiny_model_dir))["ifd"][:])
    assert np.allclose(values, alone[scored], atol=1e-5)
    assert not np.allclose(values, before[scored], atol=1e-3)
    assert set(chosen.tolist()) <= set(scored[values < 1].tolist())


def test_chooses_again_every_epoch():
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


def test_without_iteration_the_first_choice_stays_for_all_epochs(rows, make_round):
    from hf_datasel.training import SelectiveSFTConfig
    from hf_datasel.training.planning import planned_rounds

    selector, plans = IterIT(quality="ifd", candidate_factor=2), {}
    for how in ("epoch", "no"):
        config = SelectiveSFTConfig("out", reselection_strategy=how, use_cpu=True, bf16=False)
        plans[how] = planned_rounds(selector, config, 3, 3.0, 12)
    assert plans["no"] == (RoundPlan(3, 3.0),)
    assert plans["epoch"] == (RoundPlan(3, 1.0),) * 3
    chosen = {}
    for how, plan in plans.items():
        round = make_round(rows, 3)
        round.plan = plan
        chosen[how] = selector.choose(round).tolist()
    assert chosen["no"] == chosen["epoch"], "the first round is the same"


def test_without_diversity_rows_that_say_the_same_are_taken_again(repeated):
    by_ifd = select(repeated, IterIT(quality="ifd", diversity="none"), size=6).indices.tolist()
    assert by_ifd == [11, 10, 9, 8, 7, 6]
    diverse = select(repeated, IterIT(quality="ifd", candidate_factor=12), size=4).indices
    assert sorted(row % 4 for row in diverse) == [0, 1, 2, 3]


@pytest.mark.parametrize(("part", "repeats"), [("response", False), ("prompt", True), ("both", False)])
def test_diversity_counts_what_the_part_says(repeated, part, repeats):
    """No word is in two prompts, and responses repeat: only by the prompt alone is a response taken twice."""
    rows = replaced(repeated, ifd=[0.9 if row % 4 == 1 else 0.5 for row in range(12)])
    chosen = select(rows, IterIT(quality="ifd", candidate_factor=12, diversity=part), size=3).indices
    assert ([row % 4 for row in chosen] == [1, 1, 1]) == repeats


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4])
def test_m_is_the_rows_of_a_round_and_scales_the_window(rows, make_round, ratio):
    selector = IterIT(quality="ifd", candidate_factor=2)
    found = select(rows, selector, ratio=ratio)
    assert len(found.indices) == int(ratio * 12)
    round = make_round(rows, int(ratio * 12))
    assert selector.choose(round).tolist() == found.indices.tolist()
    assert len(round.state["window"]) == 2 * int(ratio * 12)


def test_a_trades_difficulty_for_what_is_new(repeated):
    chosen = {a: select(repeated, IterIT(quality="ifd", candidate_factor=a), size=3).indices for a in (1, 2, 4)}
    ifd = np.array(repeated["ifd"][:])
    assert sorted(chosen[1].tolist()) == [9, 10, 11], "the highest IFDs, whatever they say"
    lowest = [ifd[chosen[a]].min() for a in (1, 2, 4)]
    assert lowest == sorted(lowest, reverse=True)
    for a in (1, 2, 4):
        assert set(chosen[a].tolist()) <= set(np.argsort(-ifd)[: 3 * a].tolist())


@pytest.mark.parametrize("weighting", ["smooth-l2", "paper"])
def test_b_says_how_much_a_covered_ngram_still_counts(repeated, weighting):
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
        for how in ("paper", "code")
        for part in ("response", "none")
    ],
    ids=lambda selector: f"{selector.candidates}-{selector.diversity}",
)


@SETTINGS
def test_exactly_one_valid_row(rows, selector):
    assert select(replaced(rows, ifd=[1.5] * 7 + [0.2] + [1.0] * 4), selector, size=1).indices.tolist() == [7]


@SETTINGS
def test_no_valid_row(rows, selector):
    with pytest.raises(
        SelectionError, match=r"^None of the 12 rows can be selected \(9 with ifd >= 1, 3 without ifd\)\.$"
    ):
        select(replaced(rows, ifd=[1.5] * 9 + [None] * 3), selector, size=1)


@SETTINGS
def test_a_budget_above_the_valid_rows_says_why(rows, selector):
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
    chosen = select(data, selector, size=12).indices.tolist()
    assert chosen[-1] == 0
    assert sorted(chosen) == list(range(12))


@pytest.mark.parametrize("candidates", ["paper", "code"])
def test_no_response_has_an_ngram(rows, candidates):
    data = replaced(rows, output=["!"] * 12)
    selector = IterIT(quality="ifd", end_token="", candidates=candidates)
    assert len(set(select(data, selector, size=10).indices.tolist())) == 10


@SETTINGS
def test_all_scores_equal(rows, selector):
    same = replaced(rows, ifd=[0.5] * 12, output=["the same words"] * 12)
    assert select(same, selector, size=5).indices.tolist() == [0, 1, 2, 3, 4]


def test_a_negative_quality_is_refused(rows):
    with pytest.raises(SelectionError, match="quality must be finite and >= 0"):
        select(replaced(rows, ifd=[-0.5] * 12), IterIT(quality="ifd"), size=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_factor": 0}, r"IterIT\(candidate_factor=0\)"),
        ({"candidate_factor": 1.5}, r"IterIT\(candidate_factor=1.5\)"),
        ({"decay": 2}, r"IterIT\(decay=2\)"),
        ({"decay": "0.1"}, r"IterIT\(decay='0.1'\)"),
        ({"diversity": "answer"}, r"IterIT\(diversity='answer'\): it has to be one of \['response'"),
        ({"weighting": "tfidf"}, r"IterIT\(weighting='tfidf'\)"),
        ({"candidates": "authors"}, r"IterIT\(candidates='authors'\)"),
        ({"convention": "itterit"}, "Did you mean 'iterit'"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        IterIT(**settings)


@pytest.mark.parametrize("candidates", ["paper", "code"])
def test_a_window_as_large_as_the_pool_keeps_scores_with_their_rows(pool_rows, candidates):
    quality = np.linspace(0.9, 0.1, len(pool_rows))[np.random.default_rng(0).permutation(len(pool_rows))]

    def compute(score, indices):
        rows = np.arange(len(quality)) if indices is None else indices
        return {"ifd": pa.array(quality[rows], pa.float32())}

    state = {}
    pool = Pool(pool_rows)
    for index in range(3):
        round = Round(index, pool, np.ones(len(pool_rows), dtype=bool), 8, compute, state=state)
        chosen = IterIT(diversity="none", candidates=candidates).choose(round)
        assert set(chosen.tolist()) == set(np.argsort(-quality)[:8].tolist())
