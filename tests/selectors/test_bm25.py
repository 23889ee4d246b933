"""BM25: picks by plain loops over plain scores, subtasks, rows without a word of the target, explain, settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.errors import ConfigError, FormatError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.formats.words import comparable_words
from hf_datasel.selection import explain
from hf_datasel.selectors import BM25, get_selector
from hf_datasel.testing import contract
from tests.strategies.test_bm25 import by_hand
from tests.strategies.test_round_robin import by_popping


@pytest.fixture(scope="module")
def target(pool_rows):
    return pool_rows.select(range(12, 20)).add_column("task", list("baababbb"))


@pytest.fixture(scope="module")
def validation(tmp_path_factory, target):
    path = tmp_path_factory.mktemp("validation") / "rows.jsonl"
    target.to_json(path)
    return str(path)


@contract(BM25(validation="to be named"), BM25(validation="to be named", part="prompt", subtask="task"))
def test_contract(check, selector, full, validation):
    check(replace(selector, validation=validation), full)


@pytest.mark.parametrize(("part", "k1", "b"), [("both", 1.5, 0.75), ("prompt", 0.9, 0.4)])
def test_equals_reference(rows, target, validation, part, k1, b):
    documents, queries = ([comparable_words(text) for text in Pool(data).texts(part)] for data in (rows, target))
    scores = np.array([by_hand(documents, query, k1, b) for query in queries])
    scores[scores == 0] = np.nan
    able = int((~np.isnan(scores)).any(axis=0).sum())
    subject = BM25(validation=validation, part=part, k1=k1, b=b)
    selection = select(rows, subject, size=able)
    assert selection.indices.tolist() == by_popping(scores, able)
    np.testing.assert_allclose(selection.scores("bm25"), np.fmax.reduce(scores), rtol=1e-6)
    names = np.array(target["task"][:])
    lists = [np.fmax.reduce(scores[names == name]) for name in "ab"]
    by_subtask = select(rows, replace(subject, subtask="task"), size=6).indices
    assert by_subtask.tolist() == by_popping(lists, 6) != selection.indices[:6].tolist()


def test_rows_without_a_word_of_the_target(tmp_path):
    Dataset.from_dict({"prompt": ["two plus two"], "completion": ["four"]}).to_json(tmp_path / "target.jsonl")
    rows = Dataset.from_dict({"prompt": ["Two cats", "A dog", "plus"], "completion": ["x", "y", "Four!"]})
    subject = BM25(validation=str(tmp_path / "target.jsonl"))
    selection = select(rows, subject, size=2)
    assert selection.indices.tolist() == [2, 0]
    assert selection.provenance["exclusions"] == {"without a word of the target rows": 1}
    assert selection.provenance["notes"]["target"]["copies"] == 0
    with pytest.raises(SelectionError, match=r"size=3 .*without a word of the target rows"):
        select(rows, subject, size=3)
    rows.select([0]).map(lambda row: {"prompt": "?", "completion": "!"}).to_json(tmp_path / "none.jsonl")
    with pytest.raises(SelectionError, match=r"None of the 1 rows of '.*none\.jsonl' has a word"):
        select(rows, replace(subject, validation=str(tmp_path / "none.jsonl")), size=1)


def test_settings(rows, validation):
    for settings, match in (
        ({"b": 1.5}, r"BM25\(b=1\.5\): it has to be a number from 0 to 1"),
        ({"k1": -1}, r"BM25\(k1=-1\): it has to be a number of at least 0"),
        ({"part": "all"}, r"BM25\(part='all'\)"),
    ):
        with pytest.raises(ConfigError, match=match):
            BM25(validation=validation, **settings)
    with pytest.raises(FormatError, match=r"BM25\(validation='nothing\.jsonl'\): There is no file or folder"):
        select(rows, BM25(validation="nothing.jsonl"), size=3)
    spec = BM25(validation=validation, part="response").spec()
    assert get_selector(spec.pop("selector"), spec) == BM25(validation=validation, part="response")


def test_explain_names_the_target_row_and_the_words(tmp_path):
    target = {
        "prompt": ["two plus two", "Where is she? She left"],
        "completion": ["four", "home"],
        "task": ["sums", "a"],
    }
    Dataset.from_dict(target).to_json(tmp_path / "target.jsonl")
    rows = Dataset.from_dict({"prompt": ["Two cats", "She sings", "?"], "completion": ["x", "at home", "!"]})
    subject = BM25(validation=str(tmp_path / "target.jsonl"))
    documents = [["two", "cats", "x"], ["she", "sings", "at", "home"], []]
    words = {word: by_hand(documents, [word] * times, 1.5, 0.75)[1] for word, times in (("she", 2), ("home", 1))}
    listed = ", ".join(f"{word!r} ({value:.3g})" for word, value in words.items())
    sentence = f"matches it best, with a score of {sum(words.values()):.4g}. The words that count most: {listed}."
    selection = select(rows, subject, size=2)
    assert f"Of the target rows, 1 {sentence}" in str(explain(selection, rows, 1))
    assert "matches it best" not in str(explain(selection, rows, 2))
    selection = select(rows, replace(subject, subtask="task"), size=2)
    assert f"Of the target rows, a:1 {sentence}" in str(explain(selection, rows, 1))
