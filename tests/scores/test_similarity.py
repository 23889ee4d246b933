"""Similarity to target rows: a plain computation of RDS+, subtasks, batches, and target rows that cannot be used."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import List, Value
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score
from hf_datasel.errors import ColumnError, ConfigError, FormatError, ScoreError
from hf_datasel.scores import Embedding, Loss, Similarity
from hf_datasel.scoring import target_rows
from hf_datasel.testing import contract

RDS = Similarity(validation="to be named", as_trained=True, pooling="weighted_mean", by_target=True)


@pytest.fixture(autouse=True)
def empty_cache():
    target_rows._CACHE.clear()


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(10))


@pytest.fixture(scope="module")
def target(pool_rows):
    """Give five rows of two subtasks."""
    return pool_rows.select(range(16, 21)).add_column("task", ["b", "a", "b", "a", "b"])


@pytest.fixture(scope="module")
def validation(tmp_path_factory, target):
    path = tmp_path_factory.mktemp("validation") / "rows.jsonl"
    target.to_json(path)
    return str(path)


@contract(replace(RDS, subtask="task"), Similarity(validation="to be named", part="prompt", column_prefix="v_"))
def test_contract(check, score, rows, tiny_model_dir, validation):
    check(replace(score, validation=validation), rows.select(range(6)), tiny_model_dir)


# -- the plain way ----------------------------------------------------------------------------------------------------
def rds_vectors(folder, rows):
    """The position-weighted mean of the last hidden states of each row, alone in its batch."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for row in rows:
        prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[-1][0]
        weights = [place / sum(range(1, len(states) + 1)) for place in range(1, len(states) + 1)]
        vectors.append(sum(weight * state for weight, state in zip(weights, states, strict=True)).numpy())
    return np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def cosines(tiny_model_dir, rows, target):
    """The cosines of the rows with the target rows, the plain way."""
    return rds_vectors(tiny_model_dir, rows) @ rds_vectors(tiny_model_dir, target).T


def test_rds_equals_reference(tiny_model_dir, rows, validation, cosines):
    subject = replace(RDS, validation=validation, model=str(tiny_model_dir))
    result = score(rows, [subject])
    np.testing.assert_allclose(result["similarity_by_target"], cosines, atol=1e-6)
    np.testing.assert_allclose(result["similarity"], cosines.max(axis=1), atol=1e-6)
    assert result["similarity_match"][:] == [str(best) for best in cosines.argmax(axis=1)]
    assert result.features["similarity_by_target"] == List(Value("float32"))
    assert cosines.std() > 0.02
    uniform = score(rows, [replace(subject, pooling="mean")])["similarity"]
    assert np.abs(np.array(uniform) - result["similarity"]).max() > 1e-3


def test_subtasks(tiny_model_dir, rows, validation, cosines):
    subject = replace(RDS, validation=validation, model=str(tiny_model_dir), subtask="task")
    result = score(rows, [subject])
    expected = np.stack([cosines[:, [1, 3]].max(axis=1), cosines[:, [0, 2, 4]].max(axis=1)], axis=1)
    np.testing.assert_allclose(result["similarity_by_target"], expected, atol=1e-6)
    assert result["similarity_match"][:] == [f"{'babab'[best]}:{best}" for best in cosines.argmax(axis=1)]


def test_equals_cosines_of_embeddings(tiny_model_dir, rows, validation, target):
    embedding = Embedding(str(tiny_model_dir), part="response", pooling="last")
    subject = Similarity(str(tiny_model_dir), validation=validation, part="response", pooling="last")
    vectors = [np.array(score(data, [embedding])["embedding"][:]) for data in (rows, target)]
    result = score(rows, [subject])
    assert "similarity_by_target" not in result.column_names
    np.testing.assert_allclose(result["similarity"], (vectors[0] @ vectors[1].T).max(axis=1), atol=1e-5)


def test_batches_and_shared_pass(model, tokenizer, rows, validation, cosines):
    live = {"model": model, "processing_class": tokenizer}
    subject = replace(RDS, validation=validation)
    for size in (1, 10**6):
        result = score(rows, [subject], scoring_tokens_per_batch=size, **live)["similarity_by_target"]
        np.testing.assert_allclose(result, cosines, atol=1e-6)
    passes = []
    hook = model.base_model.layers[0].register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    score(rows, [Loss(), subject], **live)
    hook.remove()
    assert passes[-2:] == [10, 5]
    assert set(passes[:-2]) == {1}  # two rows, to check the LM head


def test_map_embeds_target_rows_once(tiny_model_dir, rows, validation, monkeypatch):
    subject = replace(RDS, validation=validation, model=str(tiny_model_dir))
    passes, original = [], Similarity.row_vectors
    monkeypatch.setattr(
        Similarity, "row_vectors", lambda self, some, runner: passes.append(len(some)) or original(self, some, runner)
    )
    rows.map(subject, batched=True, batch_size=4, load_from_cache_file=False, keep_in_memory=True)
    assert sorted(passes) == [2, 4, 4, 5]


# -- target rows ------------------------------------------------------------------------------------------------------
def test_unusable_target_rows(tiny_model_dir, rows, target, tmp_path, caplog):
    data = [*target, {"instruction": "x", "input": "", "output": " ", "task": "none"}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(json.dumps(row) for row in data))
    subject = replace(RDS, validation=str(tmp_path / "mixed.jsonl"), model=str(tiny_model_dir), subtask="task")
    with caplog.at_level(logging.WARNING):
        result = score(rows, [subject])
    assert {len(each) for each in result["similarity_by_target"]} == {2}
    assert "1 of the 6 validation rows" in caplog.text
    assert "1 empty_response. Subtasks without any row: none." in caplog.text
    (tmp_path / "empty.jsonl").write_text(json.dumps(data[-1]))
    with pytest.raises(ScoreError, match=r"None of the 1 rows of .* can be used: 1 empty_response"):
        score(rows, [replace(subject, validation=str(tmp_path / "empty.jsonl"))])


def test_spec_depends_on_target_rows(rows, target, tmp_path):
    path = tmp_path / "rows.jsonl"
    target.to_json(path)
    subject = replace(RDS, validation=str(path))
    before = subject.spec()["resolved_validation"], subject.__reduce__()
    target.select(range(3)).to_json(path)
    assert subject.spec()["resolved_validation"] != before[0]
    assert subject.__reduce__() != before[1]


def test_errors(tiny_model_dir, rows, validation):
    named = Similarity(str(tiny_model_dir), validation=validation)
    with pytest.raises(FormatError, match=r"Similarity\(validation='nothing\.jsonl'\): There is no file or folder"):
        score(rows, [replace(named, validation="nothing.jsonl")])
    with pytest.raises(ColumnError, match=r"Similarity\(subtask='tasks'\).*Did you mean 'task'\?"):
        score(rows, [replace(named, subtask="tasks")])
    with pytest.raises(ConfigError, match=r"Similarity\(pooling='weighted'\).*Did you mean 'weighted_mean'\?"):
        replace(named, pooling="weighted")
    with pytest.raises(ConfigError, match=r"Similarity\(by_target=1\)"):
        replace(named, by_target=1)


def test_rows_of_pool_without_a_response(tiny_model_dir, rows, validation):
    data = rows.select(range(2)).map(lambda row, index: {"output": "" if index else row["output"]}, with_indices=True)
    result = score(data, [replace(RDS, validation=validation, model=str(tiny_model_dir))], on_summary=str)
    assert result["similarity_reason"][:] == ["", "empty_response"]
    assert result["similarity_by_target"][1] is None
    assert result["similarity_match"][1] == ""
