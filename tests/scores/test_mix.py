"""Mixes of scores: their numbers, the rows that ranks are among, and where a mix can be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import rankdata, zscore

from hf_datasel import Selection, load_pool, score, select, select_streaming
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError, ConfigError, ScoreError, SelectionError
from hf_datasel.scores import Compressibility, Length, Loss, Mix, get_score
from hf_datasel.scoring import ScoreTables, Shard, ShardedScores
from hf_datasel.selection import explain
from hf_datasel.selection.display import method_name
from hf_datasel.selectors import (
    QDIT,
    Chain,
    Deita,
    InRange,
    IterIT,
    Top,
    TopShare,
    get_selector,
    per_source,
)
from hf_datasel.spec import to_spec
from hf_datasel.strategies.mixing import mix, simplex
from hf_datasel.testing import contract

NAN = float("nan")
A = np.array([3.0, 1.0, 3.0, NAN, 5.0, 2.0, 9.0, 4.0])
B = np.array([10.0, 40.0, 20.0, 99.0, 20.0, 30.0, NAN, 5.0])
BOTH = ~(np.isnan(A) | np.isnan(B))


def ranks(values, rows=BOTH):
    """What scipy gives for these rows, on the scale of a mix; the others are missing."""
    result = np.full(len(values), NAN)
    result[rows] = (rankdata(values[rows], method="average") - 0.5) / rows.sum()
    return result


@pytest.fixture(scope="module")
def rows():
    prompts, responses = [f"Say {number}." for number in range(8)], [f"word {number}" for number in range(8)]
    columns = {"a": [None if np.isnan(value) else value for value in A], "b": list(B), "source": list("xyxyxyxy")}
    return Dataset.from_dict({"prompt": prompts, "completion": responses, **columns})


def mixed(rows, subject):
    scored = score(rows, subject, on_summary=str)
    return np.array(scored["mix"][:], dtype=float), scored["mix_reason"][:]


@contract(
    Mix({"a": 0.5, "b": 0.5}),
    Mix(("a", "b"), scale="values", column_prefix="old_"),
    Mix(("a", "b"), (1, 2), combine="product"),
    Mix({"a": 1, "b": -0.5}, scale="zscores"),
)
def test_contract(check, score, rows):
    check(score, rows)


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.7 * ranks(A) - 0.3 * ranks(B)),
        ({"combine": "product"}, ranks(A) ** 0.7 * ranks(B) ** -0.3),
        ({"scale": "values"}, 0.7 * A - 0.3 * B),
        ({"scale": "values", "combine": "product"}, A**0.7 * B**-0.3),
        (
            {"scale": "zscores"},
            0.7 * zscore(np.where(BOTH, A, NAN), nan_policy="omit")
            - 0.3 * zscore(np.where(BOTH, B, NAN), nan_policy="omit"),
        ),
    ],
)
def test_equals_scipy_and_columns_mixed_by_hand(rows, settings, expected):
    values, reasons = mixed(rows, Mix({"a": 0.7, "b": -0.3}, **settings))
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert reasons == ["", "", "", "without_a", "", "", "without_b", ""]
    np.testing.assert_allclose(mix([A, B], [0.7, -0.3], **settings), expected, rtol=1e-12)
    order = np.argsort(-np.where(np.isnan(expected), -np.inf, expected), kind="stable")[:4]
    assert select(rows, Top(by=Mix({"a": 0.7, "b": -0.3}, **settings)), size=4).indices.tolist() == order.tolist()


def test_random_columns_against_pairwise_comparisons():
    """A rank counts the values below, and half of those that are equal."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        columns = [draw.integers(0, 6, 30).astype(float) for _ in range(3)]
        columns[1][draw.random(30) < 0.3] = NAN
        columns[2][:2] = np.inf, -np.inf
        full = ~np.isnan(columns[1])
        expected = np.full(30, NAN)
        for row in np.flatnonzero(full):
            others = [[column[other] for other in np.flatnonzero(full)] for column in columns]
            expected[row] = sum(
                weight * sum((value < column[row]) + (value == column[row]) / 2 for value in values) / full.sum()
                for weight, column, values in zip((0.5, 2, -1), columns, others, strict=True)
            )
        np.testing.assert_allclose(mix(columns, (0.5, 2, -1)), expected, rtol=1e-9, atol=1e-12)


def test_equal_weights_and_constant_columns(rows):
    assert Mix(("a", "b")) == Mix({"a": 0.5, "b": 0.5}) == Mix(("a", "b"), [0.5, 0.5])
    assert Mix(("a", "b"), combine="product").weights == (1, 1)
    constant = rows.remove_columns("b").add_column("b", [2.0] * 8)
    np.testing.assert_allclose(
        mixed(constant, Mix({"a": 1, "b": 1}, scale="zscores"))[0], zscore(A, nan_policy="omit"), rtol=1e-12
    )


def test_simplex_has_each_vector_once():
    for parts, steps in ((1, 3), (2, 5), (3, 4), (4, 3)):
        vectors = simplex(parts, steps)
        grid = np.array(np.meshgrid(*[np.arange(steps + 1)] * parts)).reshape(parts, -1).T
        assert sorted(vectors) == sorted(map(tuple, grid[grid.sum(axis=1) == steps] / steps))


# -- rows that ranks are among ----------------------------------------------------------------------------------------
def test_ranks_are_among_rows_that_can_be_selected(rows):
    unusable = rows.map(lambda row: {"completion": "" if row["a"] == 5 else row["completion"]})
    eligible = BOTH & (A != 5)
    expected = 0.5 * ranks(A, eligible) + 0.5 * ranks(B, eligible)
    values, reasons = mixed(unusable, Mix(("a", "b")))
    np.testing.assert_allclose(values, expected)
    assert reasons[4] == "not_eligible"
    selection = select(unusable, Top(by=Mix(("a", "b"))), size=3)
    np.testing.assert_allclose(selection.scores("mix"), expected)
    assert selection.provenance["exclusions"] == {"without a": 1, "without b": 1}


def test_ranks_after_filters_and_in_groups(rows):
    kept = BOTH & (A < 5)
    expected = 0.5 * ranks(A, kept) + 0.5 * ranks(B, kept)
    selection = select(rows, Chain([InRange("a", high=5)], Top(by=Mix(("a", "b")))), size=3)
    assert selection.indices.tolist() == np.argsort(-np.nan_to_num(expected, nan=-1), kind="stable")[:3].tolist()
    np.testing.assert_allclose(selection.scores("mix"), expected)
    everything = 0.5 * ranks(A) + 0.5 * ranks(B)
    np.testing.assert_allclose(
        select(rows, per_source(Top(by=Mix(("a", "b"))), "source"), size=4).scores("mix"), everything
    )
    share = select(rows, Chain([TopShare(Mix(("a", "b")), 0.5)], Top(by="b")), size=2)
    best = np.argsort(-np.nan_to_num(everything, nan=-1), kind="stable")[:4]
    assert set(share.indices.tolist()) <= set(best.tolist())


# -- where it can be used ---------------------------------------------------------------------------------------------
def test_scores_are_computed_with_it(pool_rows):
    parts = Length(), Compressibility()
    scored = score(pool_rows, Mix(parts, (0.25, 0.75)))
    words, ratio = (np.array(scored[name][:], dtype=float) for name in ("response_words", "compressibility"))
    everything = np.ones(24, dtype=bool)
    expected = 0.25 * ranks(words, everything) + 0.75 * ranks(ratio, everything)
    np.testing.assert_allclose(scored["mix"][:], expected)
    selection = select(pool_rows, Top(by=Mix(parts, (0.25, 0.75))), size=5)
    assert selection.indices.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()
    assert sorted(spec["score"] for spec in selection.provenance["scores"]) == ["compressibility", "length", "mix"]
    again = select(scored, Top(by="mix"), size=5)
    assert again.indices.tolist() == selection.indices.tolist()
    assert again.provenance["columns_unverified"] == []


def test_scores_of_the_model_of_the_call(pool_rows, tiny_model_dir):
    few = pool_rows.select(range(6))
    selection = select(few, Top(by=Mix((Loss(), Length()))), size=2, model=str(tiny_model_dir))
    loss, words = selection.scores("loss"), selection.scores("response_words")
    expected = mix([loss, words], (0.5, 0.5))
    assert selection.indices.tolist() == np.argsort(-expected, kind="stable")[:2].tolist()
    with pytest.raises(ScoreError, match="Loss has no model to run"):
        select(few, Top(by=Mix((Loss(), Length()))), size=2)


def test_qualities_of_selectors(rows):
    numbered = rows.add_column("embedding", np.eye(8).tolist())
    scored = score(numbered, Mix(("a", "b")), on_summary=str)
    for selector in (QDIT, Deita):
        name = "quality" if selector is QDIT else "by"
        own, column = (select(scored, selector(**{name: by}), size=4) for by in (Mix(("a", "b")), "mix"))
        assert own.indices.tolist() == column.indices.tolist()
    assert len(select(scored, IterIT(quality="mix"), size=4).indices) == 4  # a mix of ranks is below 1


def test_rows_that_are_not_all_there(rows, tmp_path):
    with pytest.raises(
        ScoreError, match=r"not in batches of map.*its ranks are among all rows\. Use hf_datasel\.score"
    ):
        rows.map(Mix(("a", "b")), batched=True)
    with pytest.raises(ScoreError, match="its z-scores are among all rows"):
        rows.map(Mix(("a", "b"), scale="zscores"), batched=True)
    with pytest.raises(ScoreError, match="not in shards: its ranks are among all rows"):
        ShardedScores(rows, Mix(("a", "b")), tmp_path).score(Shard(0, 2))
    with pytest.raises(ScoreError, match="its ranks are among all rows"):
        select_streaming(rows.to_iterable_dataset(), Top(by=Mix(("a", "b"))), 2)
    values = Mix({"a": 1, "b": 0.1}, scale="values")
    in_batches = rows.map(values, batched=True, batch_size=3, features=values.features(rows))
    np.testing.assert_allclose(np.array(in_batches["mix"][:], dtype=float), A + 0.1 * B)


def test_score_tables(pool_rows, tmp_path):
    parts = Length(), Compressibility()
    shards = ShardedScores(pool_rows, parts, tmp_path)
    for index in range(2):
        shards.score(Shard(index, 2))
    tables = ScoreTables(shards.path(Shard(0, 2)).parent)
    expected = select(pool_rows, Top(by=Mix(parts)), size=5)
    for by in (Mix(parts), Mix(("response_words", "compressibility"))):
        assert select(tables, Top(by=by), size=5).indices.tolist() == expected.indices.tolist()
    with pytest.raises(ScoreError, match="loss with these settings is not in the score tables"):
        select(tables, Top(by=Mix((Loss(), "compressibility"))), size=5)


def test_errors(rows):
    for by, weights, message in (
        ("ifd", None, r"it has to be a list of names"),
        ([], None, r"it has to be a list of names"),
        (("a", "a"), None, "two of a, a have one name"),
        (("a", "b"), (1,), "2 scores need 2 weights"),
        (("a", "b"), (0, 0), "which are not all 0"),
        ({"a": "1"}, None, "has to be a list of numbers"),
        ({"a": 1}, (1,), "by has the weights already"),
        (("a", "b"), {"steps": 4}, "methods of hf-datasel bench"),
    ):
        with pytest.raises(ConfigError, match=message):
            Mix(by, weights)
    with pytest.raises(ConfigError, match=r"Mix\(scale='rank'\).*Did you mean 'ranks'\?"):
        Mix(("a",), scale="rank")
    with pytest.raises(ConfigError, match="z-scores are negative for half of the rows"):
        Mix(("a",), scale="zscores", combine="product")
    with pytest.raises(ColumnError, match=r"Mix needs column 'aa', but the dataset has .* Did you mean 'a'\?"):
        score(rows, Mix(("aa", "b")))
    with pytest.raises(ColumnError, match="Top needs column 'aa'"):
        select(rows, Top(by=Mix(("aa", "b"))), size=2)
    with pytest.raises(ColumnError, match=r"'source' holds string, and Mix needs numbers"):
        score(rows, Mix(("source", "b")))
    negative = rows.add_column("c", [-1.0] * 2 + [1.0] * 6)
    with pytest.raises(ScoreError, match="cannot multiply c: 2 rows have a value below 0"):
        score(negative, Mix(("a", "c"), scale="values", combine="product"))
    with pytest.raises(SelectionError, match="2 weights for columns of shape"):
        mix([A, A[1:]], (1, 1))


# -- records, explanations and the command line -----------------------------------------------------------------------
@pytest.mark.parametrize("subject", [Mix({"a": 0.7, "b": -0.3}), Mix((Length(), "a"), scale="zscores")], ids=repr)
def test_specs(subject):
    spec = json.loads(json.dumps(to_spec(subject)))
    assert get_score(spec.pop("score"), spec) == subject
    spec = json.loads(json.dumps(to_spec(Top(by=subject))))
    assert get_selector(spec.pop("selector"), spec) == Top(by=subject)
    assert json.loads(json.dumps(subject.spec()))["weights"] == list(subject.weights)


def test_explanation(rows, tmp_path):
    selection = select(rows, Top(by=Mix({"a": 0.7, "b": 0.3})), size=3)
    selection.save(tmp_path / "selection")
    value = 0.7 * ranks(A)[4] + 0.3 * ranks(B)[4]
    explained = explain(Selection.load(tmp_path / "selection"), rows, 4)
    assert explained["decided"][0] == (
        f"Its mix is 0.7 x {ranks(A)[4]:.4g} (a, as a rank) + 0.3 x {ranks(B)[4]:.4g} (b, as a rank)."
    )
    assert {each["score"]: each["value"] for each in explained["scores"]} == {"a": 5, "b": 20, "mix": value}
    lower = select(rows, Top(by=Mix({"a": -0.7, "b": -0.3})), size=3)
    assert explain(lower, rows, 4)["decided"][0].startswith(
        f"Its mix is - 0.7 x {ranks(A)[4]:.4g} (a, as a rank) - 0.3"
    )
    without = explain(selection, rows, 3)
    assert [each["reason"] for each in without["scores"] if each["score"] == "mix"] == ["without_a"]
    grouped = select(rows, per_source(Top(by=Mix({"a": 0.7, "b": 0.3})), "source"), size=4)
    assert explained["decided"][0] in explain(grouped, rows, 4)["decided"]
    kept = BOTH & (B < 30)
    after = explain(select(rows, Chain([InRange("b", high=30)], Top(by=Mix(("a", "b")))), size=3), rows, 4)
    assert f"Its mix is 0.5 x {ranks(A, kept)[4]:.4g} (a, as a rank)" in " ".join(after["decided"])
    products = select(rows, Top(by=Mix(("a", "b"), scale="values", combine="product")), size=3)
    assert explain(products, rows, 4)["decided"][0] == "Its mix is 5 (a) ** 1 x 20 (b) ** 1."


def test_command_line(rows, tmp_path):
    rows.to_parquet(tmp_path / "pool.parquet")
    words = ["--dataset_name", str(tmp_path / "pool.parquet"), "--output_dir"]
    settings = json.dumps({"mix": {"by": ["a", {"score": "length", "unit": "words"}], "weights": [0.5, 1]}})
    assert main(["score", *words, str(tmp_path / "out"), "--scores", "mix", "--scores_kwargs", settings]) == 0
    scored = load_pool(str(tmp_path / "out" / "scored.parquet"))
    everything = ~np.isnan(A)
    length = np.array(scored["response_words"][:], dtype=float)
    np.testing.assert_allclose(
        np.array(scored["mix"][:], dtype=float), 0.5 * ranks(A, everything) + ranks(length, everything)
    )
    by = json.dumps({"by": {"score": "mix", "by": {"a": 0.7, "b": -0.3}}})
    chosen = [*words, str(tmp_path / "selected"), "--selector", "top", "--selector_kwargs", by]
    assert main(["select", *chosen, "--selection_size", "3"]) == 0
    expected = np.argsort(-np.nan_to_num(0.7 * ranks(A) - 0.3 * ranks(B), nan=-9), kind="stable")[:3]
    assert Selection.load(tmp_path / "selected").indices.tolist() == expected.tolist()
    name = method_name(Selection.load(tmp_path / "selected").provenance["selector"])
    assert name == "Top by a mix of a and b"
