"""How long rows are."""

from __future__ import annotations

import pytest
from datasets import Dataset, Value

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError, ScoreError
from hf_datasel.scores import Length


def test_words_of_all_responses():
    turns = [{"from": name, "value": text} for name, text in [("human", "a b"), ("gpt", "c  d\ne"), ("human", "f")]]
    data = Dataset.from_dict({"conversations": [[*turns, {"from": "gpt", "value": "g"}], turns[:2], turns, None]})
    scored = score(data, [Length()])
    assert scored["response_words"][:] == [4, 3, 3, None]
    assert scored.features["response_words"] == Value("int32")


def test_tokens_equal_training(tiny_model_dir, tokenizer):
    data = Dataset.from_dict({"prompt": ["Hi?\n", "a" * 50, "b"], "completion": ["Hello.", "c", ""]})
    scored = score(data, [Length("tokens", str(tiny_model_dir))])
    prompt, response = (len(tokenizer(text)["input_ids"]) for text in ("Hi?\n", "Hello."))
    assert scored[0] == {
        **data[0], "prompt_tokens": prompt, "response_tokens": response, "num_tokens": prompt + response,
        "length_reason": "",
    }  # fmt: skip
    assert scored["response_tokens"][1] == 2  # the letter and the end token
    assert (scored["num_tokens"][2], scored["length_reason"][2]) == (None, "empty_response")


def test_tokens_with_live_model(model, tokenizer, tiny_model_dir, pool_rows):
    by_name = score(pool_rows, [Length("tokens", str(tiny_model_dir))])
    live = score(pool_rows, [Length("tokens")], model=model, processing_class=tokenizer)
    assert live.to_dict() == by_name.to_dict()


def test_in_map(tiny_model_dir, pool_rows):
    score_ = Length("tokens", str(tiny_model_dir))
    mapped = pool_rows.map(score_, batched=True, batch_size=7)
    assert mapped.to_dict() == score(pool_rows, [score_]).to_dict()
    assert mapped.features["num_tokens"] == Value("int32")


def test_errors(model, pool_rows):
    with pytest.raises(ConfigError, match=r"Length\(unit='letters'\): it has to be 'words' or 'tokens'"):
        Length("letters")
    with pytest.raises(
        ConfigError, match=r"Length\(model=\.\.\.\) has to be a name or a path, and this is LlamaForCausalLM"
    ):
        Length("tokens", model)
    with pytest.raises(ScoreError, match=r"Length\(unit='tokens'\) needs the tokenizer of a model"):
        Length("tokens")(pool_rows[:2])
    with pytest.raises(FormatError, match="only a text column have no response"):
        score(Dataset.from_dict({"text": ["a"]}), [Length()])


def test_words_of_scripts_without_spaces():
    data = Dataset.from_dict({"prompt": ["?"] * 3, "completion": ["我们八点见面。", "At eight.", "八点。 OK"]})
    assert score(data, [Length()])["response_words"][:] == [6, 2, 3]
    assert Length().version == 2
