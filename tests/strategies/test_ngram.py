import csv
import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies import ngram
from hf_datasel.strategies.ngram import lazy_greedy, ngram_greedy, ngram_weights, ngrams_of
from hf_datasel.strategies.ngram_explain import explain_pick

WEIGHTINGS = ["smooth-l2", "paper", "graphfilter"]
TEXTS = [
    "The rain in Spain stays mainly in the plain, and the rain is wet.",
    "",
    "Rain! rain? RAIN: rain_drops don't stop; a I x 7 42 3.14",
    "? a b c",
    "Größe, naïve Ünïcode, ΣΊΣΥΦΟΣ, İstanbul, 東京 と 大阪, नमस्ते दुनिया",
    "the rain in spain",
    "The rain in Spain",
    "one",
    "rain in\n\nthe\tplain and x the rain in",
]


def full_rescan(weights, quality, budget, decay):
    """Score every row at every step, and take the first of the best."""
    alpha = [1.0] * weights.shape[1]
    left = [row for row in range(len(quality)) if not np.isnan(quality[row])]
    chosen = []
    for _ in range(budget):
        best, best_score = None, -1.0
        for row in left:
            total = 0.0
            for at in range(weights.indptr[row], weights.indptr[row + 1]):
                total += alpha[weights.indices[at]] * float(weights.data[at])
            if float(quality[row]) * total > best_score:
                best, best_score = row, float(quality[row]) * total
        chosen.append(best)
        left.remove(best)
        for column in weights.indices[weights.indptr[best] : weights.indptr[best + 1]]:
            alpha[column] *= decay
    return chosen


def random_case(rng):
    """Texts with many repeats, some empty; qualities with ties, zeros and NaN."""
    words = np.array(["red", "green", "blue", "apple", "pear", "x", "The"])[: rng.integers(1, 8)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(rng.integers(1, 16))]
    texts = [texts[i] for i in rng.integers(0, len(texts), size=len(texts))] if rng.random() < 0.3 else texts
    kinds = [np.ones(len(texts)), rng.choice([0.0, 0.5, 1.0], size=len(texts)), rng.random(len(texts))]
    quality = kinds[rng.integers(3)]
    quality[rng.random(len(texts)) < rng.choice([0.0, 0.3])] = np.nan
    return texts, quality


# -- the choice ------------------------------------------------------------------------------------------------------
@pytest.mark.shared
@pytest.mark.parametrize("case", range(4))
def test_chooses_what_the_published_code_chooses(shared, case):
    golden = json.loads((shared / "golden" / "iterit_selection.json").read_text(encoding="utf-8"))["cases"][case]
    rows = json.loads((shared / "data" / "alpaca_random_5200.json").read_text(encoding="utf-8"))
    with open(shared / "golden" / "iterit_ifd_2000.csv", encoding="utf-8", newline="") as file:
        ifd = {int(line["row"]): float(line["ifd_float32"]) for line in csv.DictReader(file)}
    candidates = np.array(golden["candidate_ids"])
    texts = [rows[row]["output"] + "<|end_of_text|>" for row in candidates]
    chosen = ngram_greedy(texts, [ifd[row] for row in candidates], golden["M"], decay=golden["b"])
    assert candidates[chosen].tolist() == golden["selected"]


@pytest.mark.shared
def test_there_are_four_published_cases(shared):
    assert len(json.loads((shared / "golden" / "iterit_selection.json").read_text(encoding="utf-8"))["cases"]) == 4


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 0.7, 1.0])
def test_equals_a_full_rescan(weighting, decay):
    rng = np.random.default_rng([WEIGHTINGS.index(weighting), int(decay * 10)])
    for _ in range(60):
        texts, quality = random_case(rng)
        available = int(np.count_nonzero(~np.isnan(quality)))
        weights = ngram_weights(texts, weighting)
        for budget in {0, min(1, available), available // 2, available}:
            chosen = ngram_greedy(texts, quality, budget, decay=decay, weighting=weighting)
            assert chosen.dtype == np.int64
            assert chosen.tolist() == full_rescan(weights, quality, budget, decay)


def test_equals_a_full_rescan_on_any_matrix():
    rng = np.random.default_rng(0)
    for _ in range(100):
        dense = rng.random((rng.integers(1, 30), rng.integers(1, 12))) * (rng.random() < rng.random((1, 1)))
        dense[rng.random(dense.shape) < 0.5] = 0
        weights, quality = csr_matrix(dense), rng.random(len(dense)) * 10.0 ** rng.integers(-3, 3, len(dense))
        decay = float(rng.choice([0.0, 0.1, 0.5, 1.0]))
        assert lazy_greedy(weights, quality, len(dense), decay).tolist() == full_rescan(
            weights, quality, len(dense), decay
        )


def test_equals_rescoring_by_a_sparse_product():
    # No rows here that tie but for the last bit, so that it does not matter how scipy was compiled.
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(300)], size=rng.integers(1, 60))) for _ in range(400)]
    quality, weights = rng.random(400), ngram_weights(texts)
    alpha, expected = np.ones(weights.shape[1]), []
    for _ in range(150):
        scores = quality * (weights @ alpha)
        scores[expected] = -1
        expected.append(int(scores.argmax()))
        alpha[weights[expected[-1]].indices] *= 0.1
    assert ngram_greedy(texts, quality, 150).tolist() == expected


def test_what_was_said_counts_for_less():
    texts = ["red apples and green pears", "red apples and green plums", "blue whales sing"]
    assert ngram_greedy(texts, [1.0, 0.99, 0.5], 3, decay=1.0, weighting="graphfilter").tolist() == [0, 1, 2]
    assert ngram_greedy(texts, [1.0, 0.99, 0.5], 3, decay=0.0, weighting="graphfilter").tolist() == [0, 2, 1]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 1.0])
class TestAwkwardInputs:
    def test_one_row_that_can_be_chosen(self, weighting, decay):
        quality = [np.nan, 0.5, np.nan]
        assert ngram_greedy(["red", "green", "blue"], quality, 1, decay, weighting).tolist() == [1]

    def test_one_row_at_all(self, weighting, decay):
        assert ngram_greedy(["red apples"], [0.5], 1, decay, weighting).tolist() == [0]

    def test_none_that_can_be_chosen(self, weighting, decay):
        assert ngram_greedy(["red", "green"], [np.nan, None], 0, decay, weighting).tolist() == []

    def test_no_rows(self, weighting, decay):
        assert ngram_greedy([], [], 0, decay, weighting).tolist() == []

    def test_rows_without_an_ngram_come_last_in_order(self, weighting, decay):
        texts = ["", "a", "red apples", "?!", "green pears"]
        assert ngram_greedy(texts, [1, 1, 0.5, 1, 0.6], 5, decay, weighting).tolist() == [4, 2, 0, 1, 3]

    def test_no_ngram_anywhere(self, weighting, decay):
        assert ngram_greedy(["", "a", "?"], [1, 2, 3], 3, decay, weighting).tolist() == [0, 1, 2]

    def test_all_scores_equal(self, weighting, decay):
        assert ngram_greedy(["red apples"] * 6, np.ones(6), 6, decay, weighting).tolist() == [0, 1, 2, 3, 4, 5]

    def test_no_quality_above_0(self, weighting, decay):
        texts = ["red apples", "green pears", "blue"]
        assert ngram_greedy(texts, [0, np.nan, 0], 2, decay, weighting).tolist() == [0, 2]


def test_texts_may_come_from_a_generator():
    assert ngram_greedy((text for text in TEXTS), np.ones(len(TEXTS)), 2).shape == (2,)


@pytest.mark.parametrize("form", ["csc", "coo", "bsr"])
def test_any_sparse_format_is_read_right(form):
    dense = np.random.default_rng(0).random((5, 7)).round(1)
    weights = csr_matrix(dense)
    assert lazy_greedy(weights.asformat(form), np.ones(5), 5, 0.1).tolist() == full_rescan(weights, np.ones(5), 5, 0.1)


# -- progress and Ctrl-C ---------------------------------------------------------------------------------------------
def test_progress_counts_every_row():
    seen = []
    ngram_greedy(TEXTS, np.ones(len(TEXTS)), 4, progress=seen.append)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("stop", [1, 3, 9])
def test_interrupted_it_says_what_was_chosen(stop):
    def progress(n_chosen):
        if n_chosen == stop:
            raise KeyboardInterrupt

    quality = np.arange(1.0, 1 + len(TEXTS))
    with pytest.raises(Interrupted, match=f"{stop} rows had been chosen") as caught:
        ngram_greedy(TEXTS, quality, 9, progress=progress)
    assert caught.value.chosen.dtype == np.int64
    assert caught.value.chosen.tolist() == ngram_greedy(TEXTS, quality, 9).tolist()[:stop]
    with pytest.raises(Interrupted, match=f"{stop} rows had been chosen"):
        lazy_greedy(ngram_weights(TEXTS), quality, 9, 0.1, progress)


# -- why a row was chosen --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("corpus", [None, [*TEXTS, "rain in other words"]])
def test_an_explanation_has_the_scores_of_the_choice(weighting, decay, corpus):
    quality = np.array([0.3, 0.9, 0.5, 0.2, 0.8, 0.7, np.nan, 0.6, 0.4])
    chosen = ngram_greedy(TEXTS, quality, 5, decay, weighting, corpus).tolist()
    weights = ngram_weights(TEXTS, weighting, corpus)
    alpha, at_step = np.ones(weights.shape[1]), []
    for row in chosen:
        at_step.append(quality * (weights @ alpha))
        alpha[weights[row].indices] *= decay
    at_step.append(quality * (weights @ alpha))
    for position in range(len(TEXTS)):
        found = explain_pick(TEXTS, quality, chosen, position, decay, weighting, corpus)
        step = chosen.index(position) if position in chosen else None
        assert found["step"] == step
        expected = at_step[-1 if step is None else step][position], at_step[0][position], at_step[4][chosen[4]]
        np.testing.assert_allclose((found["score"], found["best"], found["last_chosen"]), expected, rtol=0, atol=1e-12)


def test_an_explanation_lists_the_ngrams_of_the_largest_weight():
    texts = ["red apples", "red pears", "red red apples and plums", "red wine"]
    settings = {"weighting": "graphfilter", "ngram_range": (1, 1)}
    found = explain_pick(texts, np.ones(4), [0, 1, 2], 2, n_ngrams=3, **settings)
    assert [(name, times) for name, _, times in found["ngrams"]] == [("and", 0), ("plums", 0), ("apples", 1)]
    np.testing.assert_allclose([weight for _, weight, _ in found["ngrams"]], [np.log(4), np.log(4), np.log(2)])
    later = explain_pick(texts, np.ones(4), [0, 1, 2], 3, **settings)
    assert [(name, times) for name, _, times in later["ngrams"]] == [("wine", 0), ("red", 3)]
    assert later["step"] is None


def test_an_explanation_when_nothing_is_chosen():
    found = explain_pick(TEXTS, np.ones(len(TEXTS)), [], 0)
    assert found["last_chosen"] is None
    assert found["score"] == pytest.approx(found["best"], abs=1e-12)
    assert {times for *_, times in found["ngrams"]} == {0}


def test_an_explanation_of_a_row_without_an_ngram():
    found = explain_pick(TEXTS, np.ones(len(TEXTS)), [0], 1)
    assert (found["score"], found["best"], found["ngrams"]) == (0.0, 0.0, [])


@pytest.mark.parametrize(("chosen", "position", "wrong"), [([0], 2, 2), ([0], -1, -1), ([0, 7], 1, 7)])
def test_an_explanation_of_positions_that_are_no_rows(chosen, position, wrong):
    with pytest.raises(SelectionError, match=f"explain_pick: position {wrong} is none of the 2 texts"):
        explain_pick(["red", "green"], [1, 1], chosen, position)


@pytest.mark.parametrize("ngram_range", [(1, 3), (2, 2), (1, 1)])
def test_names_are_those_of_the_columns(ngram_range):
    for text in TEXTS:
        names = ngrams_of(text, ngram_range)
        assert len(names) == ngram_weights([text], ngram_range=ngram_range).shape[1]
        counter = CountVectorizer(ngram_range=ngram_range).build_analyzer()
        assert set(names) == set(counter(text))
    # Alphabetical by words, as the columns are: "red" stands before "red x" before "redder", whatever " " sorts as.
    assert ngrams_of("redder red apples", (1, 2)) == ["apples", "red", "red apples", "redder", "redder red"]


# -- the weights -----------------------------------------------------------------------------------------------------
def reference(texts, weighting, corpus, ngram_range):
    """Weights by way of scikit-learn's counts, dense; its tokens and columns are the definition."""
    counter = CountVectorizer(ngram_range=ngram_range).fit(texts)
    counts = counter.transform(texts).toarray()
    in_corpus = (counter.transform(corpus) > 0).toarray() if corpus is not None else counts > 0
    n, df = len(in_corpus), np.maximum(in_corpus.sum(axis=0), 1)
    if weighting == "smooth-l2":
        weights = counts * (np.log((1 + n) / (1 + df)) + 1)
        return weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)
    lengths = counts.sum(axis=1, keepdims=True) if weighting == "paper" else np.ones((len(counts), 1))
    return counts / np.maximum(lengths, 1) * np.log(n / df)


@pytest.mark.parametrize("ngram_range", [(1, 3), (1, 1), (2, 2), (2, 4), (3, 3), (1, 12)])
@pytest.mark.parametrize(
    "corpus", [None, TEXTS[:3], [*TEXTS, "rain in other words", "", "stays mainly dry"], ["nothing"]]
)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_equal_scikit_learn(weighting, corpus, ngram_range):
    weights = ngram_weights(TEXTS, weighting, corpus, ngram_range)
    expected = reference(TEXTS, weighting, corpus, ngram_range)
    assert weights.shape == expected.shape
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights.toarray(), expected, rtol=0, atol=1e-12)


def test_the_default_is_the_tfidf_of_scikit_learn():
    expected = TfidfVectorizer(ngram_range=(1, 3)).fit_transform(TEXTS)
    weights = ngram_weights(TEXTS)
    assert weights.nnz == expected.nnz
    np.testing.assert_allclose(weights.toarray(), expected.toarray(), rtol=0, atol=1e-12)


def test_random_weights_equal_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(60):
        texts, corpus = random_case(rng)[0], random_case(rng)[0]
        texts.append("red pear")
        for weighting in WEIGHTINGS:
            for pool in (None, corpus):
                weights = ngram_weights(texts, weighting, pool).toarray()
                np.testing.assert_allclose(weights, reference(texts, weighting, pool, (1, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bits", [20, 26, 33])
def test_keys_that_do_not_fit_change_nothing(monkeypatch, bits):
    expected = ngram_weights(TEXTS)
    monkeypatch.setattr(ngram, "_KEY_BITS", bits)
    weights = ngram_weights(TEXTS)
    np.testing.assert_array_equal(weights.indices, expected.indices)
    np.testing.assert_array_equal(weights.data, expected.data)


def test_columns_are_sorted_and_small():
    weights = ngram_weights(TEXTS)
    assert all((np.diff(row.indices) > 0).all() for row in weights)
    assert weights.indices.dtype == np.int32


def test_an_ngram_the_corpus_does_not_have_counts_as_in_one_text():
    weights = ngram_weights(["red pear"], "graphfilter", corpus=iter(["red", "red", "blue"]), ngram_range=(1, 1))
    np.testing.assert_allclose(weights.toarray(), [[np.log(3), np.log(3 / 2)]])


def test_a_text_in_every_document_weighs_nothing_but_for_smoothing():
    assert ngram_weights(["red", "red"], "paper").toarray().tolist() == [[0.0], [0.0]]
    assert ngram_weights(["red", "red"], "smooth-l2").toarray().tolist() == [[1.0], [1.0]]


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"budget": 3},
            r"ngram_greedy: budget=3 is more than the 2 rows .*\(1 of 3 are without a quality\)\. Lower it",
        ),
        ({"budget": -1}, r"budget=-1 must be a whole number of rows"),
        ({"budget": 0.5}, r"budget=0\.5 must be a whole number of rows"),
        ({"quality": [1.0, 2.0]}, r"one number for each of the 3 texts, but has shape \(2,\)"),
        ({"quality": [1.0, -2.0, -3.0]}, r"2 of 3 are not \(the first is -2\.0 at position 1\): a score could rise"),
        ({"quality": [1.0, 2.0, np.inf]}, r"must be finite and >= 0.* inf at position 2\)"),
        ({"decay": -0.1}, r"decay=-0\.1 must be from 0 to 1: otherwise a score could rise"),
        ({"decay": 1.1}, r"decay=1\.1 must be from 0 to 1"),
        ({"decay": np.nan}, r"decay=nan must be from 0 to 1"),
        ({"weighting": "tfidf"}, r"weighting='tfidf' is not one of 'smooth-l2', 'paper', 'graphfilter'"),
        ({"ngram_range": (2, 1)}, r"ngram_range=\(2, 1\) must be \(shortest, longest\)"),
        ({"ngram_range": (0, 1)}, r"ngram_range=\(0, 1\) must be \(shortest, longest\)"),
        ({"corpus": []}, "corpus has no text. Leave it out"),
    ],
)
def test_settings_that_cannot_be_right(settings, message):
    with pytest.raises(SelectionError, match=message):
        ngram_greedy(**{"texts": ["red", "green", "blue"], "quality": [1.0, np.nan, 0.5], "budget": 1} | settings)


@pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan])
def test_weights_that_would_let_scores_rise(weight):
    with pytest.raises(SelectionError, match="needs finite weights >= 0"):
        lazy_greedy(csr_matrix([[1.0, weight]]), [1.0], 1, 0.1)


def test_lazy_greedy_checks_its_own_budget():
    with pytest.raises(SelectionError, match="lazy_greedy: budget=2 is more than the 1 row"):
        lazy_greedy(csr_matrix([[1.0]]), [1.0], 2, 0.1)
