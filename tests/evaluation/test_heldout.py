"""Loss of held-out rows in bits per byte: against computation by hand, reasons, groups, files and errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_datasel.errors import ColumnError, ConfigError, EvaluationError, FormatError, ModelError
from hf_datasel.evaluation import HeldoutLoss, HeldoutTask, ModelResults, heldout_loss, match_answers, rows_in_pool
from hf_datasel.formats import Pool


@pytest.fixture
def chats():
    """Return conversations of two sources; the second one has two responses."""
    return Dataset.from_list(
        [
            {"messages": chat("Name a fruit.", "A cherry."), "source": "alpaca"},
            {"messages": chat("Say hello.", "Bonsoir ! C'est à vous.", "Again.", "Hello."), "source": "chat"},
            {"messages": chat("Which is heavier?", "The brick."), "source": "alpaca"},
        ]
    )


def chat(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def bits_by_hand(model, tokenizer, messages):
    """Return the bits of the responses with their end tokens, from the full logits of the row."""
    ids, positions = [], []
    for message in messages:
        header = tokenizer(f"<|im_start|>{message['role']}\n", add_special_tokens=False)["input_ids"]
        content = tokenizer(f"{message['content']}<|im_end|>\n", add_special_tokens=False)["input_ids"]
        if message["role"] == "assistant":
            positions += range(len(ids) + len(header), len(ids) + len(header) + len(content))
        ids += header + content
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return -sum(float(log_probs[place - 1, ids[place]]) for place in positions) / math.log(2)


# -- values -----------------------------------------------------------------------------------------------------------
def test_values_equal_computation_by_hand(chats, model, tokenizer):
    result = heldout_loss(chats, model, tokenizer, group_by="source")
    bits = np.array([bits_by_hand(model, tokenizer, row["messages"]) for row in chats])
    num_bytes = np.array([9, 24 + 6, 10])  # "à" has two bytes
    assert result.num_bytes.tolist() == num_bytes.tolist()
    np.testing.assert_allclose(result.values, bits / num_bytes, rtol=1e-5)
    assert result.bits_per_byte() == pytest.approx(bits.sum() / 49, rel=1e-5)
    assert result.bits_per_byte("rows") == pytest.approx((bits / num_bytes).mean(), rel=1e-5)
    alpaca = result.to_dict()["groups"]["alpaca"]
    assert alpaca["bits_per_byte"] == pytest.approx((bits[0] + bits[2]) / 19, rel=1e-5)
    assert alpaca["num_bytes"] == 19
    assert result.to_dict()["groups"]["chat"]["mean_row_bits_per_byte"] == pytest.approx(bits[1] / 30, rel=1e-5)


def test_model_by_name(chats, tiny_model_dir, model, tokenizer):
    loaded = heldout_loss(chats, model, tokenizer)
    for name in (tiny_model_dir, str(tiny_model_dir)):
        named = heldout_loss(chats, name)
        np.testing.assert_array_equal(named.values, loaded.values)
        assert named.settings["model"]["name"] == str(tiny_model_dir)
        assert named.settings["model"]["identity"]["weights"]
        assert named.settings["model"]["tokenizer"] == loaded.settings["model"]["tokenizer"]


def test_cost_is_recorded(chats, model, tokenizer, tmp_path):
    rows = chats.select([0, 2])
    result = heldout_loss(rows, model, tokenizer)
    ids = [tokenizer.apply_chat_template(row["messages"], return_dict=False) for row in rows]
    assert result.settings["cost"]["tokens_forward"] == sum(map(len, ids))
    answers = match_answers(rows, model, tokenizer, max_new_tokens=1)
    prompts = [
        tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=False)
        for row in rows
    ]
    assert answers.settings["cost"]["tokens_forward"] == sum(map(len, prompts))  # the answer is not read
    assert answers.settings["cost"]["flops"] > 0
    result.save(tmp_path / "result.parquet")
    assert HeldoutLoss.load(tmp_path / "result.parquet").settings == result.settings


@pytest.mark.parametrize("tokens", [1, 200, 100_000])
def test_batches_and_order_do_not_matter(pool_rows, model, tokenizer, tokens):
    expected = heldout_loss(pool_rows, model, tokenizer)
    order = np.random.default_rng(0).permutation(len(pool_rows))
    result = heldout_loss(pool_rows.select(order), model, tokenizer, scoring_tokens_per_batch=tokens)
    np.testing.assert_allclose(result.values, expected.values[order], rtol=1e-5)
    np.testing.assert_array_equal(result.num_bytes, expected.num_bytes[order])
    np.testing.assert_array_equal(result.row_ids, expected.row_ids[order])


def test_row_formats_have_equal_values(pool_rows, model, tokenizer):
    expected = heldout_loss(pool_rows, model, tokenizer)
    rows = [
        chat(f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"], row["output"])
        for row in pool_rows
    ]
    messages = heldout_loss(Dataset.from_dict({"messages": rows}), model, tokenizer)
    np.testing.assert_array_equal(messages.num_bytes, expected.num_bytes)
    renamed = pool_rows.rename_columns({"instruction": "ask", "output": "say"})
    mapped = heldout_loss(renamed, model, tokenizer, columns={"instruction": "ask", "output": "say"})
    np.testing.assert_array_equal(mapped.values, expected.values)


def test_tokenized_rows(model, tokenizer, plain_losses):
    prompt = tokenizer("Name a fruit.")["input_ids"]
    texts = ["A cherry.</s>", "A <s>cherry.<|im_end|>\n", "<s></s>", "</s>"]
    responses = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [{"input_ids": prompt + ids, "labels": [-100] * len(prompt) + ids} for ids in responses]
    result = heldout_loss(Dataset.from_list(rows), model, tokenizer)
    assert result.reasons.tolist() == ["", "", "empty_response", "no_response_token"]
    assert result.num_bytes.tolist() == [len("A cherry.")] * 2 + [0, 0]
    for value, row in zip(result.values[:2], rows, strict=False):
        nats = plain_losses(model, row["input_ids"], range(len(prompt), len(row["input_ids"]))).sum()
        assert value == pytest.approx(nats / math.log(2) / 9, rel=1e-5)


# -- rows without a value ---------------------------------------------------------------------------------------------
def test_truncated_rows_are_counted(pool_rows, model, tokenizer):
    lengths = [
        len(tokenizer.apply_chat_template(chat(f"{row['instruction']}\n{row['input']}".strip(), row["output"]))[
            "input_ids"
        ])
        for row in pool_rows
    ]  # fmt: skip
    limit = sorted(lengths)[12]
    result = heldout_loss(pool_rows, model, tokenizer, max_length=limit)
    assert (result.reasons == "truncated").tolist() == [length > limit for length in lengths]
    complete = result.reasons == ""
    np.testing.assert_allclose(
        result.values[complete], heldout_loss(pool_rows, model, tokenizer).values[complete], rtol=1e-5
    )
    assert np.isnan(result.values[~complete]).all()
    assert result.num_bytes[~complete].tolist() == [0] * (~complete).sum()
    summary = result.to_dict()
    assert summary["rows"] == 24
    assert summary["rows_without_value"] == {"truncated": sum(length > limit for length in lengths)}
    assert summary["bits_per_byte"] == result.bits_per_byte() > 0


def test_a_row_of_exactly_max_length_is_complete(model, tokenizer):
    messages = chat("Name a fruit.", "A cherry.")
    rows = Dataset.from_dict({"messages": [messages, chat("Hi", "Ho")]})
    length = len(tokenizer.apply_chat_template(messages)["input_ids"])
    assert heldout_loss(rows, model, tokenizer, max_length=length).reasons.tolist() == ["", ""]
    assert heldout_loss(rows, model, tokenizer, max_length=length - 1).reasons.tolist() == ["truncated", ""]


def test_the_table_has_the_reasons_of_rows_without_a_value(chats, model, tokenizer):
    """A loss that is no finite number, as of a model that has diverged, is in no mean, and is counted."""
    result = heldout_loss(chats, model, tokenizer)
    diverged = replace(result, reasons=np.array(["", "not_finite", ""]), nats=np.where([0, 1, 0], np.nan, result.nats))
    table = ModelResults("model", (HeldoutTask("rows", dataset_name="x"),), {"rows": diverged}).to_markdown()
    assert "| lower | 2 | 1 not_finite |" in table
    assert (
        "| lower | 3 | 0 |"
        in ModelResults("model", (HeldoutTask("rows", dataset_name="x"),), {"rows": result}).to_markdown()
    )


def test_later_prompt_may_be_truncated(model, tokenizer):
    answered = chat("Name a fruit.", "A cherry.")
    short = heldout_loss(Dataset.from_dict({"messages": [answered]}), model, tokenizer)
    length = len(tokenizer.apply_chat_template(answered)["input_ids"])
    longer = Dataset.from_dict({"messages": [[*answered, {"role": "user", "content": "Thanks " * 30}]]})
    result = heldout_loss(longer, model, tokenizer, max_length=length)
    np.testing.assert_allclose(result.values, short.values, rtol=1e-5)


def test_malformed_rows_are_counted_by_group(model, tokenizer):
    rows = Dataset.from_dict(
        {"prompt": ["Hi", "Name a fruit."], "completion": ["", "A cherry."], "source": ["web", None]}
    )
    result = heldout_loss(rows, model, tokenizer, group_by="source")
    summary = result.to_dict()
    assert summary["groups"]["web"] == {
        "rows": 1, "rows_with_value": 0, "rows_without_value": {"empty_response": 1}
    }  # fmt: skip
    assert summary["groups"][""]["rows_with_value"] == 1


def test_only_rendered_responses_have_a_value(model, tokenizer):
    """The chat template of the tests renders the content of a message and nothing else."""
    call = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Vlore"}}}
    rows = [
        chat("Hi", "Hello."),
        [*chat("2 + 2?"), {"role": "assistant", "content": "4", "reasoning_content": "Two and two make four."}],
        [*chat("Tide?"), {"role": "assistant", "content": "I look.", "tool_calls": [call]}],
    ]
    dataset = Dataset.from_list([{"messages": row} for row in rows])
    result = heldout_loss(dataset, model, tokenizer)
    assert result.reasons.tolist() == ["", "response_not_rendered", "response_not_rendered"]
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.get('reasoning_content') or '' }}{{ m['content'] }}"
        "{% for c in m.get('tool_calls') or [] %}{{ c['function'] | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    result = heldout_loss(dataset, model, tokenizer)
    assert result.reasons.tolist() == ["", "", ""]
    assert result.num_bytes[1] == len("Two and two make four.\n4")
    calls = '[{"function": {"arguments": {"port": "Vlore"}, "name": "tide"}, "type": "function"}]'
    assert result.num_bytes[2] == len(f"I look.\n{calls}")


def test_text_that_the_tokenizer_does_not_represent(tiny_text_model_dir, model):
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    uncased = AutoTokenizer.from_pretrained(tiny_text_model_dir)
    uncased.backend_tokenizer.normalizer = normalizers.Lowercase()
    rows = Dataset.from_dict({"prompt": ["Hi"] * 2, "completion": ["Hello.", "hello."]})
    assert heldout_loss(rows, model, uncased).reasons.tolist() == ["response_not_rendered", ""]


# -- held-out rows and the training pool ------------------------------------------------------------------------------
def test_rows_of_the_training_pool_are_refused_or_excluded(pool_rows, model, tokenizer):
    training_pool = Dataset.from_dict(
        {
            "messages": [
                chat(row["instruction"], row["output"]) for row in pool_rows.select([0, 5, 9]) if not row["input"]
            ]
        }
    )
    heldout = pool_rows.select([9, 0, 1])
    np.testing.assert_array_equal(rows_in_pool(heldout, pool_rows.select([0, 9])), [0, 1])
    assert rows_in_pool(heldout, training_pool).tolist() == [1]
    with pytest.raises(EvaluationError, match=r"2 of 3 held-out rows are in the training pool \(rows 0, 1\)"):
        heldout_loss(heldout, model, tokenizer, training_pool=pool_rows.select([9, 0, 4]))
    excluded = {"in_training_pool": rows_in_pool(heldout, training_pool)}
    result = heldout_loss(heldout, model, tokenizer, training_pool=training_pool, excluded=excluded)
    assert result.reasons.tolist() == ["", "in_training_pool", ""]
    assert result.to_dict()["rows_without_value"] == {"in_training_pool": 1}


def test_malformed_rows_are_in_no_pool():
    empty = Dataset.from_dict({"prompt": ["Hi", "Ho"], "completion": ["", "Hum"]})
    assert rows_in_pool(empty, empty).tolist() == [1]
    renamed = Pool(empty.rename_columns({"prompt": "a", "completion": "b"}), {"prompt": "a", "completion": "b"})
    assert rows_in_pool(renamed, empty).tolist() == [1]


# -- files ------------------------------------------------------------------------------------------------------------
def test_saved_results_are_equal(chats, model, tokenizer, tmp_path):
    result = heldout_loss(chats, model, tokenizer, group_by="source", excluded={"seen": [2]})
    path = result.save(tmp_path / "new" / "loss.parquet")
    loaded = HeldoutLoss.load(path)
    for name in ("row_ids", "reasons", "groups", "nats", "num_bytes", "values"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
        assert getattr(loaded, name).dtype == getattr(result, name).dtype
    assert loaded.to_dict() == result.to_dict()
    assert [entry.name for entry in path.parent.iterdir()] == ["loss.parquet"]


def test_unreadable_results(chats, model, tokenizer, tmp_path, monkeypatch):
    result = heldout_loss(chats, model, tokenizer)
    path = result.save(tmp_path / "loss.parquet")
    with pytest.raises(EvaluationError, match=r"Cannot read .*no\.parquet': No such file"):
        HeldoutLoss.load(tmp_path / "no.parquet")
    content = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-20])
    with pytest.raises(EvaluationError, match="is damaged, or no Parquet file"):
        HeldoutLoss.load(tmp_path / "cut.parquet")
    Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(EvaluationError, match=r"contains no results of hf_datasel\.evaluation, not heldout_loss"):
        HeldoutLoss.load(tmp_path / "other.parquet")
    monkeypatch.setattr(HeldoutLoss, "version", 0)
    with pytest.raises(EvaluationError, match="has version 1 of heldout_loss, and this release reads version 0"):
        HeldoutLoss.load(path)
    with pytest.raises(EvaluationError, match="Cannot write"):
        result.save(path / "below.parquet")


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"group_by": "sauce"}, ColumnError, "no such column.*Did you mean 'source'"),
        ({"group_by": "messages"}, ColumnError, "holds lists or mappings"),
        ({"max_length": None}, EvaluationError, "name the number of tokens"),
        ({"max_length": 1}, ConfigError, "max_length has to be an int of at least 2"),
        ({"max_length": 3}, EvaluationError, "None of the 3 held-out rows can be evaluated: 3 truncated"),
        ({"max_length": 5000}, ModelError, "1,024"),
        ({"excluded": {"seen": [0, 3]}}, EvaluationError, r"excluded\['seen'\] has to hold row numbers"),
        ({"excluded": {"": [0]}}, EvaluationError, "has the reason ''"),
        ({"excluded": {"seen": [0, 1, 2]}}, EvaluationError, "None of the 3 held-out rows .*: 3 seen"),
        ({"revision": "main"}, EvaluationError, "for a model that is named"),
    ],
)
def test_errors(chats, model, tokenizer, arguments, error, message):
    with pytest.raises(error, match=message):
        heldout_loss(chats, model, tokenizer, **arguments)


def test_errors_of_rows_and_models(chats, model, tokenizer, tiny_model_dir):
    with pytest.raises(EvaluationError, match="together with its tokenizer: processing_class="):
        heldout_loss(chats, model)
    with pytest.raises(EvaluationError, match="model=NoneType has to be"):
        heldout_loss(chats, None)
    with pytest.raises(EvaluationError, match="processing_class is for a loaded model"):
        heldout_loss(chats, tiny_model_dir, tokenizer)
    with pytest.raises(ModelError, match="no/such"):
        heldout_loss(chats, "no/such")
    with pytest.raises(ConfigError, match="dtype"):
        heldout_loss(chats, tiny_model_dir, dtype="int8")
    with pytest.raises(EvaluationError, match="is empty"):
        heldout_loss(chats.select([]), model, tokenizer)
    with pytest.raises(FormatError, match="only a text column"):
        heldout_loss(Dataset.from_dict({"text": ["Hi"]}), model, tokenizer)
    with pytest.raises(EvaluationError, match="weighting='tokens': it has to be 'bytes' or 'rows'"):
        heldout_loss(chats, model, tokenizer).bits_per_byte("tokens")


def test_error_of_rows_that_cannot_be_evaluated_says_why(chats, model, tokenizer):
    malformed = Dataset.from_dict({"prompt": ["Hi", "Ho"], "completion": ["", None]})
    with pytest.raises(
        EvaluationError, match=r"2 held-out rows .*: 2 empty_response \(column 'completion' is no text\)\."
    ):
        heldout_loss(malformed, model, tokenizer)
    tokenizer.chat_template = "{{ raise_exception('No conversations today.') }}"
    for evaluate in (heldout_loss, match_answers):
        with pytest.raises(EvaluationError, match=r"3 template_error \(.*No conversations today"):
            evaluate(chats, model, tokenizer)
