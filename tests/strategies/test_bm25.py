from math import log

import numpy as np
import pytest

from hf_datasel.errors import SelectionError
from hf_datasel.strategies.bm25 import bm25_weights


def by_hand(documents, query, k1, b):
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        total = 0.0
        for word in query:
            containing = sum(word in other for other in documents)
            idf = log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            count = document.count(word)
            total += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * len(document) / mean))
        scores.append(total)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 0.0), (1.2, 1.0)])
def test_equals_formula(k1, b):
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(12)])
    documents = [rng.choice(words, rng.integers(1, 15)).tolist() for _ in range(20)]
    queries = [rng.choice([*words, "unseen"], rng.integers(1, 8)).tolist() for _ in range(5)]
    weights, counts = bm25_weights(iter(documents), iter(queries), k1, b)
    expected = np.transpose([by_hand(documents, query, k1, b) for query in queries])
    np.testing.assert_allclose((weights @ counts).toarray(), expected, rtol=1e-12)
    assert expected.max() > 1


def test_without_words():
    weights, counts = bm25_weights([[], ["a"]], [[], ["b"]])
    assert (weights @ counts).toarray().tolist() == [[0, 0], [0, 0]]
    assert (weights @ counts).shape == (2, 2)
    weights, counts = bm25_weights([], [["a"]])
    assert (weights @ counts).shape == (0, 1)
    with pytest.raises(SelectionError, match="b=2 from 0 to 1"):
        bm25_weights([["a"]], [["a"]], b=2)
