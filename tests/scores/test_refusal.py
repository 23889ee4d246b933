"""Responses that begin like a refusal, and apologies and stories that do not."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.scores import Refusal, get_score
from hf_datasel.testing import contract

REFUSALS = [
    "As an AI language model, I cannot have feelings.",
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I’m not able to do that.",
    "Unfortunately,\nI AM  UNABLE TO provide legal advice.",
    "I cannot assist you with this.",
    "As an AI, I don't have access to the news.",
    "<nooutput>",
    "Sorry, this cannot be done as it needs an image.",
]
OTHERS = [
    "I'm sorry to hear that your order is late.",
    "I cannot believe it: the door was open.",
    "I can't help falling in love, and I won't give up.",
    "As an AI assistant, I am happy to help you plan it.",
    "Large language models predict words.",
    "As an AI researcher, she can't sleep.",
    "Water is wet. " * 20 + "As an AI language model, I cannot drink.",
]


def refusals(texts, **settings):
    data = Dataset.from_dict({"prompt": ["Do it."] * len(texts), "completion": texts})
    return score(data, Refusal(**settings), on_summary=str)


@contract(Refusal(), Refusal(["nope"], builtin_phrases=False, first_characters=9, column_prefix="old_"))
def test_contract(check, score, pool_rows):
    check(score, pool_rows.select(range(8)))


def test_refusals():
    assert refusals(REFUSALS)["refusal"][:] == [1] * len(REFUSALS)
    assert refusals(OTHERS)["refusal"][:] == [0] * len(OTHERS)
    assert refusals(REFUSALS)["refusal_phrase"][:2] == ["as an AI language model", "sorry, but I can't"]
    assert refusals(OTHERS, first_characters=1_000)["refusal"][:] == [0, 0, 0, 0, 0, 0, 1]


def test_own_phrases():
    texts = ["Das kann ich leider nicht.", "I cannot help you."]
    written = get_score("refusal", {"phrases": ["kann ich leider nicht"]})
    scored = score(Dataset.from_dict({"prompt": ["Hi"] * 2, "completion": texts}), written, on_summary=str)
    assert scored["refusal_phrase"][:] == ["kann ich leider nicht", "I cannot help you"]
    assert refusals(texts, phrases=["kann ich leider nicht"], builtin_phrases=False)["refusal"][:] == [1, 0]


def test_every_response_of_a_conversation_counts():
    turns = ["Hi", "Hello!", "Hack it.", "I'm sorry, but I cannot do that."]
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(turns)]
    data = Dataset.from_dict(
        {"messages": [messages, messages[:2], [{"role": "user", "content": turns[3]}, messages[1]]]}
    )
    assert score(data, Refusal(first_characters=40), on_summary=str)["refusal"][:] == [1, 0, 0]


def test_errors():
    with pytest.raises(ConfigError, match=r"Refusal\(phrases='no'\): it has to be a list of phrases"):
        Refusal("no")
    with pytest.raises(ConfigError, match=r"has no phrases: pass phrases=\[\.\.\.\]"):
        Refusal(builtin_phrases=False)
    with pytest.raises(ConfigError, match="it has to be an int of at least 1"):
        Refusal(first_characters=0)
    with pytest.raises(FormatError, match=r"no response for Refusal\.$"):
        score(Dataset.from_dict({"text": ["a"]}), Refusal())
