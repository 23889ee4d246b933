"""How well rows compress."""

from __future__ import annotations

import logging
import random
import string
import zlib

import numpy as np
import pytest
from datasets import Dataset, Value

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.scores import IFD, Compressibility
from hf_datasel.testing import contract


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


@contract(Compressibility(), Compressibility("prompt", level=1), Compressibility("response", column_prefix="old_"))
def test_contract(check, score, rows, tiny_model_dir):
    check(score, rows, tiny_model_dir)


def ratio(text, level=9):
    content = bytes(text, "utf-8")
    packer = zlib.compressobj(level)
    return len(content) / len(packer.compress(content) + packer.flush())


def test_equals_zlib():
    prompt, response = "Écris « ça » ? 彼は" * 9, "naïve café, naïve thé, " * 30
    data = Dataset.from_dict({"prompt": [prompt], "completion": [response]})
    texts = {"prompt": prompt, "response": response, "both": f"{prompt}\n{response}"}
    for part, text in texts.items():
        scored = score(data, [Compressibility(part)])
        assert scored["compressibility"][0] == pytest.approx(ratio(text), rel=1e-6)
        assert scored["compressibility"][0] != pytest.approx(len(text) * ratio(text) / len(text.encode()), rel=1e-3)
    assert scored.features["compressibility"] == Value("float32")
    assert len({round(ratio(text), 6) for text in texts.values()}) == 3


def test_zlib_level():
    words = ["".join(random.Random(number % 60).choices(string.ascii_lowercase, k=7)) for number in range(2_000)]
    text = " ".join(random.Random(1).sample(words, len(words)))
    data = Dataset.from_dict({"prompt": ["Say it."], "completion": [text]})
    result = [score(data, [Compressibility("response", level=level)])["compressibility"][0] for level in (1, 9)]
    assert result == pytest.approx([ratio(text, level) for level in (1, 9)], rel=1e-6)
    assert result[0] != pytest.approx(result[1], rel=1e-2)
    assert score(data, [Compressibility("response")])["compressibility"][0] == result[1]


def test_repeated_text_compresses_better():
    draw = random.Random(0)
    noise = "".join(draw.choices(string.printable[:94], k=600))
    texts = ["a fox " * 100, "a fox saw an owl. " * 33 + "a fox ", noise]
    data = Dataset.from_dict({"prompt": ["Go on."] * 3, "completion": texts})
    result = score(data, [Compressibility()])["compressibility"][:]
    assert result[0] > result[1] > 10 > 2 > result[2]


def test_all_turns_count():
    turns = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate("abcd")]
    data = Dataset.from_dict({"messages": [turns]})
    for part, text in (("prompt", "a\nc"), ("response", "b\nd"), ("both", "a\nc\nb\nd")):
        result = score(data, [Compressibility(part)])["compressibility"]
        assert result[0] == pytest.approx(ratio(text), rel=1e-6)


def test_rows_without_text(caplog):
    data = Dataset.from_dict({"prompt": ["a", "", " \n", None, "b"], "completion": ["x", "x", "x", "x", " "]})
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        result = score(data, [Compressibility("prompt")])
    assert result["compressibility"][:] == [pytest.approx(ratio("a"), rel=1e-6), None, None, None, None]
    assert result["compressibility_reason"][:] == ["", "empty_prompt", "empty_prompt", "wrong_type", "empty_response"]
    assert "1 of 5 rows scored, 4 without: 2 empty_prompt, 1 empty_response, 1 wrong_type" in caplog.text
    scored = score(data, [Compressibility()])
    assert scored["compressibility"][:3] == pytest.approx([ratio("a\nx"), ratio("\nx"), ratio(" \n\nx")], rel=1e-6)
    assert scored["compressibility_reason"][:] == ["", "", "", "wrong_type", "empty_response"]


def test_text_rows():
    data = Dataset.from_dict({"text": ["to and fro " * 20, " ", None]})
    scored = score(data, [Compressibility()], on_summary=str)
    assert scored["compressibility"][:] == [pytest.approx(ratio("to and fro " * 20), rel=1e-6), None, None]
    assert scored["compressibility_reason"][:] == ["", "empty_text", "empty_text"]
    with pytest.raises(FormatError, match=r"no response for Compressibility\. Pass part='both'"):
        score(data, [Compressibility("response")])


def test_spec_and_pickle_hold_zlib_version(monkeypatch):
    before = Compressibility().__reduce__()
    assert Compressibility().spec()["zlib"] == zlib.ZLIB_RUNTIME_VERSION
    monkeypatch.setattr(zlib, "ZLIB_RUNTIME_VERSION", "1.3.1.zlib-ng")
    assert Compressibility().spec()["zlib"] == "1.3.1.zlib-ng"
    assert Compressibility().__reduce__() != before


def test_with_a_model_score(model, tokenizer, pool_rows):
    rows = pool_rows.select(range(3))
    scored = score(rows, [Compressibility(), IFD()], model=model, processing_class=tokenizer)
    assert scored["compressibility"][:] == score(rows, [Compressibility()])["compressibility"][:]
    assert np.isfinite(scored["ifd"][:]).all()


def test_errors():
    with pytest.raises(ConfigError, match=r"Compressibility\(part='respons'\).*Did you mean 'response'\?"):
        Compressibility("respons")
    for level in (0, 10, 9.0, True):
        with pytest.raises(ConfigError, match=r"it has to be an int from 1 to 9"):
            Compressibility(level=level)
