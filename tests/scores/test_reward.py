"""Rewards of rows: the model's own output row by row, awkward padding tokens, encoders, truncation, the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Pool, canonical_rows
from hf_datasel.scores.reward import Reward, RewardRunner
from hf_datasel.scoring.engine import Engine
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenSettings
from hf_datasel.tokens.chat import ChatTokenizer, end_token_ids, prompt_and_response, replace_response


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


def save_llama(folder, tokenizer, padding, labels=1):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=padding,
        num_labels=labels,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def reward_dirs(tmp_path_factory, tiny_model_dir):
    """Give the folders of a small decoder, by its padding token: its own, EOS, one that ends each row, none."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    paddings = {"own": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id, "last": newline, "none": None}
    return {
        name: save_llama(tmp_path_factory.mktemp(f"reward_{name}"), tokenizer, padding)
        for name, padding in paddings.items()
    }


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory, tiny_text_model_dir):
    """Give the folder of a small encoder without a chat template, whose tokenizer file cuts and pads by itself."""
    folder = tmp_path_factory.mktemp("reward_bert")
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    tokenizer.model_max_length = 256
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
        initializer_range=0.4,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@contract(Reward("decoder"), Reward("decoder", max_length=48, column_prefix="old_"))
def test_contract(check, score, rows, reward_dirs):
    check(replace(score, model=reward_dirs["own"]), rows)


@contract(Reward("encoder"))
def test_contract_of_an_encoder(check, score, rows, bert_dir):
    check(replace(score, model=bert_dir), rows)


# -- against the model's own output -----------------------------------------------------------------------------------
def own_output(folder, ids, label=0):
    """What the model gives to one row, without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(map(int, ids))])).logits[0, label].item()


def shown(folder, turns):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]


def turns_of(row):
    return [(turn.role, turn.content) for turn in row.turns]


@pytest.mark.parametrize("padding", ["own", "eos", "last", "none"])
def test_batches_equal_model_output(reward_dirs, rows, padding, caplog):
    folder = reward_dirs[padding]
    scored = score(rows, [Reward(folder)], scoring_tokens_per_batch=400)
    expected = [own_output(folder, shown(folder, turns_of(row))) for row in canonical_rows(rows[:])]
    np.testing.assert_allclose(scored["reward"], expected, atol=1e-5)
    assert scored.features["reward"] == Value("float32")
    assert set(scored["reward_reason"]) == {""}
    assert np.ptp(expected) > 1e-2
    assert "one row at a time" not in caplog.text


@pytest.mark.parametrize("padding", ["own", "eos"])
def test_rows_of_padding_tokens(reward_dirs, padding):
    folder = reward_dirs[padding]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    end = tokenizer.decode([AutoModelForSequenceClassification.from_pretrained(folder).config.pad_token_id])
    texts = ["Yes." + end, "Yes.", "It" + end + "is.", "A longer answer than the others" + end + end]
    chats = ChatTokenizer(tokenizer)
    data = canonical_rows({"prompt": ["Is it?"] * 4, "completion": texts})
    ids, _ = chats.encode(data)
    assert ids[0].tolist()[-1] == tokenizer.convert_tokens_to_ids(end)
    engine = Engine(Pool(Dataset.from_dict({"prompt": ["a"], "completion": ["b"]})), folder)
    _, runner = engine._inputs(Reward(folder), None)
    result, reasons = Reward(folder).rate([data], tokenizer, runner)
    assert reasons.tolist() == [""] * 4
    np.testing.assert_allclose(result, [own_output(folder, token) for token in ids], atol=1e-5)


def test_head_runs_on_last_token_without_padding_token(reward_dirs, rows):
    engine = Engine(Pool(rows), reward_dirs["none"])
    _, runner = engine._inputs(Reward(reward_dirs["none"]), None)
    forwards = RewardRunner(runner, Reward(reward_dirs["none"]))
    with torch.no_grad():
        result = forwards([np.array([5, 6, 7, 8]), np.array([9, 3])])
    assert forwards._backend == forwards._run_head
    expected = [own_output(reward_dirs["none"], ids) for ids in ([5, 6, 7, 8], [9, 3])]
    np.testing.assert_allclose(result[:, 0], expected, atol=1e-5)


def test_a_padding_token_outside_the_vocabulary(reward_dirs, rows):
    model = LlamaForSequenceClassification.from_pretrained(reward_dirs["own"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_dirs["own"])
    plain = score(rows, [Reward()], model=model, processing_class=tokenizer)["reward"][:]
    model.config.pad_token_id = -1
    result = score(rows, [Reward()], model=model, processing_class=tokenizer)["reward"]
    np.testing.assert_allclose(result, plain, atol=1e-5)


def test_encoder_equals_model_output(bert_dir, rows, caplog):
    tokenizer = AutoTokenizer.from_pretrained(bert_dir)
    scored = score(rows, [Reward(bert_dir)])
    texts = [f"{row.turns[0].content}\n{row.response}" for row in canonical_rows(rows[:])]
    expected = [own_output(bert_dir, tokenizer(text, truncation=False, padding=False)["input_ids"]) for text in texts]
    np.testing.assert_allclose(scored["reward"], expected, atol=1e-5)
    assert np.ptp(expected) > 1e-2
    assert "one row at a time" not in caplog.text


@pytest.mark.parametrize("relative", [True, False])
def test_deberta_equals_model_output(tiny_text_model_dir, rows, relative, caplog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        relative_attention=relative,
        pos_att_type=["c2p", "p2c"] if relative else None,
        position_buckets=16,
        initializer_range=0.4,
        num_labels=1,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = DebertaV2ForSequenceClassification(config).eval()
    result = score(rows, [Reward()], model=model, processing_class=tokenizer)["reward"]
    texts = [f"{row.turns[0].content}\n{row.response}" for row in canonical_rows(rows[:])]
    with torch.no_grad():
        expected = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits.item() for text in texts]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-2
    assert "one row at a time" not in caplog.text


def test_padding_sensitive_model_runs_unbatched(reward_dirs, rows, caplog):
    class Counting(LlamaForSequenceClassification):
        def forward(self, input_ids=None, attention_mask=None, **inputs):
            out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **inputs)
            out.logits = out.logits + input_ids.shape[1]
            return out

    model = Counting.from_pretrained(reward_dirs["own"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_dirs["own"])
    result = score(rows, [Reward()], model=model, processing_class=tokenizer)["reward"]
    ids = [shown(reward_dirs["own"], turns_of(row)) for row in canonical_rows(rows[:])]
    expected = [own_output(reward_dirs["own"], token) + len(token) for token in ids]
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    assert "it is run one row at a time" in caplog.text


def test_live_and_named_reward_model(reward_dirs, rows):
    folder = reward_dirs["own"]
    named = score(rows, [Reward(folder)])["reward"]
    of_score = score(rows, [Reward()], model=folder)["reward"]
    live = AutoModelForSequenceClassification.from_pretrained(folder).train()
    alive = score(rows, [Reward()], model=live, processing_class=AutoTokenizer.from_pretrained(folder))["reward"]
    np.testing.assert_allclose(of_score, named, atol=1e-6)
    np.testing.assert_allclose(alive, named, atol=1e-6)
    assert live.training


def test_multiple_turns(reward_dirs):
    folder = reward_dirs["own"]
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "Ciao.")]
    chat = [{"role": role, "content": content} for role, content in turns]
    result = score(Dataset.from_dict({"messages": [chat]}), [Reward(folder)])["reward"]
    np.testing.assert_allclose(result, [own_output(folder, shown(folder, turns))], atol=1e-5)


def test_label(tmp_path, reward_dirs, rows):
    tokenizer = AutoTokenizer.from_pretrained(reward_dirs["own"])
    folder = save_llama(tmp_path / "three", tokenizer, tokenizer.pad_token_id, labels=3)
    with pytest.raises(ModelError, match="has 3 outputs, and a reward model has one"):
        score(rows, [Reward(folder)])
    with pytest.raises(ModelError, match="label=3 is not among the 3 outputs"):
        score(rows, [Reward(folder, label=3)])
    result = score(rows, [Reward(folder, label=2)])["reward"]
    expected = [own_output(folder, shown(folder, turns_of(row)), 2) for row in canonical_rows(rows[:])]
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("label", [None, 1, 3])
def test_non_reward_models_are_rejected_by_config(tmp_path, tiny_model_dir, rows, label):
    tokenizer, none = AutoTokenizer.from_pretrained(tiny_model_dir), np.empty(0, dtype=np.int64)
    engine = Engine(Pool(rows))
    folder = Path(save_llama(tmp_path / "three", tokenizer, tokenizer.pad_token_id, labels=3))
    (folder / "model.safetensors").unlink()
    if label == 1:
        assert len(engine.compute(Reward(str(folder), label=label), none)["reward"]) == 0
        return
    with pytest.raises(ModelError, match="has 3 outputs, and" if label is None else "label=3 is not among the 3"):
        engine.compute(Reward(str(folder), label=label), none)
    with pytest.raises(ModelError, match="without the head of a reward model"):
        engine.compute(Reward(str(tiny_model_dir), label=label), none)


def test_adapter_with_head(tmp_path, tiny_model_dir, rows):
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    get_peft_model(base, LoraConfig(r=2, task_type="SEQ_CLS")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    subject = Reward(str(tmp_path), model_init_kwargs={"num_labels": 1})
    assert len(Engine(Pool(rows)).compute(subject, np.empty(0, dtype=np.int64))["reward"]) == 0
    assert None not in score(rows, [subject])["reward"][:]


# -- rows that are too long -------------------------------------------------------------------------------------------
def test_long_response_is_truncated_before_turn_end(reward_dirs):
    folder, long = reward_dirs["own"], "word " * 400
    data = Dataset.from_dict({"prompt": ["Say it.", long, "Say it."], "completion": [long, "Yes.", "word"]})
    scored = score(data, [Reward(folder, max_length=60)], on_summary=str)
    assert scored["reward_reason"][:] == ["", "prompt_fills_window", ""]
    full = shown(folder, [("user", "Say it."), ("assistant", long)])
    tail = shown(folder, [("user", "Say it."), ("assistant", "")])[-2:]
    assert AutoTokenizer.from_pretrained(folder).decode(tail) == "<|im_end|>\n"
    cut = [*full[:58], *tail]
    short = shown(folder, [("user", "Say it."), ("assistant", "word")])
    np.testing.assert_allclose(
        [scored["reward"][0], scored["reward"][2]], [own_output(folder, cut), own_output(folder, short)], atol=1e-5
    )


def test_prompt_fills_window(tokenizer):
    [row] = canonical_rows({"prompt": ["Say it."], "completion": ["Boats float."]})
    [ids], _ = ChatTokenizer(tokenizer).encode([row])
    start, behind = ChatTokenizer(tokenizer).response_span(row, ids.tolist())
    assert tokenizer.decode(ids[start : len(ids) - behind]) == "Boats float."
    assert ChatTokenizer(tokenizer, start + behind).encode([row]) == ([None], ["prompt_fills_window"])
    [cut], reasons = ChatTokenizer(tokenizer, start + behind + 1).encode([row])
    assert reasons == [""]
    assert cut.tolist() == [*ids[: start + 1], *ids[len(ids) - behind :]]


def test_truncation_keeps_special_tokens():
    from tests.scores.test_selectit import word_tokenizer

    tokenizer = word_tokenizer(["a", " b", " c", "\na", "\nA", "\nB", "</s>"], ending="</s>")
    [row] = canonical_rows({"prompt": ["a b c"], "completion": ["a b c"]})
    [cut], reasons = ChatTokenizer(tokenizer, 6).encode([row])
    assert reasons == [""]
    assert tokenizer.convert_ids_to_tokens(cut) == ["a", " b", " c", "\na", " b", "</s>"]
    assert ChatTokenizer(tokenizer, 4).encode([row]) == ([None], ["prompt_fills_window"])


def test_max_length_of_training(reward_dirs, bert_dir):
    long = Dataset.from_dict({"prompt": ["Say it."], "completion": ["word " * 800]})
    read = []

    def lengths(folder, settings, **more):
        engine = Engine(Pool(long), folder, settings=settings)
        rows, runner = engine._inputs(Reward(folder, **more), None)
        Reward(folder, **more).compute(rows, counting(runner, read))
        return read.pop()

    assert lengths(reward_dirs["own"], TokenSettings(max_length=200)) == 200
    assert lengths(reward_dirs["own"], TokenSettings(max_length=200), max_length=90) == 90
    assert lengths(reward_dirs["own"], None) == 512
    assert lengths(bert_dir, None) == 256
    with pytest.raises(ModelError, match=r"Reward\(max_length=257\) is more than the 256 tokens"):
        score(long, [Reward(bert_dir, max_length=257)])


def counting(runner, read):
    run = runner.run

    def counted(compute, lengths, width, **more):
        read.extend(lengths.tolist())
        return run(compute, lengths, width, **more)

    runner.run = counted
    return runner


# -- rows without a reward --------------------------------------------------------------------------------------------
def test_rows_without_response(reward_dirs):
    data = Dataset.from_dict({"prompt": ["Is it slow?"] * 3, "completion": ["Yes.", "  ", None]})
    scored = score(data, [Reward(reward_dirs["own"])], on_summary=str)
    assert scored["reward_reason"][:] == ["", "empty_response", "empty_response"]
    assert [value is None for value in scored["reward"]] == [False, True, True]
    none = score(data.select([1, 2]), [Reward(reward_dirs["own"])], on_summary=str)
    assert none["reward"][:] == [None, None]
    with pytest.raises(FormatError, match="only a text column have no response to rate"):
        score(Dataset.from_dict({"text": ["a"]}), [Reward(reward_dirs["own"])])


def test_template_error_for_some_rows(tmp_path, reward_dirs):
    tokenizer = AutoTokenizer.from_pretrained(reward_dirs["own"])
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        + tokenizer.chat_template
    )
    folder = save_llama(tmp_path / "strict", tokenizer, tokenizer.pad_token_id)
    chats = [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
        [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "y"}],
    ]
    scored = score(Dataset.from_dict({"messages": chats}), [Reward(folder)], on_summary=str)
    assert scored["reward_reason"][:] == ["", "template_error"]


def test_non_finite_values(reward_dirs, rows):
    model = AutoModelForSequenceClassification.from_pretrained(reward_dirs["own"])
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    tokenizer = AutoTokenizer.from_pretrained(reward_dirs["own"])
    scored = score(rows, [Reward()], model=model, processing_class=tokenizer, on_summary=str)
    assert set(scored["reward_reason"]) == {"not_finite"}


# -- models that are none ---------------------------------------------------------------------------------------------
def test_causal_model_is_rejected(model, tokenizer, tiny_model_dir, rows):
    with pytest.raises(ScoreError, match=r"Reward\(\) needs a reward model, and this model is a LlamaForC"):
        score(rows, [Reward()], model=model, processing_class=tokenizer)
    for settings in ({}, {"label": 0}, {"model_init_kwargs": {"num_labels": 1}}):
        with pytest.raises(ModelError, match="is a LlamaForCausalLM without the head of a reward model"):
            score(rows, [Reward(str(tiny_model_dir), **settings)])
    with pytest.raises(ScoreError, match="Reward has no model to run"):
        score(rows, [Reward()])
    with pytest.raises(ScoreError, match=r"Reward\(\) has no model to run in map"):
        Reward()(rows[:2])


@pytest.mark.parametrize("label", [-1, True, 1.0, "0"])
def test_invalid_labels(label):
    with pytest.raises(ConfigError, match=r"Reward\(label=.*\): it has to be an int of at least 0, or None"):
        Reward("x", label=label)


# -- the store, the tokenizer and batches -----------------------------------------------------------------------------
def test_second_run_reads_the_store(monkeypatch, tmp_path, reward_dirs, rows):
    calls = []
    forward = LlamaForSequenceClassification.forward
    monkeypatch.setattr(
        LlamaForSequenceClassification,
        "forward",
        lambda self, *args, **more: calls.append(1) or forward(self, *args, **more),
    )
    first = score(rows, [Reward(reward_dirs["none"])], store=tmp_path)["reward"][:]
    second = score(rows, [Reward(reward_dirs["own"])], store=tmp_path)["reward"][:]
    assert calls
    calls.clear()
    assert score(rows, [Reward(reward_dirs["own"])], store=tmp_path)["reward"][:] == second
    assert score(rows, [Reward(reward_dirs["none"])], store=tmp_path)["reward"][:] == first
    assert calls == []


def test_tokenizer_is_unchanged(bert_dir, rows):
    from hf_datasel.scoring.models import load_tokenizer

    tokenizer = load_tokenizer(bert_dir)
    before = tokenizer.backend_tokenizer.to_str()
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 16
    score(rows, [Reward(bert_dir)])
    assert tokenizer.backend_tokenizer.to_str() == before


def test_batch_size_invariance(reward_dirs, bert_dir, pool_rows):
    for folder in (reward_dirs["last"], reward_dirs["none"], bert_dir):
        one, many = (
            score(pool_rows, [Reward(folder)], scoring_tokens_per_batch=size)["reward"] for size in (1, 10**6)
        )
        np.testing.assert_allclose(one, many, atol=1e-5)


# -- rows as text -----------------------------------------------------------------------------------------------------
def test_task_and_answer_of_rows():
    chat = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")]
    messages = [[{"role": role, "content": content} for role, content in chat]]
    [several] = canonical_rows({"messages": messages})
    [one] = canonical_rows({"prompt": ["Hi"], "completion": ["Hello!"]})
    assert prompt_and_response(several) == ("System: Be brief.\n\nUser: Hi", "Hello!")
    assert prompt_and_response(replace_response(one, "Ciao.")) == ("Hi", "Ciao.")


def test_end_tokens(tokenizer, tiny_text_model_dir):
    assert tokenizer.decode(sorted(end_token_ids(tokenizer))) == "</s><|im_end|>"
    assert end_token_ids(AutoTokenizer.from_pretrained(tiny_text_model_dir)) == {tokenizer.eos_token_id}
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    assert end_token_ids(tokenizer) == {tokenizer.eos_token_id}  # a newline is an end for nobody
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end_token_ids(tokenizer) == {tokenizer.eos_token_id}
