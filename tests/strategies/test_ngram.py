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
    selected = []
    for _ in range(budget):
        best, best_score = None, -1.0
        for row in left:
            total = 0.0
            for index in range(weights.indptr[row], weights.indptr[row + 1]):
                total += alpha[weights.indices[index]] * float(weights.data[index])
            if float(quality[row]) * total > best_score:
                best, best_score = row, float(quality[row]) * total
        selected.append(best)
        left.remove(best)
        for column in weights.indices[weights.indptr[best] : weights.indptr[best + 1]]:
            alpha[column] *= decay
    return selected


def random_case(rng):
    """Texts with many repeats, some empty; qualities with ties, zeros and NaN."""
    words = np.array(["red", "green", "blue", "apple", "pear", "x", "The"])[: rng.integers(1, 8)]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(rng.integers(1, 16))]
    texts = [texts[i] for i in rng.integers(0, len(texts), size=len(texts))] if rng.random() < 0.3 else texts
    kinds = [np.ones(len(texts)), rng.choice([0.0, 0.5, 1.0], size=len(texts)), rng.random(len(texts))]
    quality = kinds[rng.integers(3)]
    quality[rng.random(len(texts)) < rng.choice([0.0, 0.3])] = np.nan
    return texts, quality


# -- the selection ----------------------------------------------------------------------------------------------------
@pytest.mark.shared
@pytest.mark.parametrize("case", range(4))
def test_published_selection(shared, case):
    golden = json.loads((shared / "golden" / "iterit_selection.json").read_text(encoding="utf-8"))["cases"][case]
    rows = json.loads((shared / "data" / "alpaca_random_5200.json").read_text(encoding="utf-8"))
    with open(shared / "golden" / "iterit_ifd_2000.csv", encoding="utf-8", newline="") as file:
        ifd = {int(line["row"]): float(line["ifd_float32"]) for line in csv.DictReader(file)}
    candidates = np.array(golden["candidate_ids"])
    texts = [rows[row]["output"] + "<|end_of_text|>" for row in candidates]
    selected = ngram_greedy(texts, [ifd[row] for row in candidates], golden["M"], decay=golden["b"])
    assert candidates[selected].tolist() == golden["selected"]


@pytest.mark.shared
def test_number_of_published_cases(shared):
    assert len(json.loads((shared / "golden" / "iterit_selection.json").read_text(encoding="utf-8"))["cases"]) == 4


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 0.7, 1.0])
def test_equals_full_rescan(weighting, decay):
    rng = np.random.default_rng([WEIGHTINGS.index(weighting), int(decay * 10)])
    for _ in range(60):
        texts, quality = random_case(rng)
        available = int(np.count_nonzero(~np.isnan(quality)))
        weights = ngram_weights(texts, weighting)
        for budget in {0, min(1, available), available // 2, available}:
            selected = ngram_greedy(texts, quality, budget, decay=decay, weighting=weighting)
            assert selected.dtype == np.int64
            assert selected.tolist() == full_rescan(weights, quality, budget, decay)


def test_random_matrices_equal_full_rescan():
    rng = np.random.default_rng(0)
    for _ in range(100):
        dense = rng.random((rng.integers(1, 30), rng.integers(1, 12))) * (rng.random() < rng.random((1, 1)))
        dense[rng.random(dense.shape) < 0.5] = 0
        weights, quality = csr_matrix(dense), rng.random(len(dense)) * 10.0 ** rng.integers(-3, 3, len(dense))
        decay = float(rng.choice([0.0, 0.1, 0.5, 1.0]))
        assert lazy_greedy(weights, quality, len(dense), decay).tolist() == full_rescan(
            weights, quality, len(dense), decay
        )


def test_equals_sparse_product():
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


def test_covered_ngrams_decay():
    texts = ["red apples and green pears", "red apples and green plums", "blue whales sing"]
    assert ngram_greedy(texts, [1.0, 0.99, 0.5], 3, decay=1.0, weighting="graphfilter").tolist() == [0, 1, 2]
    assert ngram_greedy(texts, [1.0, 0.99, 0.5], 3, decay=0.0, weighting="graphfilter").tolist() == [0, 2, 1]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 1.0])
class TestAwkwardInputs:
    def test_single_candidate(self, weighting, decay):
        quality = [np.nan, 0.5, np.nan]
        assert ngram_greedy(["red", "green", "blue"], quality, 1, decay, weighting).tolist() == [1]

    def test_single_row(self, weighting, decay):
        assert ngram_greedy(["red apples"], [0.5], 1, decay, weighting).tolist() == [0]

    def test_no_candidates(self, weighting, decay):
        assert ngram_greedy(["red", "green"], [np.nan, None], 0, decay, weighting).tolist() == []

    def test_no_rows(self, weighting, decay):
        assert ngram_greedy([], [], 0, decay, weighting).tolist() == []

    def test_rows_without_ngrams_are_last(self, weighting, decay):
        texts = ["", "a", "red apples", "?!", "green pears"]
        assert ngram_greedy(texts, [1, 1, 0.5, 1, 0.6], 5, decay, weighting).tolist() == [4, 2, 0, 1, 3]

    def test_no_ngrams(self, weighting, decay):
        assert ngram_greedy(["", "a", "?"], [1, 2, 3], 3, decay, weighting).tolist() == [0, 1, 2]

    def test_all_scores_equal(self, weighting, decay):
        assert ngram_greedy(["red apples"] * 6, np.ones(6), 6, decay, weighting).tolist() == [0, 1, 2, 3, 4, 5]

    def test_zero_quality(self, weighting, decay):
        texts = ["red apples", "green pears", "blue"]
        assert ngram_greedy(texts, [0, np.nan, 0], 2, decay, weighting).tolist() == [0, 2]


def test_texts_from_generator():
    assert ngram_greedy((text for text in TEXTS), np.ones(len(TEXTS)), 2).shape == (2,)


@pytest.mark.parametrize("form", ["csc", "coo", "bsr"])
def test_sparse_formats(form):
    dense = np.random.default_rng(0).random((5, 7)).round(1)
    weights = csr_matrix(dense)
    assert lazy_greedy(weights.asformat(form), np.ones(5), 5, 0.1).tolist() == full_rescan(weights, np.ones(5), 5, 0.1)


# -- progress and Ctrl-C ---------------------------------------------------------------------------------------------
def test_progress():
    seen = []
    ngram_greedy(TEXTS, np.ones(len(TEXTS)), 4, progress=seen.append)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("stop", [1, 3, 9])
def test_interrupt_keeps_selected_rows(stop):
    def progress(n_selected):
        if n_selected == stop:
            raise KeyboardInterrupt

    quality = np.arange(1.0, 1 + len(TEXTS))
    with pytest.raises(Interrupted, match=f"{stop} rows had been selected") as caught:
        ngram_greedy(TEXTS, quality, 9, progress=progress)
    assert caught.value.selected.dtype == np.int64
    assert caught.value.selected.tolist() == ngram_greedy(TEXTS, quality, 9).tolist()[:stop]
    with pytest.raises(Interrupted, match=f"{stop} rows had been selected"):
        lazy_greedy(ngram_weights(TEXTS), quality, 9, 0.1, progress)


# -- why a row was selected -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("corpus", [None, [*TEXTS, "rain in other words"]])
def test_explanation_scores(weighting, decay, corpus):
    quality = np.array([0.3, 0.9, 0.5, 0.2, 0.8, 0.7, np.nan, 0.6, 0.4])
    selected = ngram_greedy(TEXTS, quality, 5, decay, weighting, corpus).tolist()
    weights = ngram_weights(TEXTS, weighting, corpus)
    alpha, at_step = np.ones(weights.shape[1]), []
    for row in selected:
        at_step.append(quality * (weights @ alpha))
        alpha[weights[row].indices] *= decay
    at_step.append(quality * (weights @ alpha))
    for position in range(len(TEXTS)):
        explanation = explain_pick(TEXTS, quality, selected, position, decay, weighting, corpus)
        step = selected.index(position) if position in selected else None
        assert explanation["step"] == step
        expected = at_step[-1 if step is None else step][position], at_step[0][position], at_step[4][selected[4]]
        np.testing.assert_allclose(
            (explanation["score"], explanation["best"], explanation["last_selected"]), expected, rtol=0, atol=1e-12
        )


def test_explanation_ngrams():
    texts = ["red apples", "red pears", "red red apples and plums", "red wine"]
    settings = {"weighting": "graphfilter", "ngram_range": (1, 1)}
    explanation = explain_pick(texts, np.ones(4), [0, 1, 2], 2, n_ngrams=3, **settings)
    assert [(name, times) for name, _, times in explanation["ngrams"]] == [("and", 0), ("plums", 0), ("apples", 1)]
    np.testing.assert_allclose([weight for _, weight, _ in explanation["ngrams"]], [np.log(4), np.log(4), np.log(2)])
    later = explain_pick(texts, np.ones(4), [0, 1, 2], 3, **settings)
    assert [(name, times) for name, _, times in later["ngrams"]] == [("wine", 0), ("red", 3)]
    assert later["step"] is None


def test_explanation_without_selection():
    explanation = explain_pick(TEXTS, np.ones(len(TEXTS)), [], 0)
    assert explanation["last_selected"] is None
    assert explanation["score"] == pytest.approx(explanation["best"], abs=1e-12)
    assert {times for *_, times in explanation["ngrams"]} == {0}


def test_explanation_of_row_without_ngrams():
    explanation = explain_pick(TEXTS, np.ones(len(TEXTS)), [0], 1)
    assert (explanation["score"], explanation["best"], explanation["ngrams"]) == (0.0, 0.0, [])


@pytest.mark.parametrize(("selected", "position", "wrong"), [([0], 2, 2), ([0], -1, -1), ([0, 7], 1, 7)])
def test_explanation_invalid_positions(selected, position, wrong):
    with pytest.raises(SelectionError, match=f"explain_pick: position {wrong} is none of the 2 texts"):
        explain_pick(["red", "green"], [1, 1], selected, position)


@pytest.mark.parametrize("ngram_range", [(1, 3), (2, 2), (1, 1)])
def test_ngrams_of_are_the_columns(ngram_range):
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


def test_default_weights_equal_tfidf_vectorizer():
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
def test_key_renumbering(monkeypatch, bits):
    expected = ngram_weights(TEXTS)
    monkeypatch.setattr(ngram, "_KEY_BITS", bits)
    weights = ngram_weights(TEXTS)
    np.testing.assert_array_equal(weights.indices, expected.indices)
    np.testing.assert_array_equal(weights.data, expected.data)


def test_column_order_and_dtype():
    weights = ngram_weights(TEXTS)
    assert all((np.diff(row.indices) > 0).all() for row in weights)
    assert weights.indices.dtype == np.int32


def test_ngram_missing_from_corpus():
    weights = ngram_weights(["red pear"], "graphfilter", corpus=iter(["red", "red", "blue"]), ngram_range=(1, 1))
    np.testing.assert_allclose(weights.toarray(), [[np.log(3), np.log(3 / 2)]])


def test_ngram_in_every_text():
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
        (
            {"quality": [1.0, -2.0, -3.0]},
            r"2 of 3 are not \(the first is -2\.0 at position 1\): a score could increase",
        ),
        ({"quality": [1.0, 2.0, np.inf]}, r"must be finite and >= 0.* inf at position 2\)"),
        ({"decay": -0.1}, r"decay=-0\.1 must be from 0 to 1: otherwise a score could increase"),
        ({"decay": 1.1}, r"decay=1\.1 must be from 0 to 1"),
        ({"decay": np.nan}, r"decay=nan must be from 0 to 1"),
        ({"weighting": "tfidf"}, r"weighting='tfidf': it has to be 'smooth-l2', 'paper' or 'graphfilter'"),
        ({"ngram_range": (2, 1)}, r"ngram_range=\(2, 1\) must be \(shortest, longest\)"),
        ({"ngram_range": (0, 1)}, r"ngram_range=\(0, 1\) must be \(shortest, longest\)"),
        ({"corpus": []}, "corpus has no text. Omit it"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(SelectionError, match=message):
        ngram_greedy(**{"texts": ["red", "green", "blue"], "quality": [1.0, np.nan, 0.5], "budget": 1} | settings)


@pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan])
def test_invalid_weights(weight):
    with pytest.raises(SelectionError, match="needs finite weights >= 0"):
        lazy_greedy(csr_matrix([[1.0, weight]]), [1.0], 1, 0.1)


def test_lazy_greedy_budget():
    with pytest.raises(SelectionError, match="lazy_greedy: budget=2 is more than the 1 row"):
        lazy_greedy(csr_matrix([[1.0]]), [1.0], 2, 0.1)
