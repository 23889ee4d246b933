"""The gap between a row's response and the model's own answer: each scorer by hand, equal answers, the store."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, ModelError, ScoreError
from hf_datasel.formats import Pool, canonical_rows, convert_pool
from hf_datasel.scores.judge import Judge
from hf_datasel.scores.reward import Reward
from hf_datasel.scores.reward_gap import RewardGap, log_perplexities
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.logprobs import LogprobRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.selectors import Top
from hf_datasel.spec import to_spec
from hf_datasel.testing import contract
from hf_datasel.tokens import PreparedDataset, TokenRows, TokenSettings, prepare_dataset
from hf_datasel.tokens.chat import prompt_and_response
from hf_datasel.tokens.sequences import RaggedArray

NEW = 8
PERPLEXITY = RewardGap(scorer="perplexity", max_new_tokens=NEW)
REWARD = RewardGap(reward_model="to be named", max_new_tokens=NEW)
JUDGE = RewardGap(scorer="judge", judge={"model": "j", "base_url": "http://localhost:1/v1"}, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(6))


@contract(RewardGap(scorer="perplexity", max_new_tokens=NEW))
def test_contract(check, score, rows, tiny_model_dir):
    check(score, rows, tiny_model_dir)


@contract(replace(REWARD, temperature=1.0, column_prefix="old_"))
def test_contract_with_a_reward_model(check, score, rows, tiny_model_dir, reward_dir):
    check(replace(score, reward_model=reward_dir), rows, tiny_model_dir)


# -- by hand ----------------------------------------------------------------------------------------------------------
def own_answers(model, tokenizer, data):
    """The rows' prompts and the model's answers to them, as tokens and as text."""
    prompts = Prompts.from_rows(TokenRows(Pool(data), tokenizer))
    generator = Generator(ModelRunner(model, progress=False), tokenizer, Decoding(NEW))
    answers = generator.answers(prompts.prompt_ids)
    return prompts, [answers[number] for number in range(len(answers))], list(generator.texts(answers))


def perplexity(model, ids):
    """exp of the mean NLL of all tokens but the first, by the model's own loss."""
    batch = torch.tensor([list(map(int, ids))])
    with torch.no_grad():
        return model(input_ids=batch, labels=batch).loss.double().exp().item()


def test_perplexity_is_equation_7(model, tokenizer, rows):
    prompts, answers, _ = own_answers(model, tokenizer, rows)
    scored = score(rows, [PERPLEXITY], model=model, processing_class=tokenizer)
    expected = [
        -np.log(
            perplexity(model, [*prompts.prompt_ids[number], *answers[number]])
            / perplexity(model, prompts.full_ids[number])
        )
        for number in range(len(rows))
    ]
    np.testing.assert_allclose(scored["reward_gap"], expected, atol=1e-5)
    assert scored.features["reward_gap"] == Value("float32")
    assert set(scored["reward_gap_reason"]) == {""}
    assert np.mean(expected) > 0  # the model expects its own answers more than the rows'


def test_log_perplexities_of_a_known_model(monkeypatch, model):
    """Losses of 1, 2, ... nats: the mean over n - 1 tokens is n / 2."""

    def losses(self, forward):
        return [torch.arange(1, len(item.scored) + 1).float() for item in forward.batch]

    monkeypatch.setattr(LogprobRunner, "losses", losses)
    texts = RaggedArray([[np.arange(length) for length in (2, 5, 9)]])
    assert log_perplexities(ModelRunner(model, progress=False), texts, "x").tolist() == [1.0, 2.5, 4.5]


def own_reward(folder, row, answer):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": turn.role, "content": turn.content} for turn in row.turns[:-1]]
    ids = tokenizer.apply_chat_template(
        [*chat, {"role": "assistant", "content": answer}], tokenize=True, return_dict=True
    )["input_ids"]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.item()


def test_gap_of_rewards(model, tokenizer, rows, reward_dir):
    _, _, texts = own_answers(model, tokenizer, rows)
    scored = score(rows, [replace(REWARD, reward_model=reward_dir)], model=model, processing_class=tokenizer)
    expected = [
        own_reward(reward_dir, row, row.response) - own_reward(reward_dir, row, text)
        for row, text in zip(canonical_rows(rows[:]), texts, strict=True)
    ]
    np.testing.assert_allclose(scored["reward_gap"], expected, atol=1e-5)
    assert np.abs(expected).min() > 1e-4


def test_response_reward_equals_row_reward(monkeypatch, model, tokenizer, rows, reward_dir):
    monkeypatch.setattr(Generator, "texts", lambda self, answers: ["Constant."] * len(answers))
    result = score(rows, [replace(REWARD, reward_model=reward_dir)], model=model, processing_class=tokenizer)[
        "reward_gap"
    ]
    rewards = np.array(score(rows, [Reward(reward_dir)])["reward"][:])
    constant = [own_reward(reward_dir, row, "Constant.") for row in canonical_rows(rows[:])]
    np.testing.assert_allclose(result, rewards - constant, atol=1e-5)


def test_a_judge_rates_both(monkeypatch, model, tokenizer, rows):
    asked = []

    def rate(self, pairs, runner):
        asked.append((self, list(pairs)))
        ratings = np.array([float(len(response) % 7) for _, response in pairs])
        ratings[2] = np.nan
        ratings[len(pairs) // 2 + 3] = np.nan
        return ratings, ["refused" if index == 2 else "no_answer" if np.isnan(item) else "" for index, item in
                         enumerate(ratings)]  # fmt: skip

    monkeypatch.setattr(Judge, "rate", rate)
    _, _, texts = own_answers(model, tokenizer, rows)
    scored = score(rows, [JUDGE], model=model, processing_class=tokenizer, on_summary=str)
    read = canonical_rows(rows[:])
    [(judge, pairs)] = asked
    assert judge == Judge("j", base_url="http://localhost:1/v1")
    assert pairs == [prompt_and_response(row) for row in read] + [
        (row.turns[0].content, text) for row, text in zip(read, texts, strict=True)
    ]
    expected = [len(row.response) % 7 - len(text) % 7 for row, text in zip(read, texts, strict=True)]
    assert scored["reward_gap"][:] == [*expected[:2], None, None, *expected[4:]]
    assert scored["reward_gap_reason"][:] == ["", "", "refused", "no_answer", "", ""]


# -- equal answers, and none ------------------------------------------------------------------------------------------
def answer_with(monkeypatch, tokenizer, responses):
    """Let the model answer with these texts, one a row."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in responses]
    monkeypatch.setattr(Generator, "answers", lambda self, prompts, *args: RaggedArray([ids]))


def test_equal_answer_has_gap_0(monkeypatch, model, tokenizer, rows, reward_dir):
    answer_with(monkeypatch, tokenizer, rows["output"])
    for item in (PERPLEXITY, replace(REWARD, reward_model=reward_dir)):
        result = score(rows, [item], model=model, processing_class=tokenizer)["reward_gap"]
        np.testing.assert_allclose(result, 0, atol=1e-6)


def test_empty_answer(monkeypatch, model, tokenizer, rows, reward_dir):
    answer_with(monkeypatch, tokenizer, ["", "It is."])
    two = rows.select([0, 1])
    scored = score(two, [PERPLEXITY], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["reward_gap_reason"][:] == ["empty_generation", ""]
    assert [value is None for value in scored["reward_gap"]] == [True, False]
    rated = score(two, [replace(REWARD, reward_model=reward_dir)], model=model, processing_class=tokenizer)
    row = canonical_rows(two[:])[0]
    expected = own_reward(reward_dir, row, row.response) - own_reward(reward_dir, row, "")
    np.testing.assert_allclose(rated["reward_gap"][0], expected, atol=1e-5)


def test_all_answers_empty(monkeypatch, model, tokenizer, rows):
    answer_with(monkeypatch, tokenizer, [""] * 6)
    scored = score(rows, [PERPLEXITY], model=model, processing_class=tokenizer, on_summary=str)
    assert set(scored["reward_gap_reason"]) == {"empty_generation"}


def test_rows_without_response_or_room(model, tokenizer, reward_dir):
    data = Dataset.from_dict({"prompt": ["Is it slow?", "a", "word " * 300], "completion": ["Yes.", None, "No."]})
    for item in (PERPLEXITY, replace(REWARD, reward_model=reward_dir)):
        scored = score(data, [replace(item, max_length=200)], model=model, processing_class=tokenizer, on_summary=str)
        assert scored["reward_gap_reason"][:] == ["", "empty_response", "prompt_fills_window"]
        none = score(data.select([1]), [item], model=model, processing_class=tokenizer, on_summary=str)
        assert none["reward_gap"][:] == [None]
    scored = score(
        data, [replace(PERPLEXITY, max_new_tokens=1020)], model=model, processing_class=tokenizer, on_summary=str
    )
    assert scored["reward_gap_reason"][0] == "prompt_fills_window"  # 1,024 positions


# -- models -----------------------------------------------------------------------------------------------------------
def test_subset_with_trainer_model(model, tokenizer, pool_rows):
    full = score(pool_rows, [PERPLEXITY], model=model, processing_class=tokenizer)["reward_gap"][:]
    pool, some = Pool(pool_rows), np.array([20, 3, 11])
    prepared = PreparedDataset(
        prepare_dataset(convert_pool(pool, True), tokenizer, TokenSettings()), tokenizer, TokenSettings()
    )
    model.train()
    for created in (None, prepared):
        engine = Engine(pool, model, tokenizer, settings=TokenSettings(), prepared=created)
        result = engine.compute(PERPLEXITY, some)["reward_gap"].to_numpy()
        np.testing.assert_allclose(result, np.array(full)[some], atol=1e-5)
    assert model.training


def test_reward_model_is_freed(monkeypatch, model, tokenizer, rows, reward_dir):
    from hf_datasel.scoring import models

    read, memory = models.load_model, []
    monkeypatch.setattr(models, "load_model", lambda loading: memory.append(weakref.ref(got := read(loading))) or got)
    first = score(rows, [replace(REWARD, reward_model=reward_dir)], model=model, processing_class=tokenizer)
    again = score(rows, [replace(REWARD, reward_model=reward_dir)], model=model, processing_class=tokenizer)
    assert first["reward_gap"][:] == again["reward_gap"][:]
    gc.collect()
    assert [item() for item in memory] == [None, None]


def test_continuous_batching_is_recorded(model, tokenizer, rows):
    plain = score(rows, [PERPLEXITY], model=model, processing_class=tokenizer)["reward_gap"][:]
    gap = replace(PERPLEXITY, use_transformers_continuous_batching=True)
    selection = select(rows, Top(by=gap), size=3, model=model, processing_class=tokenizer)
    np.testing.assert_allclose(selection.scores("reward_gap"), plain, atol=1e-5)
    assert selection.provenance["scores"][0]["use_transformers_continuous_batching"] is True


def test_second_run_reads_the_store(monkeypatch, tmp_path, tiny_model_dir, rows, reward_dir):
    from transformers import LlamaForCausalLM, LlamaModel

    calls = []
    for kind in (LlamaModel, LlamaForCausalLM):
        forward = kind.forward
        monkeypatch.setattr(
            kind, "forward", lambda self, *args, run=forward, **more: calls.append(1) or run(self, *args, **more)
        )
    both = [
        replace(REWARD, model=str(tiny_model_dir), reward_model=reward_dir),
        replace(PERPLEXITY, model=str(tiny_model_dir), column_prefix="ppl_"),
    ]
    first = score(rows, both, store=tmp_path)
    assert calls
    calls.clear()
    second = score(rows, both, store=tmp_path)
    assert calls == []
    for name in ("reward_gap", "ppl_reward_gap"):
        assert second[name][:] == first[name][:]


def test_spec_and_pickle_hold_both_models(tiny_model_dir, reward_dir):
    gap = replace(REWARD, model=str(tiny_model_dir), reward_model=reward_dir)
    spec = json.loads(json.dumps(gap.spec()))
    assert spec["resolved_reward_model"][:6] == spec["resolved_model"][:6] == "files:"
    assert spec["resolved_reward_model"] != spec["resolved_model"]
    assert spec["resolved_reward_model"] in gap._identity()


def test_tokens_of_either_model_are_in_no_record(monkeypatch, tiny_model_dir):
    monkeypatch.setattr("hf_datasel.scores.reward_gap.model_identity", lambda *args: "files:0")
    kwargs = {"token": "hf_secret", "use_auth_token": "hf_secret", "attn_implementation": "eager"}
    gap = replace(REWARD, model=str(tiny_model_dir), model_init_kwargs=kwargs, reward_init_kwargs=kwargs)
    for record in (gap.spec(), to_spec(gap)):
        assert record["model_init_kwargs"] == record["reward_init_kwargs"] == {"attn_implementation": "eager"}
    assert "hf_secret" not in str(Top(by=gap).spec())


def test_causal_model_is_rejected(model, tokenizer, rows, tiny_model_dir):
    with pytest.raises(ModelError, match="is a LlamaForCausalLM without the head of a reward model"):
        score(rows, [replace(REWARD, reward_model=str(tiny_model_dir))], model=model, processing_class=tokenizer)
    with pytest.raises(ScoreError, match="RewardGap has no model to run"):
        score(rows, [PERPLEXITY])


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "perplexiti"}, r"RewardGap\(scorer='perplexiti'\).*Did you mean 'perplexity'\?"),
        ({}, r"RewardGap\(scorer='reward'\) needs a reward model"),
        ({"scorer": "judge", "reward_model": "x"}, r"reward_model=\.\.\.\) is for scorer='reward', and scorer is 'ju"),
        ({"scorer": "perplexity", "judge": {}}, r"judge=\.\.\.\) is for scorer='judge', and scorer is 'perplexity'"),
        ({"scorer": "judge"}, r"RewardGap\(judge=\.\.\.\): scorer='judge' needs the settings of Judge"),
        ({"scorer": "judge", "judge": {"temperature": 0}}, "needs the settings of Judge, its model at least"),
        ({"scorer": "judge", "judge": {"model": "x", "rating": 5}}, r"has 'rating'.*Did you mean 'ratings'\?"),
        ({"scorer": "judge", "judge": {"model": "x", "ratings": 1}}, r"Judge\(ratings=1\)"),
        ({"scorer": "perplexity", "max_new_tokens": 0}, "max_new_tokens=0: it has to be an int above 0"),
        ({"scorer": "perplexity", "temperature": -1.0}, "temperature=-1.0: it has to be a number of at least 0"),
        ({"reward_model": 3}, "has to be a name or a path"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        RewardGap(**settings)
