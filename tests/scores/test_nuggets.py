"""Rows as examples: log-probabilities one by one, wins by hand, windows, picked anchors, and what cannot be."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Json, List, Value
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
)

from hf_datasel import score
from hf_datasel.errors import ColumnError, ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import alpaca_prompt, canonical_rows
from hf_datasel.scores import Embedding, nuggets
from hf_datasel.scores.nuggets import Nuggets
from hf_datasel.scoring import logprobs as forward, prefix_cache as oneshot
from hf_datasel.scoring.few_shot_prompts import AnchorTokens, OneShotPrompts
from hf_datasel.scoring.prefix_cache import PrefixCacheRunner
from hf_datasel.scoring.task_sets import read_anchors
from hf_datasel.testing import contract
from hf_datasel.testing.guards import unchanged_random_state

VECTORS = np.random.default_rng(3).normal(size=(24, 5)).astype(np.float32)
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(6))


@pytest.fixture(scope="module")
def anchor_file(pool_rows, tmp_path_factory):
    """Give the file of seven anchors."""
    path = tmp_path_factory.mktemp("anchors") / "anchors.jsonl"
    return Nuggets().fit(pool_rows, path, rows=range(10, 17)).anchor_file


@contract(Nuggets(anchors=7), Nuggets(anchors=7, max_length=600, column_prefix="old_"))
def test_contract(check, score, rows, anchor_file, tiny_model_dir):
    check(replace(score, anchor_file=anchor_file), rows, tiny_model_dir)


@contract(Nuggets(anchors=7))
def test_contract_without_a_chat_template(check, score, rows, anchor_file, tiny_text_model_dir):
    check(replace(score, anchor_file=anchor_file), rows, tiny_text_model_dir)


# -- against a plain computation --------------------------------------------------------------------------------------
def plain(model, before, answer):
    """Summed log-probability of the answer's tokens, from all logits of one whole forward pass."""
    ids = np.concatenate([before, answer])
    with torch.no_grad():
        chances = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0].double().log_softmax(dim=-1)
    return sum(chances[number - 1, ids[number]].item() for number in range(len(before), len(ids)))


def encode_examples(tokenizer, rows, anchor_file):
    """Examples and anchors as tokens."""
    tokens = OneShotPrompts(tokenizer)
    read, format = read_anchors(nuggets.Path(anchor_file))
    return tokens.examples(list(canonical_rows(rows[:])), "alpaca"), [tokens.anchor(row, format) for row in read]


def require_plain(model, examples, anchors, tokens_per_batch=700, keeps=True):
    """Log-probabilities behind each example are those of whole sequences, one at a time."""
    shots = PrefixCacheRunner(model, anchors, tokens_per_batch)
    every = np.arange(len(anchors))
    with torch.no_grad():
        result = [shots.answer_logprobs(example, every) for example in examples]
        some = shots.answer_logprobs(examples[0], every[::-2])
    expected = [
        [plain(model, np.concatenate([example, a.after_example]), a.answer) for a in anchors] for example in examples
    ]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(some, expected[0][::-2], rtol=0, atol=1e-4)
    assert np.ptp(result, axis=0).min() > 1e-3
    assert shots.uses_cache is keeps


@pytest.mark.parametrize("tokens_per_batch", [1, 700, 100_000])
@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_text_model_dir"])
def test_cached_examples_equal_full_sequences(request, rows, anchor_file, folder, tokens_per_batch):
    folder = request.getfixturevalue(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    require_plain(model, *encode_examples(tokenizer, rows, anchor_file), tokens_per_batch)


@pytest.mark.parametrize(
    ("config", "keeps"),
    [
        (MistralConfig(**SIZE, num_key_value_heads=2, intermediate_size=64, sliding_window=24), True),
        (Gemma2Config(**SIZE, num_key_value_heads=2, intermediate_size=64, head_dim=8, sliding_window=24), True),
        (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300), True),
        (
            LlamaConfig(
                **SIZE,
                intermediate_size=64,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10_000.0,
                    "factor": 8.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0] * 4,
                    "original_max_position_embeddings": 120,
                },
            ),
            False,
        ),
        (MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=300, state_size=4), False),
    ],
    ids=["sliding", "softcap and both", "learnt positions", "positions by length", "state space"],
)
def test_other_architectures(config, keeps, tokenizer, rows, anchor_file, caplog):
    torch.manual_seed(0)
    config.initializer_range = 0.2
    config.pad_token_id = 0
    model = AutoModelForCausalLM.from_config(config).eval()
    examples, anchors = encode_examples(tokenizer, rows, anchor_file)
    require_plain(model, examples[:2], anchors[:4], keeps=keeps)
    assert ("cannot cache an example for all anchors" in caplog.text) is not keeps


def test_adapter(model, tokenizer, rows, anchor_file):
    from peft import LoraConfig, get_peft_model

    examples, anchors = encode_examples(tokenizer, rows, anchor_file)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    require_plain(adapted, examples[:2], anchors[:3])


def test_scaled_logits(model, tokenizer, rows, anchor_file, caplog):
    forward = type(model).forward

    class Scaled(type(model)):
        def forward(self, **inputs):
            out = forward(self, **inputs)
            out.logits = out.logits * 0.5
            return out

    model.__class__ = Scaled
    examples, anchors = encode_examples(tokenizer, rows, anchor_file)
    require_plain(model, examples[:2], anchors[:3], keeps=False)
    assert "not only its LM head's" in caplog.text


def test_inexact_cache_is_not_used(monkeypatch, model, tokenizer, rows, anchor_file, caplog):
    full = oneshot.expand_cache

    def shifted(cache, count):
        grown = full(cache, count)
        grown.layers[0].values = grown.layers[0].values + 1
        return grown

    monkeypatch.setattr(oneshot, "expand_cache", shifted)
    examples, anchors = encode_examples(tokenizer, rows, anchor_file)
    require_plain(model, examples[:2], anchors[:3], keeps=False)
    assert "with a cached example differ from those of complete sequences by up to" in caplog.text


def test_expanded_cache_is_a_copy(model, tokenizer):
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
        before = copy.deepcopy(cache)
        grown = oneshot.expand_cache(cache, 3)
        assert grown.layers[0].keys.data_ptr() == cache.layers[0].keys.data_ptr()
        model(input_ids=torch.tensor([[8, 9]] * 3), past_key_values=grown, use_cache=True)
    assert grown.get_seq_length() == 5
    assert cache.get_seq_length() == 3
    for one, other in zip(cache.layers, before.layers, strict=True):
        assert torch.equal(one.keys, other.keys)


def test_out_of_memory_splits_batches(monkeypatch, model, tokenizer, rows, anchor_file):
    examples, anchors = encode_examples(tokenizer, rows, anchor_file)
    expected = PrefixCacheRunner(model, anchors, 100_000)
    short, sizes = PrefixCacheRunner(model, anchors, 100_000), []
    behind = PrefixCacheRunner._losses_after_cache

    def limited(self, cache, indices):
        sizes.append(len(indices))
        if len(indices) > 4:
            raise torch.OutOfMemoryError("no memory for so many")
        return behind(self, cache, indices)

    every = np.arange(len(anchors))
    with torch.no_grad():
        requested = [expected.answer_logprobs(example, every) for example in examples[:2]]
        monkeypatch.setattr(PrefixCacheRunner, "_losses_after_cache", limited)
        result = [short.answer_logprobs(example, every) for example in examples[:2]]
    np.testing.assert_allclose(result, requested, atol=1e-4)
    assert sizes.count(7) == 1  # and then no more than fit


# -- wins -------------------------------------------------------------------------------------------------------------
def wins_by_hand(model, examples, anchors):
    zero = [plain(model, a.alone, a.answer) for a in anchors]
    one = [
        [plain(model, np.concatenate([example, a.after_example]), a.answer) for a in anchors] for example in examples
    ]
    return (np.array(one) > np.array(zero)).mean(axis=1)


@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_text_model_dir"])
def test_wins(request, pool_rows, anchor_file, folder):
    folder = request.getfixturevalue(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    expected = wins_by_hand(model, *encode_examples(tokenizer, pool_rows, anchor_file))
    scored = score(pool_rows, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer)
    np.testing.assert_allclose(scored["golden"], expected, atol=1e-6)
    assert len(set(scored["golden"])) > 2
    assert scored.features["golden"] == Value("float32")
    assert set(scored["golden_reason"]) == {""}


def test_tie_is_not_a_win(monkeypatch, model, tokenizer, rows, anchor_file):
    monkeypatch.setattr(nuggets, "_zero_shot", lambda anchors, runner: np.zeros(len(anchors)))
    monkeypatch.setattr(
        PrefixCacheRunner, "answer_logprobs", lambda self, example, index: np.where(index == 2, 1e-9, 0.0)
    )
    scored = score(rows, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer)
    np.testing.assert_allclose(scored["golden"], [1 / 7] * len(rows))


@pytest.mark.parametrize("where", ["zero", "one"])
def test_non_finite_values(monkeypatch, model, tokenizer, rows, anchor_file, where):
    spoilt = np.array([0.0] * 6 + [np.nan])
    monkeypatch.setattr(nuggets, "_zero_shot", lambda anchors, runner: spoilt if where == "zero" else np.zeros(7))
    monkeypatch.setattr(
        PrefixCacheRunner, "answer_logprobs", lambda self, example, index: spoilt if where == "one" else np.ones(7)
    )
    scored = score(rows, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["golden"][:] == [None] * len(rows)
    assert set(scored["golden_reason"]) == {"not_finite"}


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_example_is_an_earlier_turn(tokenizer, rows, anchor_file):
    [example, *_], [anchor, *_] = encode_examples(tokenizer, rows, anchor_file)
    read, _ = read_anchors(nuggets.Path(anchor_file))
    task = {"role": "user", "content": read[0].turns[0].content}
    earlier = [
        {"role": "user", "content": rows[0]["instruction"]},
        {"role": "assistant", "content": rows[0]["output"]},
    ]
    for messages, pieces in (
        ([task], [anchor.alone, anchor.answer]),
        ([*earlier, task], [example, anchor.after_example, anchor.answer]),
    ):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + read[0].response
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == np.concatenate(pieces).tolist()


def test_example_without_chat_template(tiny_text_model_dir, pool_rows):
    tokens = OneShotPrompts(AutoTokenizer.from_pretrained(tiny_text_model_dir))
    first, second = canonical_rows(pool_rows.select([2, 3])[:])
    [example], anchor = tokens.examples([first], "alpaca"), tokens.anchor(second, "alpaca")
    asked = [alpaca_prompt(row.instruction, row.input) for row in (first, second)]
    decode = tokens.tokenizer.decode
    assert decode(np.concatenate([example, anchor.after_example, anchor.answer])) == (
        f"{asked[0]}\n{first.response}\n\n{asked[1]}\n{second.response}"
    )
    assert decode(anchor.alone) == f"{asked[1]}\n"


def test_single_bos_token(tokenizer, pool_rows):
    tokenizer.chat_template = None  # this one puts <s> before text
    tokens = OneShotPrompts(tokenizer)
    row = canonical_rows(pool_rows[:1])[0]
    [example], anchor = tokens.examples([row], "alpaca"), tokens.anchor(row, "alpaca")
    first = tokenizer.bos_token_id
    assert [ids[0] == first for ids in (example, anchor.alone, anchor.after_example)] == [True, True, False]
    assert first not in [*example[1:], *anchor.alone[1:], *anchor.after_example, *anchor.answer]


def test_prompt_completion_is_concatenated(tiny_text_model_dir):
    tokens = OneShotPrompts(AutoTokenizer.from_pretrained(tiny_text_model_dir))
    data = {"prompt": ["Q: slow?\nA:", "Slow?", ""], "completion": [" Yes.", "Yes.", " Yes."]}
    examples = tokens.examples(canonical_rows(data), "prompt-completion")
    assert [tokens.tokenizer.decode(ids) for ids in examples] == ["Q: slow?\nA: Yes.", "Slow?\nYes.", "\n Yes."]


def test_multiple_turns_are_one_question(tokenizer):
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "Ciao.")]
    row = canonical_rows({"messages": [[{"role": role, "content": content} for role, content in turns]]})[0]
    anchor = OneShotPrompts(tokenizer).anchor(row, "messages")
    assert "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello!\n\nUser: Bye" in tokenizer.decode(anchor.alone)
    assert tokenizer.decode(anchor.answer) == "Ciao."


def test_hostile_text(model, tokenizer, anchor_file):
    data = Dataset.from_dict({"prompt": ["{x} the question itself", "%s \\1"], "completion": ["{0}", "Hello Hi {}"]})
    scored = score(data, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer)
    examples = OneShotPrompts(tokenizer).examples(canonical_rows(data[:]), "prompt-completion")
    assert "{x} the question itself<|im_end|>\n<|im_start|>assistant\n{0}" in tokenizer.decode(examples[0])
    assert None not in scored["golden"][:]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('one question at most') }}", "one question at most"),
        ("{{ messages[0]['content'] }}", "it omits the question"),
        ("{% for m in messages %}{{ m['content'] ~ messages[-1]['content'] }}{% endfor %}", "differently"),
    ],
)
def test_template_without_example(tokenizer, pool_rows, template, message):
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=f"cannot render a question after an example.*{message}"):
        OneShotPrompts(tokenizer).anchor(canonical_rows(pool_rows[:1])[0], "alpaca")


# -- windows ----------------------------------------------------------------------------------------------------------
LONG = "word " * 60


def test_long_anchor_is_excluded(model, tokenizer, rows, tmp_path, caplog):
    tasks = [{"prompt": f"Say {number}.", "completion": f"{number}, {number}!"} for number in ("one", "two", "three")]
    for name, more in (("few", []), ("many", [{"prompt": LONG, "completion": "Yes."}])):
        lines = [json.dumps(item) for item in (*tasks, *more)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    few, many = (
        score(
            rows,
            [Nuggets(anchor_file=str(tmp_path / f"{name}.jsonl"), max_length=180)],
            model=model,
            processing_class=tokenizer,
        )
        for name in ("few", "many")
    )
    assert few["golden"][:] == many["golden"][:]
    assert caplog.text.count("1 of 4 anchors do not fit into 180 tokens even without an example") == 1
    with pytest.raises(ScoreError, match=r"None of the 3 anchors in .* fits into 12 tokens"):
        score(
            rows,
            [Nuggets(anchor_file=str(tmp_path / "few.jsonl"), max_length=12)],
            model=model,
            processing_class=tokenizer,
        )


def test_anchor_without_room_is_not_won(model, tokenizer, tmp_path, caplog):
    tasks = [{"prompt": "Say one.", "completion": "One!"}, {"prompt": "word " * 20, "completion": "Yes."}]
    (tmp_path / "anchors.json").write_text(json.dumps(tasks))
    data = Dataset.from_dict({"prompt": ["Say two.", LONG, LONG * 4], "completion": ["Two!"] * 3})
    tokens = OneShotPrompts(tokenizer)
    examples = tokens.examples(canonical_rows(data[:]), "prompt-completion")
    anchors = [tokens.anchor(row, "prompt-completion") for row in canonical_rows({
        name: [task[name] for task in tasks] for name in tasks[0]
    })]  # fmt: skip
    room = len(examples[1]) + len(anchors[0].after_example) + len(anchors[0].answer)
    subject = Nuggets(anchor_file=str(tmp_path / "anchors.json"), max_length=room)
    scored = score(data, [subject], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["golden_reason"][:] == ["", "", "prompt_fills_window"]
    assert scored["golden"][2] is None
    won = plain(model, np.concatenate([examples[1], anchors[0].after_example]), anchors[0].answer)
    assert scored["golden"][1] == (0.5 if won > plain(model, anchors[0].alone, anchors[0].answer) else 0.0)
    assert scored["golden"][0] == wins_by_hand(model, examples[:1], anchors)[0]
    assert "after 1 rows not every anchor fits" in caplog.text


def test_unusable_examples(model, tokenizer, anchor_file):
    data = Dataset.from_dict({"prompt": ["Is it slow?"] * 3, "completion": ["Yes.", "  ", None]})
    scored = score(data, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["golden_reason"][:] == ["", "empty_response", "empty_response"]
    none = score(
        data.select([1]), [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer, on_summary=str
    )
    assert none["golden"][:] == [None]
    with pytest.raises(FormatError, match="cannot be examples"):
        score(
            Dataset.from_dict({"text": ["a"]}),
            [Nuggets(anchor_file=anchor_file)],
            model=model,
            processing_class=tokenizer,
        )


def test_rows_are_read_in_chunks(monkeypatch, model, tokenizer, rows, anchor_file):
    full = score(rows, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer)["golden"][:]
    monkeypatch.setattr(nuggets, "_CHUNK_ROWS", 4)
    result = score(rows, [Nuggets(anchor_file=anchor_file)], model=model, processing_class=tokenizer)["golden"][:]
    assert result == full


def test_max_length_above_model_limit(model, tokenizer, rows, anchor_file):
    with pytest.raises(ModelError, match=r"Nuggets\(max_length=5000\) is more than the 1,024 tokens"):
        score(rows, [Nuggets(anchor_file=anchor_file, max_length=5000)], model=model, processing_class=tokenizer)


# -- the store --------------------------------------------------------------------------------------------------------
def refuse_forwards(monkeypatch):
    def refuse(*args):
        raise AssertionError("a forward pass is run")

    monkeypatch.setattr(forward.LogprobRunner, "hidden", refuse)
    monkeypatch.setattr(PrefixCacheRunner, "answer_logprobs", refuse)


def test_second_run_reads_the_store(monkeypatch, rows, anchor_file, tiny_model_dir, tmp_path):
    subject = Nuggets(anchor_file=anchor_file)
    first = score(rows, [subject], model=str(tiny_model_dir), store=tmp_path)["golden"][:]
    specs = [json.loads(path.read_text()) for path in tmp_path.rglob("spec.json")]
    [run] = [spec for spec in specs if spec["computed"] == "one_shot_wins"]
    assert (run["number"], run["left_out"], run["window"]) == (7, 0, 1024)
    monkeypatch.undo()
    refuse_forwards(monkeypatch)
    assert score(rows, [subject], model=str(tiny_model_dir), store=tmp_path)["golden"][:] == first


def test_anchors_are_selected_into_the_store(monkeypatch, pool_rows, tiny_model_dir, tmp_path):
    some, asked = pool_rows.select(range(10)), [Nuggets(anchors=3), Embedding(part="prompt")]
    first = score(some, asked, model=str(tiny_model_dir), store=tmp_path)
    [file] = tmp_path.glob("anchors*")
    assert len(read_anchors(file)[0]) == 3
    by_hand = replace(asked[0], anchor_file=str(file))
    assert score(some, [by_hand], model=str(tiny_model_dir))["golden"][:] == first["golden"][:]
    refuse_forwards(monkeypatch)
    assert score(some, asked, model=str(tiny_model_dir), store=tmp_path)["golden"][:] == first["golden"][:]
    assert list(tmp_path.glob("anchors*")) == [file]


# -- picking anchors --------------------------------------------------------------------------------------------------
def with_vectors(rows, vectors):
    kind = List(Value("float32"))
    column = Dataset.from_dict({"embedding": vectors.tolist()}, features=Features({"embedding": kind}))
    return rows.add_column("embedding", column["embedding"][:], feature=kind)


def numbers(fitted):
    lines = nuggets.Path(fitted.anchor_file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["pool_row"] for line in lines]


def test_anchors_are_nearest_to_centroids(pool_rows, tmp_path):
    middles = np.array([[0, 0], [50, 0], [0, 50]])
    offsets = np.array([[3, 0], [1, 0], [-2, 0], [0, 2], [0, -3], [-1, 0], [0, 1], [0, -1]])
    vectors = (middles[:, None] + offsets).reshape(24, 2)
    centres = np.repeat(middles, 8, axis=0) + offsets.mean(axis=0)
    nearest = [8 * group + int(((vectors - centres) ** 2).sum(axis=1)[8 * group :][:8].argmin()) for group in range(3)]
    data = with_vectors(pool_rows, vectors.astype(np.float32))
    for seed in range(20):  # some starts find other groups
        result = numbers(Nuggets(anchors=3, seed=seed).fit(data, tmp_path / "a.jsonl"))
        assert result == sorted(set(result))
        if result == nearest:
            break
    else:
        raise AssertionError(f"no start finds {nearest}")


def test_equal_rows_are_replaced_by_the_next(pool_rows, tmp_path):
    data = with_vectors(
        pool_rows.select([0] * 6 + list(range(1, 7))), np.repeat(VECTORS[:1], 12, axis=0) + VECTORS[12]
    )
    spread = data.remove_columns("embedding")
    spread = with_vectors(spread, VECTORS[:12])
    result = Nuggets(anchors=7).fit(spread, tmp_path / "a.jsonl")
    rows, _ = read_anchors(tmp_path / "a.jsonl")
    assert len({row.digest() for row in rows}) == len(numbers(result)) == 7
    with pytest.raises(ScoreError, match="8 anchors are requested, and only 7 usable rows"):
        Nuggets(anchors=8).fit(spread, tmp_path / "b.jsonl")
    with pytest.raises(ScoreError, match="Lower k"):
        Nuggets(anchors=3).fit(data, tmp_path / "c.jsonl")


def test_fit_is_deterministic(pool_rows, tmp_path):
    data = with_vectors(pool_rows, VECTORS)
    for by in ("kmeans", "random"):
        with unchanged_random_state():
            fits = [
                Nuggets(anchors=5, by=by, seed=seed).fit(data, tmp_path / f"{name}.jsonl")
                for name, seed in (("a", 1), ("b", 1), ("c", 2))
            ]
        a, b, c = (nuggets.Path(fit.anchor_file).read_bytes() for fit in fits)
        assert a == b != c
        assert fits[0] == Nuggets(anchors=5, by=by, seed=1, anchor_file=str(tmp_path / "a.jsonl"))


def test_random_anchors_differ_in_their_text(pool_rows, tmp_path):
    data = pool_rows.select([0] * 20 + [1, 2])
    result = Nuggets(anchors=3, by="random").fit(data, tmp_path / "a.jsonl")
    assert numbers(result) == [0, 20, 21]
    with pytest.raises(ScoreError, match="4 anchors are requested, and only 3 usable rows"):
        Nuggets(anchors=4, by="random").fit(data, tmp_path / "a.jsonl")


def test_unusable_rows_are_not_anchors(pool_rows, tmp_path):
    data = with_vectors(pool_rows, VECTORS).map(
        lambda row, index: {"output": "" if index % 2 else row["output"]}, with_indices=True
    )
    for by in ("kmeans", "random"):
        assert not any(row % 2 for row in numbers(Nuggets(anchors=12, by=by).fit(data, tmp_path / "a.jsonl")))
    with pytest.raises(ScoreError, match="Some rows cannot be anchors: 2 empty_response"):
        Nuggets().fit(data, tmp_path / "a.jsonl", rows=[1, 2, 3])


@pytest.mark.parametrize("rows", [[], [1, 1], [-1], [24], [0.5], [[1]]])
def test_invalid_anchor_rows(pool_rows, tmp_path, rows):
    with pytest.raises(ScoreError, match="ow numbers"):
        Nuggets().fit(pool_rows, tmp_path / "a.jsonl", rows=rows)


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_anchor_files(pool_rows, tmp_path, ending):
    awkward = Dataset.from_dict({"prompt": ["a\u2028b\n{}", "ü"], "completion": ["\x85 x", "y"], "other": [1, 2]})
    path = tmp_path / f"anchors.{ending}"
    assert Nuggets().fit(awkward, path, rows=[1, 0]).anchors == 2
    read, format = read_anchors(path)
    assert format == "prompt-completion"
    assert read == canonical_rows(awkward.select([1, 0]).select_columns(["prompt", "completion"])[:])
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]]
    chats = Dataset.from_dict({"messages": turns * 2})
    Nuggets().fit(chats, path, rows=[1])
    assert read_anchors(path)[0] == canonical_rows({"messages": turns})


def test_anchors_with_other_names(rows, pool_rows, tmp_path, tiny_model_dir):
    names = {"instruction": "frage", "output": "antwort"}
    data = pool_rows.select(range(10, 14)).rename_columns(names)
    expected = Nuggets().fit(pool_rows.select(range(10, 14)), tmp_path / "plain.jsonl", rows=[0, 2])
    mapped = Nuggets().fit(data, tmp_path / "other.jsonl", rows=[0, 2], columns=names)
    assert mapped.anchor_columns == names
    values = [score(rows, each, model=str(tiny_model_dir))["golden"][:] for each in (expected, mapped)]
    assert values[0] == values[1]
    with pytest.raises(FormatError, match="match none of the supported formats"):
        score(rows, replace(mapped, anchor_columns=None), model=str(tiny_model_dir))


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_anchors_of_json_columns(tmp_path, ending):
    call = {"type": "function", "function": {"name": "heat", "arguments": {"degrees": 52.37}}}
    turns = [{"role": "user", "content": "Heat it."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    data = Dataset.from_dict({"messages": [turns] * 2}, features=Features({"messages": Json()}))
    Nuggets().fit(data, tmp_path / f"anchors.{ending}", rows=[1])
    assert read_anchors(tmp_path / f"anchors.{ending}")[0] == canonical_rows({"messages": [turns]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Each row in|match none of the supported formats"),
        ("{", "cannot be read as a file of anchors"),
        ("[1]", "a row is not a JSON object"),
        ('{"prompt": "a", "completion": ""}', "row 0: empty_response"),
        ('{"text": "a"}', "has to hold a question and an answer"),
        ('{"promt": "a", "completion": "b"}', "Did you mean 'prompt'"),
    ],
)
def test_invalid_anchor_files(tmp_path, content, message):
    (tmp_path / "anchors.jsonl").write_text(content)
    with pytest.raises((ScoreError, FormatError), match=message):
        read_anchors(tmp_path / "anchors.jsonl")


def test_missing_anchors(model, tokenizer, pool_rows, tmp_path):
    with pytest.raises(ScoreError, match=r"Nuggets is not fitted"):
        score(pool_rows, [Nuggets(anchors=5)], model=model, processing_class=tokenizer)
    with pytest.raises(ScoreError, match=r"There is no file 'nowhere\.jsonl'"):
        score(pool_rows, [Nuggets(anchor_file="nowhere.jsonl")], model=model, processing_class=tokenizer)
    with pytest.raises(ColumnError, match="needs column 'embedding'"):
        Nuggets(anchors=5).fit(pool_rows, tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"ends in .jsonl, .json, .parquet, and not .*csv"):
        Nuggets(by="random").fit(pool_rows, tmp_path / "a.csv")


def test_spec_and_pickle_hold_anchors(pool_rows, anchor_file, tmp_path):
    other = Nuggets().fit(pool_rows, tmp_path / "a.jsonl", rows=[1, 2])
    specs = [item.spec()["resolved_anchors"] for item in (other, Nuggets(anchor_file=anchor_file))]
    assert [spec[:5] for spec in specs] == ["file:"] * 2
    assert specs[0] != specs[1]
    assert specs[0] in other._identity()
    assert Nuggets().spec()["resolved_anchors"] is None
    assert Nuggets().reads == ("embedding",)
    assert other.reads == Nuggets(by="random").reads == ()


def test_digest_depends_on_token_order():
    one, two = np.array([1, 2]), np.array([3])
    digests = {
        AnchorTokens(one, two, two).digest(),
        AnchorTokens(two, one, two).digest(),
        AnchorTokens(two, two, one).digest(),
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchors": 0}, "an int of at least 1"),
        ({"seed": -1}, "an int of at least 0"),
        ({"by": "kmean"}, "Did you mean 'kmeans'"),
        ({"column": ""}, "name of a column"),
        ({"anchor_file": 3}, "path of a file"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Nuggets(**settings)
