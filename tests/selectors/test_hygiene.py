"""Filters by the scores of hygiene: rows are excluded and counted by reason, in selections, explanations and cards."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_datasel import score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.scores import Refusal, Repetition, URLs
from hf_datasel.selection import explain
from hf_datasel.selection.display import describe_setting
from hf_datasel.selection.explanation_text import explanation_text
from hf_datasel.selectors import Chain, Decontaminate, InLanguage, InRange, NoTextDuplicates, Random, TopShare

CHAIN = Chain(
    [
        InRange(Refusal(), high=1),
        InRange(URLs(), high=0.5),
        InRange(URLs(), high=1, column="link_phrases"),
        InRange(Repetition(), high=0.3),
        NoTextDuplicates(),
    ],
    Random(),
)
ANSWERS = [
    "Water boils at a hundred degrees at sea level.",
    "As an AI language model, I cannot boil water.",
    "https://example.com/boil",
    "To learn how to boil water, click here.",
    "Boil the water. " * 20,
    "Water boils at a hundred degrees, at sea level!",
    "It depends on the pressure.",
]
MEANINGS = {
    "with refusal >= 1": "the response begins like a refusal",
    "with url_share >= 0.5": "the response is little more than links",
    "with link_phrases >= 1": "the response points to a link that it does not have",
    "with repetition >= 0.3": "the response repeats its own lines, sentences or words",
    "exact duplicates by text": "a row with the same words is kept",
}


@pytest.fixture(scope="module")
def answers():
    return Dataset.from_dict({"prompt": ["How?"] * len(ANSWERS), "completion": ANSWERS})


@pytest.fixture(scope="module")
def selection(answers):
    return select(answers, CHAIN, size=2)


def test_selection_counts_the_rows_by_reason(selection):
    assert sorted(selection.indices.tolist()) == [0, 6]
    assert selection.provenance["exclusions"] == dict.fromkeys(MEANINGS, 1)


@pytest.mark.parametrize(
    ("row", "sentences"),
    [
        (1, ["The filter 'refusal < 1' excluded it: with refusal >= 1.", "Its refusal is 1."]),
        (3, ["The filter 'link_phrases < 1' excluded it: with link_phrases >= 1.", "Its link_phrases is 1."]),
        (4, ["The filter 'repetition < 0.3' excluded it: with repetition >= 0.3.", "Its repetition is 0.89062."]),
    ],
)
def test_explanation(row, sentences, selection, answers):
    assert explain(selection, answers, row)["decided"] == sentences


def test_explanation_has_the_phrase_of_a_refusal(selection, answers):
    scored = score(answers, Refusal())
    by_column = select(scored, Chain([InRange("refusal", high=1)], Random()), size=2)
    for explanation in (explain(selection, answers, 1), explain(by_column, scored, 1)):
        assert explanation["scores"][0]["texts"] == {"refusal_phrase": "as an AI language model"}
        assert "  refusal: 1, refusal_phrase 'as an AI language model', rank 1 of 7; sel" in explanation_text(
            explanation
        )
    assert explain(selection, answers, 0)["scores"][0]["texts"] == {}


def test_filters_are_described_in_a_few_words():
    assert describe_setting(CHAIN.spec()) == (
        "Random after filters: refusal < 1, url_share < 0.5, link_phrases < 1, repetition < 0.3, "
        "no near-duplicates by text (similarity of 5-grams >= 0.8)"
    )
    others = [
        InLanguage(["en", "de"]),
        TopShare("ifd", 0.4, high=1),
        InRange("ifd", 0.1),
        Decontaminate(threshold=0.5),
    ]
    assert [each.describe() for each in others] == [
        "language en or de",
        "highest 0.4 of ifd below 1",
        "ifd >= 0.1",
        "contamination <= 0.5",
    ]


def test_card_says_what_the_reasons_mean(selection, answers):
    text = page(gather([selection], answers, title="x"))
    for reason, meaning in MEANINGS.items():
        assert f"| 1 | `{reason}` | {meaning} |" in text
