"""Shares of repeated text, equal to those of datatrove's filter, and what they are for loops and for other texts."""

from __future__ import annotations

import random

import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.scores import Repetition
from hf_datasel.scores.repetition import repeated_characters, repeated_ngram_characters
from hf_datasel.testing import contract

LOOPS = [
    "The model is good. " * 40,
    "I am happy to help you with that.\n" * 30,
    "\n".join(f"{number}. Drink more water." for number in range(1, 60)),
    "\n".join(f"{number}) Be kind to all people you meet" for number in range(1, 60)),
    "no " * 300,
    "Answer: the cat sat on the mat and then " * 25,
    "我喜欢学习新的东西。" * 30,
]
OTHERS = [
    "It depends on the load, on the network, and on the number of users.",
    "1. Eat well.\n2. Sleep enough.\n3. Move every day.\n4. Drink water.",
    "Yes.",
    "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n",
]


def values(texts, **settings):
    data = Dataset.from_dict({"prompt": ["Go on."] * len(texts), "completion": texts})
    return score(data, Repetition(**settings), on_summary=str)


@contract(Repetition(), Repetition("both", ngram=2, column_prefix="old_"))
def test_contract(check, score, pool_rows):
    check(score, pool_rows.select(range(8)))


def test_loops_and_other_texts():
    assert min(values(LOOPS)["repetition"]) > 0.6
    assert max(values(OTHERS)["repetition"]) < 0.1


def test_equals_datatrove():
    gopher = pytest.importorskip("datatrove.pipeline.filters.gopher_repetition_filter")
    draw = random.Random(0)
    texts = [
        "".join(
            f"{draw.choice('abc') * draw.randint(1, 3)}{draw.choice([' ', ' ', chr(10), '. '])}"
            for _ in range(draw.randint(1, 120))
        )
        for _ in range(150)
    ]
    for text in [*texts, *LOOPS, *OTHERS]:
        words = text.split()
        lines = gopher.re.split("\n+", text)
        assert repeated_characters(text.split("\n")) == gopher.find_duplicates(lines)[1]
        for n in (1, 2, 5, 10):
            assert repeated_ngram_characters(words, n) == gopher.find_all_duplicate(words, n)
    scored = values(texts, ngram=3)
    assert scored["repetition_lines"][:] == pytest.approx(
        [gopher.find_duplicates(text.split("\n"))[1] / len(text) for text in texts], rel=1e-6
    )
    assert scored["repetition_ngrams"][:] == pytest.approx(
        [gopher.find_all_duplicate(text.split(), 3) / len(text) for text in texts], rel=1e-6
    )


def test_numbered_sentences_count_as_equal():
    text = "1. Mix the flour. 2. Mix the flour.\n- Mix the flour.\nBake it."
    [row] = values([text])
    assert row["repetition_sentences"] == pytest.approx(2 * len("Mix the flour.") / len(text))
    assert row["repetition_lines"] == 0
    assert row["repetition"] == max(row[f"repetition_{name}"] for name in ("lines", "sentences", "ngrams"))


def test_rows_without_text():
    scored = score(Dataset.from_dict({"text": ["ha " * 30, " "]}), Repetition("both"), on_summary=str)
    assert scored["repetition"][:] == [pytest.approx(50 / 90), None]
    assert scored["repetition_reason"][:] == ["", "empty_text"]
    with pytest.raises(FormatError, match=r"no response for Repetition\. Pass part='both'"):
        score(Dataset.from_dict({"text": ["a"]}), Repetition())


def test_errors():
    with pytest.raises(ConfigError, match=r"Repetition\(part='respons'\).*Did you mean 'response'\?"):
        Repetition("respons")
    for ngram in (0, 5.0, True):
        with pytest.raises(ConfigError, match="it has to be an int of at least 1"):
            Repetition(ngram=ngram)
