"""Expected ratings of two scorers: against whole logits, of several turns, and with awkward rows and tokenizers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError, ModelError
from hf_datasel.scores import deita_score as deita
from hf_datasel.scores.deita_score import COMPLEXITY_PROMPT, QUALITY_PROMPT, DeitaScore
from hf_datasel.scoring import logprobs as forward, models
from hf_datasel.testing import contract
from hf_datasel.tokens.prompts import encode_prompts


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


@pytest.fixture(scope="module")
def named(tiny_model_dir, tiny_text_model_dir):
    """Give a score with two small scorers, whose tokenizers differ."""
    return DeitaScore(complexity_model=str(tiny_model_dir), quality_model=str(tiny_text_model_dir))


@contract(DeitaScore(), DeitaScore(turns="mean", max_length=300, column_prefix="old_"))
def test_contract(check, score, rows, tiny_model_dir, tiny_text_model_dir):
    check(replace(score, complexity_model=str(tiny_model_dir), quality_model=str(tiny_text_model_dir)), rows)


# -- against a plain computation --------------------------------------------------------------------------------------
def plain_rating(folder, text):
    """Expected rating behind the text, from all logits of one whole forward pass."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    digits = [tokenizer.convert_tokens_to_ids(str(rating)) for rating in range(1, 7)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1, digits].double()
    chances = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
    return float(sum(rating * chance for rating, chance in enumerate(chances, 1)))


def plain(score, question, answer):
    """Complexity and quality, with prompts put together by hand."""
    complexity = (
        "You are a helpful assistant. Please identify the complexity score of the following user query. \n##Query: "
        + question
        + "  \n##Complexity: "
    )
    quality = (
        "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
        "Question. \n #Question#:\n" + question + "\n#Response#:\n" + answer + " \n##Quality: "
    )
    return plain_rating(score.complexity_model, complexity), plain_rating(score.quality_model, quality)


def test_ratings_equal_softmax(named, rows):
    scored = score(rows, [named])
    expected = []
    for row in rows:
        question = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
        expected.append(plain(named, question, row["output"]))
    np.testing.assert_allclose(scored["complexity"], [item[0] for item in expected], rtol=1e-5)
    np.testing.assert_allclose(scored["quality"], [item[1] for item in expected], rtol=1e-5)
    np.testing.assert_allclose(scored["deita"], [item[0] * item[1] for item in expected], rtol=1e-5)
    assert np.ptp(scored["deita"][:]) > 0.1
    assert set(scored["deita_reason"]) == {""}
    assert scored.features["deita"] == Value("float32")


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


SYSTEM, FIRST, SECOND = ("system", "Be brief."), [("user", "Hi"), ("assistant", "Hello!")], [("user", "And now?")]


@pytest.mark.parametrize("turns", ["sum", "mean"])
def test_several_turns(named, turns):
    data = Dataset.from_dict({"messages": [chat(SYSTEM, *FIRST, *SECOND, ("assistant", "Bye.")), chat(*FIRST)]})
    scored = score(data, [replace(named, turns=turns)])
    first, second = plain(named, "Hi", "Hello!"), plain(named, "And now?", "Bye.")
    products = [first[0] * first[1], second[0] * second[1]]
    assert products[0] != pytest.approx(products[1])
    np.testing.assert_allclose(
        scored["deita"], [sum(products) / (2 if turns == "mean" else 1), products[0]], rtol=1e-5
    )
    np.testing.assert_allclose(scored["complexity"], [(first[0] + second[0]) / 2, first[0]], rtol=1e-5)
    np.testing.assert_allclose(scored["quality"], [(first[1] + second[1]) / 2, first[1]], rtol=1e-5)


def test_context_answers_are_not_rated(named):
    data = Dataset.from_dict({"prompt": [chat(*FIRST, *SECOND)], "completion": [chat(("assistant", "Bye."))]})
    complexity, quality = plain(named, "And now?", "Bye.")
    assert score(data, [named])["deita"][0] == pytest.approx(complexity * quality, rel=1e-5)


def test_answer_to_tool(named):
    turns = [("user", "How warm?"), ("assistant", "call()"), ("tool", "20"), ("assistant", "Mild.")]
    scored = score(Dataset.from_dict({"messages": [chat(*turns)]}), [replace(named, turns="mean")])
    item = [plain(named, "How warm?", "call()"), plain(named, "20", "Mild.")]
    assert scored["deita"][0] == pytest.approx(np.mean([one * other for one, other in item]), rel=1e-5)


# -- rows -------------------------------------------------------------------------------------------------------------
def test_braces_in_rows_are_text(named):
    question, answer = "Fill {output} and {instruction} in {0} {x!r} {", r"\1 {instruction} \g<0> }}"
    data = Dataset.from_dict({"prompt": [question], "completion": [answer]})
    scored = score(data, [named])
    np.testing.assert_allclose(
        [scored["complexity"][0], scored["quality"][0]], plain(named, question, answer), rtol=1e-5
    )


def test_long_turns(named):
    long = "word " * 400
    data = Dataset.from_dict({"prompt": ["Say it.", long, "Say it."], "completion": [long, "Yes.", "Yes."]})
    scored = score(data, [replace(named, max_length=300)], on_summary=str)
    assert scored["deita_reason"][:] == ["", "prompt_fills_window", ""]
    assert [item is None for item in scored["deita"]] == [False, True, False]
    assert scored["complexity"][0] == scored["complexity"][2]
    tokenizer = AutoTokenizer.from_pretrained(named.quality_model)
    [cut] = deita._PromptTemplate(tokenizer, QUALITY_PROMPT, 300).encode_rows([("Say it.", long)])
    assert 280 <= len(cut) <= 300
    text = tokenizer.decode(cut)
    assert text.endswith(" \n##Quality: ")
    assert "#Question#:\nSay it.\n#Response#:\nword word" in text


def test_one_long_turn_excludes_the_row(named):
    data = Dataset.from_dict({"messages": [chat(*FIRST, ("user", "word " * 2000), ("assistant", "No."))]})
    scored = score(data, [named], on_summary=str)
    assert (scored["deita"][0], scored["deita_reason"][0]) == (None, "prompt_fills_window")


def test_rows_are_read_in_chunks(monkeypatch, named, rows):
    full = score(rows, [named])["deita"][:]
    monkeypatch.setattr(deita, "_CHUNK_ROWS", 3)
    np.testing.assert_allclose(score(rows, [named])["deita"], full, rtol=1e-5)


def test_rows_without_response(named):
    data = Dataset.from_dict({"prompt": ["Is it slow?"] * 2, "completion": ["  ", None]})
    scored = score(data, [named], on_summary=str)
    assert scored["deita_reason"][:] == ["empty_response"] * 2
    assert scored["deita"][:] == [None, None]
    with pytest.raises(FormatError, match="only a text column have no response to rate"):
        score(Dataset.from_dict({"text": ["a"]}), [named])


# -- tokenizers and models --------------------------------------------------------------------------------------------
def test_rating_without_token():
    from tests.scores.test_selectit import word_tokenizer

    assert deita._rating_tokens(word_tokenizer(list("123456"))).tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ModelError, match="has no single token for '4', '6', so that"):
        deita._rating_tokens(word_tokenizer(["1", "2", "3", " 4", "5", "66"]))


def test_tokenizer_end_token_is_ignored():
    from tests.scores.test_selectit import word_tokenizer

    ending = word_tokenizer(["a", "1", "</s>"], ending="</s>")
    assert encode_prompts(ending, ["a", "1"]) == [[1], [2]]
    assert encode_prompts(word_tokenizer(["a", "1"]), ["a"]) == [[1]]


def test_max_length_above_scorer_limit(named, rows):
    with pytest.raises(ModelError, match=r"DeitaScore\(max_length=5000\) is more than the 1,024 tokens"):
        score(rows, [replace(named, max_length=5000)])


def test_one_scorer_in_memory(monkeypatch, named, rows):
    read, asked = models.load_model, []
    monkeypatch.setattr(models, "load_model", lambda loading: asked.append(loading.name) or read(loading))
    score(rows, [named])
    assert asked == [named.complexity_model, named.quality_model]


def test_second_run_reads_the_store(monkeypatch, named, rows, tmp_path):
    first = score(rows, [named], store=tmp_path)["deita"][:]

    def refuse(*args):
        raise AssertionError("a forward pass is run")

    monkeypatch.setattr(forward.LogprobRunner, "hidden", refuse)
    assert score(rows, [named], store=tmp_path)["deita"][:] == first


def test_spec_and_pickle_hold_both_scorers(named):
    spec = json.loads(json.dumps(named.spec()))
    assert spec["resolved_complexity_model"][:6] == spec["resolved_quality_model"][:6] == "files:"
    assert spec["resolved_complexity_model"] != spec["resolved_quality_model"]
    assert spec["resolved_quality_model"] in named._identity()
    assert spec["complexity_prompt"] == COMPLEXITY_PROMPT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "a"}, "DeitaScore runs two scorers"),
        ({"revision": "a"}, "DeitaScore runs two scorers"),
        ({"turns": "summ"}, "Did you mean 'sum'"),
        ({"complexity_model": None}, r"complexity_model=None\): it has to be a name"),
        ({"complexity_prompt": "Rate!"}, r"with \{instruction\} in it"),
        ({"quality_prompt": "Rate {instruction}!"}, r"with \{instruction\} and \{output\} in it"),
        ({"max_length": 1}, "max_length has to be an int of at least 2"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        DeitaScore(**settings)
