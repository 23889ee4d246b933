"""Ratings weighed by confidence: published numbers, the next token the slow way, and awkward tokenizers and rows."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Value

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Pool, canonical_rows, convert_pool
from hf_datasel.scores import Loss, SelectIT, selectit
from hf_datasel.scores.selectit import model_scores, rating_probabilities, sentence_scores, token_scores
from hf_datasel.scoring import models
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.rating_prompts import RATING_PROMPTS, RatingPrompts, RatingRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.testing import contract
from hf_datasel.tokens import PreparedDataset, TokenSettings, prepare_dataset
from hf_datasel.tokens.sequences import RaggedArray

SHORT = ("Good? 1 to {ratings}.", "Useful? 1 to {ratings}.")
SEVERAL = SelectIT(level="model", parameters=1, models=[("to be named", 3)], prompts=SHORT)


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


@contract(SelectIT(), SelectIT(level="token", ratings=3, max_length=240, column_prefix="old_"))
def test_contract(check, score, rows, tiny_model_dir):
    check(score, rows, tiny_model_dir)


@contract(SelectIT(prompts=SHORT))
def test_contract_without_a_chat_template(check, score, rows, tiny_text_model_dir):
    check(score, rows, tiny_text_model_dir)


@contract(SEVERAL)
def test_contract_of_several_models(check, score, rows, tiny_model_dir, tiny_text_model_dir):
    named = replace(score, model=str(tiny_model_dir), models=((str(tiny_text_model_dir), 3),))
    check(named, rows, tiny_model_dir)


# -- published numbers ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published(shared):
    """Give logits of ratings by 3 models, for 40 rows and 5 prompts, and what the authors' code made of them."""
    return np.load(shared / "golden" / "selectit.npz")


def best(scores, count=8):
    return np.argsort(-scores, kind="stable")[:count].tolist()


def test_published_token_level(published):
    result = token_scores(rating_probabilities(published["score_token_logits"]))[0, :, 0]
    np.testing.assert_allclose(result, published["token_level_model0_prompt0"], atol=1e-6)
    assert best(result) == published["order_token"].tolist()


def test_published_sentence_level(published):
    tokens = token_scores(rating_probabilities(published["score_token_logits"]))
    result = sentence_scores(tokens, alpha=0.2)
    np.testing.assert_allclose(result, published["sentence_level"], atol=1e-6)
    assert best(result[0]) == published["order_sentence_model0"].tolist()
    assert np.abs(sentence_scores(tokens, alpha=0.0) - published["sentence_level"]).max() > 0.01


def test_published_model_level(published):
    sentences = sentence_scores(token_scores(rating_probabilities(published["score_token_logits"])), alpha=0.2)
    np.testing.assert_allclose(model_scores(sentences, [7, 13, 70]), published["model_level_paper_weights"], atol=1e-6)
    # the weights of the published script, which sum to 1.78: the same order comes from sizes in that proportion
    script = [7 / 20, 13 / 20, 70 / 90]
    result = model_scores(sentences, script)
    np.testing.assert_allclose(result * sum(script), published["model_level_code_weights"], atol=1e-6)
    assert best(result) == published["order_model"].tolist()


def test_only_rating_tokens_count(published):
    ratings, other = published["score_token_logits"], published["other_token_logit"]
    full = torch.from_numpy(np.concatenate([ratings, other[..., None]], axis=-1)).log_softmax(dim=-1).numpy()
    np.testing.assert_allclose(rating_probabilities(full[..., :5]), rating_probabilities(ratings), atol=1e-6)


def test_arithmetic():
    e = np.e
    np.testing.assert_allclose(token_scores(np.array([0.0, 0.0, 1.0])), 3 * (e - 1) / (e + 2))
    assert token_scores(np.full((2, 5), 0.2)).tolist() == [0.0, 0.0]
    tied = np.array([0.1, 0.4, 0.4, 0.1])
    np.testing.assert_allclose(token_scores(tied), 2 * 2 * (e**0.4 - e**0.1) / (2 * e**0.4 + 2 * e**0.1) / 3)
    np.testing.assert_allclose(sentence_scores(np.array([1.0, 2.0, 3.0]), 0.5), 2 / (1 + 0.5 * np.sqrt(2 / 3)))
    assert rating_probabilities(np.array([1000.0, 0.0])).tolist() == [1.0, 0.0]
    assert np.isnan(rating_probabilities(np.array([np.nan, 0.0]))).all()


# -- against a plain computation --------------------------------------------------------------------------------------
def plain_chances(model, tokenizer, text, ratings=5):
    """Probability of each digit after the text, by one whole forward pass."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    digits = [tokenizer.convert_tokens_to_ids(str(rating)) for rating in range(1, ratings + 1)]
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([ids])).logits[0, -1].float().softmax(dim=-1)[digits]
    return (chances / chances.sum()).double().numpy()


def asked(prompt, response, question):
    return (
        f"<|im_start|>user\n### Task\n{prompt}\n\n### Answer\n{response}\n\n### Question\n"
        f"{question.replace('{ratings}', '5')}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_probabilities_equal_reference(model, tokenizer, rows):
    request = RatingPrompts(tokenizer, 5)
    read = canonical_rows(rows[:])
    contexts = [item for prompt in RATING_PROMPTS for item in request.encode_rows(read, prompt, None)[0]]
    rater = RatingRunner(ModelRunner(model, tokens_per_batch=900), request.tokens)
    result = rating_probabilities(rater.rate(RaggedArray([contexts]), "ratings"))
    assert rater._backend == rater._by_head  # not one row at a time
    expected = [
        plain_chances(model, tokenizer, asked(row.turns[0].content, row.response, prompt))
        for prompt in RATING_PROMPTS
        for row in read
    ]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.ptp(result, axis=0).min() > 1e-3


def test_scores_equal_reference(model, tokenizer, rows):
    chances = np.array([
        [plain_chances(model, tokenizer, asked(row.turns[0].content, row.response, item)) for item in RATING_PROMPTS]
        for row in canonical_rows(rows[:])
    ])  # fmt: skip
    tokens = token_scores(chances)
    for level, expected in (("token", tokens[:, 0]), ("sentence", sentence_scores(tokens, 0.2))):
        scored = score(rows, [SelectIT(level=level)], model=model, processing_class=tokenizer)
        np.testing.assert_allclose(scored["selectit"], expected, rtol=1e-4)
        assert scored.features["selectit"] == Value("float32")
        assert set(scored["selectit_reason"]) == {""}


def test_model_with_scaled_logits(model, tokenizer, rows, caplog):
    plain = score(rows, [SelectIT()], model=model, processing_class=tokenizer)["selectit"][:]
    forward = type(model).forward

    class Scaled(type(model)):
        def forward(self, **inputs):
            out = forward(self, **inputs)
            out.logits = out.logits * 0.5
            return out

    model.__class__ = Scaled
    result = score(rows, [SelectIT()], model=model, processing_class=tokenizer)["selectit"][:]
    assert "not only its LM head's" in caplog.text
    assert not np.allclose(result, plain, rtol=1e-2)
    row = canonical_rows(rows[:1])[0]
    text = [asked(row.turns[0].content, row.response, item) for item in RATING_PROMPTS]
    chances = np.array([plain_chances(model, tokenizer, item) for item in text])
    np.testing.assert_allclose(result[0], sentence_scores(token_scores(chances), 0.2), rtol=1e-4)


def test_rating_after_space_without_chat_template(tiny_text_model_dir, rows):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_text_model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    row = canonical_rows(rows[:1])[0]
    question = RATING_PROMPTS[0].replace("{ratings}", "5")
    text = f"### Task\n{row.prompt}\n\n### Answer\n{row.response}\n\n### Question\n{question}\n\nRating:"
    spaced = [tokenizer(f" {rating}")["input_ids"] for rating in range(1, 6)]
    assert {len(item) for item in spaced} == {2}  # the space is a token of its own here
    chances = plain_chances(model, tokenizer, f"{text} ")
    scored = score(rows.select([0]), [SelectIT(level="token")], model=model, processing_class=tokenizer)
    np.testing.assert_allclose(scored["selectit"], [token_scores(chances)], rtol=1e-4)


@pytest.mark.parametrize("level", ["token", "sentence"])
def test_batch_size_invariance(model, tokenizer, pool_rows, level):
    one, many = (
        score(
            pool_rows,
            [SelectIT(level=level)],
            model=model,
            processing_class=tokenizer,
            scoring_tokens_per_batch=tokens,
        )
        for tokens in (1, 100_000)
    )
    np.testing.assert_allclose(one["selectit"], many["selectit"], rtol=1e-5)


def test_rows_are_read_in_chunks(monkeypatch, model, tokenizer, rows):
    full = score(rows, [SelectIT()], model=model, processing_class=tokenizer)["selectit"]
    monkeypatch.setattr(selectit, "_CHUNK_ROWS", 3)
    result = score(rows, [SelectIT()], model=model, processing_class=tokenizer)["selectit"]
    np.testing.assert_allclose(result, full, rtol=1e-5)


def test_subset_of_rows(model, tokenizer, pool_rows):
    full = score(pool_rows, [SelectIT()], model=model, processing_class=tokenizer)["selectit"]
    pool, some = Pool(pool_rows), np.array([20, 3, 11])
    prepared = PreparedDataset(
        prepare_dataset(convert_pool(pool, True), tokenizer, TokenSettings()), tokenizer, TokenSettings()
    )
    for created in (None, prepared):
        engine = Engine(pool, model, tokenizer, settings=TokenSettings(), prepared=created)
        result = engine.compute(SelectIT(), some)["selectit"].to_numpy()
        np.testing.assert_allclose(result, np.array(full)[some], rtol=1e-5)


def test_token_level_uses_first_prompt(model, tokenizer, rows):
    both = [
        score(rows, [SelectIT(level="token", prompts=prompts)], model=model, processing_class=tokenizer)["selectit"][:]
        for prompts in (RATING_PROMPTS, RATING_PROMPTS[:1])
    ]
    assert both[0] == both[1]


# -- several models ---------------------------------------------------------------------------------------------------
def test_models_are_weighted_by_size(tiny_model_dir, tiny_text_model_dir, rows):
    names = [str(tiny_model_dir), str(tiny_text_model_dir)]
    alone = [score(rows, [SelectIT(name)])["selectit"] for name in names]
    both = score(rows, [SelectIT(names[0], level="model", parameters=1e9, models=[(names[1], 3e9)])])
    np.testing.assert_allclose(both["selectit"], 0.25 * np.array(alone[0]) + 0.75 * np.array(alone[1]), rtol=1e-5)


def test_one_model_in_memory(monkeypatch, tiny_model_dir, tiny_text_model_dir, rows):
    names = [str(tiny_model_dir), str(tiny_text_model_dir)]
    read, memory = models.load_model, []

    def counted(loading):
        gc.collect()
        assert [item for item in memory if item() is not None] == []
        memory.append(weakref.ref(model := read(loading)))
        return model

    monkeypatch.setattr(models, "load_model", counted)
    score(rows, [Loss(names[1]), SelectIT(names[0], level="model", parameters=1, models=((names[1], 3),))])
    assert len(memory) == 3


def test_spec_and_pickle_hold_all_models(tiny_model_dir, tiny_text_model_dir):
    both = SelectIT(str(tiny_model_dir), level="model", parameters=1, models=((str(tiny_text_model_dir), 3),))
    spec = both.spec()
    assert [spec["resolved_model"][:6], *(item[:6] for item in spec["resolved_models"])] == ["files:"] * 2
    assert spec["resolved_model"] != spec["resolved_models"][0]
    assert spec["resolved_models"][0] in both._identity()
    assert json.loads(json.dumps(spec))["prompts"] == list(RATING_PROMPTS)


# -- rows -------------------------------------------------------------------------------------------------------------
def test_rows_without_response(model, tokenizer):
    data = Dataset.from_dict({"prompt": ["Is it slow?"] * 3, "completion": ["Yes.", "  ", None]})
    scored = score(data, [SelectIT()], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["selectit_reason"][:] == ["", "empty_response", "empty_response"]
    assert [value is None for value in scored["selectit"]] == [False, True, True]
    none = score(data.select([1, 2]), [SelectIT()], model=model, processing_class=tokenizer, on_summary=str)
    assert none["selectit"][:] == [None, None]


def test_long_rows(model, tokenizer):
    long = "word " * 400
    data = Dataset.from_dict({"prompt": ["Say it.", long], "completion": [long, "Yes."]})
    limit = 300
    scored = score(data, [SelectIT(max_length=limit)], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["selectit_reason"][:] == ["", "prompt_fills_window"]
    assert scored["selectit"][0] is not None
    request = RatingPrompts(tokenizer, 5)
    [full], _ = request.encode_rows(canonical_rows(data[:1]), RATING_PROMPTS[0], None)
    [cut], reasons = request.encode_rows(canonical_rows(data[:1]), RATING_PROMPTS[0], limit)
    assert reasons == [""]
    assert limit - 20 <= len(cut) <= limit < len(full)
    text = tokenizer.decode(cut)
    assert text.endswith("number alone.<|im_end|>\n<|im_start|>assistant\n")
    assert "### Task\nSay it.\n\n### Answer\nword word" in text


def test_last_response_is_rated(tokenizer):
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "Ciao.")]
    chat = [{"role": role, "content": content} for role, content in turns]
    [context], _ = RatingPrompts(tokenizer, 5).encode_rows(
        canonical_rows({"messages": [chat]}), RATING_PROMPTS[0], None
    )
    before = "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello!\n\nUser: Bye"
    assert tokenizer.decode(context) == asked(before, "Ciao.", RATING_PROMPTS[0])


def test_text_rows_are_rejected(model, tokenizer):
    with pytest.raises(FormatError, match="only a text column have no response to rate"):
        score(Dataset.from_dict({"text": ["a"]}), [SelectIT()], model=model, processing_class=tokenizer)


# -- tokenizers -------------------------------------------------------------------------------------------------------
def word_tokenizer(words, ending=None):
    """A tokenizer of whole words, of which each space goes with the word behind it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["<unk>", *words])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s?\w+|\s?[^\w\s]|\s"), "isolated")
    if ending:
        ids = [(ending, backend.token_to_id(ending))]
        backend.post_processor = processors.TemplateProcessing(single=f"$A {ending}", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_rating_tokens_with_space_and_end():
    tokenizer = word_tokenizer(["1", "2", "3", " 1", " 2", " 3", "</s>"], ending="</s>")
    request = RatingPrompts(tokenizer, 3)
    assert request.tokens.tolist() == [4, 5, 6]
    [context], _ = request.encode_rows(canonical_rows({"prompt": ["a"], "completion": ["b"]}), "Good?", None)
    assert tokenizer("</s>")["input_ids"][-1] not in context.tolist()


@pytest.mark.parametrize("words", [[" 1", " 2"], ["1", "2", "3"]])
def test_ratings_without_single_tokens(words):
    with pytest.raises(ModelError, match="does not encode the ratings 1 to 4 as one token each"):
        RatingPrompts(word_tokenizer(words), 4)


def test_chat_template_error(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no questions here') }}"
    with pytest.raises(ModelError, match=r"cannot render a question and its answer.*no questions here"):
        RatingPrompts(tokenizer, 5)


def test_chat_template_without_answer(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ModelError, match="does not encode the ratings 1 to 5 as one token each"):
        RatingPrompts(tokenizer, 5)


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "sentense"}, r"SelectIT\(level='sentense'\).*Did you mean 'sentence'\?"),
        ({"ratings": 1}, r"SelectIT\(ratings=1\): it has to be an int from 2 to 9"),
        ({"ratings": 10}, r"SelectIT\(ratings=10\): it has to be an int from 2 to 9"),
        ({"ratings": True}, r"SelectIT\(ratings=True\): it has to be an int from 2 to 9"),
        ({"alpha": -0.1}, r"SelectIT\(alpha=-0.1\): it has to be a number of at least 0"),
        ({"alpha": float("nan")}, r"SelectIT\(alpha=nan\): it has to be a number of at least 0"),
        ({"prompts": "Good?"}, r"SelectIT\(prompts='Good\?'\): it has to be a list of texts"),
        ({"prompts": ["Good?", " "]}, "it has to be a list of texts that are not empty"),
        ({"prompts": ["Good?", "Good?"]}, "holds a prompt twice"),
        ({"prompts": ["Good?"]}, r"SelectIT\(level='sentence'\) needs at least 2 prompts, and has 1"),
        ({"level": "token", "prompts": []}, r"SelectIT\(level='token'\) needs at least 1 prompts, and has 0"),
        ({"models": [("a", 1)]}, "models and parameters are for level='model', and level is 'sentence'"),
        ({"level": "token", "parameters": 7}, "models and parameters are for level='model', and level is 'token'"),
        ({"level": "model", "parameters": 7}, r"SelectIT\(level='model'\) needs further models"),
        ({"level": "model", "models": [("a", 1)]}, r"SelectIT\(parameters=None\): level='model' weights models"),
        ({"level": "model", "models": [("a", 1)], "parameters": 0}, r"SelectIT\(parameters=0\): level='model'"),
        ({"level": "model", "models": ["a"], "parameters": 1}, "it has to hold pairs of a name or path and a size"),
        (
            {"level": "model", "models": [("a", 0)], "parameters": 1},
            "it has to hold pairs of a name or path and a size",
        ),
        ({"level": "model", "models": {"a": 1}, "parameters": 1}, "it has to hold pairs of a name or path and a size"),
        ({"level": "model", "model": "a", "models": [("a", 1)], "parameters": 1}, "names a model twice"),
        ({"max_length": 0}, "max_length has to be an int of at least 2"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        SelectIT(**settings)


def test_no_model(rows, model, tokenizer, tiny_model_dir):
    with pytest.raises(ScoreError, match=r"SelectIT\(\) has no model to run in map"):
        SelectIT()(rows[:2])
    with pytest.raises(ScoreError, match="SelectIT has no model to run"):
        score(rows, [SelectIT()])
    with pytest.raises(ScoreError, match=r"SelectIT\(level='model'\) loads its models by name"):
        several = replace(SEVERAL, models=((str(tiny_model_dir), 3),))
        score(rows, [several], model=model, processing_class=tokenizer)
