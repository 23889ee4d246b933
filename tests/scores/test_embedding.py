"""Vectors of rows: plain forward passes, pooling by hand, batches, the round's model, and rows without text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, List, Value
from transformers import AutoTokenizer, BertConfig, BertModel, T5Config, T5Model

from hf_datasel import score
from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.cache import as_numpy
from hf_datasel.scores import Embedding, Length, Loss
from hf_datasel.scoring import row_vectors
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import load_tokenizer
from hf_datasel.testing import contract
from hf_datasel.tokens import PreparedDataset, TokenSettings, prepare_dataset


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory, tiny_model_dir):
    """Give the folder of a two-layer bidirectional encoder, whose tokenizer file cuts and pads by itself."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.model_max_length = 128
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@contract(
    Embedding(),
    Embedding(part="response", pooling="last", normalize=False, max_length=20, column_prefix="v_"),
    Embedding(part="response", as_trained=True),
)
def test_contract(check, score, rows, tiny_model_dir):
    check(score, rows, tiny_model_dir)


@contract(Embedding(part="prompt"))
def test_contract_of_an_encoder(check, score, rows, encoder_dir):
    check(score, rows, encoder_dir)


# -- against a plain computation --------------------------------------------------------------------------------------
TEXTS = {
    "prompt": "Add the two numbers.\n\n4 and 9",
    "response": "4 and 9 make 13.",
    "both": "Add the two numbers.\n\n4 and 9\n4 and 9 make 13.",
}


def plain_states(backbone, tokenizer, text, max_length=128):
    """The last hidden states of one text, by one forward pass without padding."""
    ids = tokenizer(text, truncation=True, max_length=max_length, padding=False)["input_ids"]
    with torch.no_grad():
        return backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


def pooled(states, pooling, normalize):
    vector = states.mean(axis=0) if pooling == "mean" else states[-1]
    return vector / np.linalg.norm(vector) if normalize else vector


@pytest.mark.parametrize("part", ["prompt", "response", "both"])
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("mean", False), ("last", True), ("last", False)])
def test_encoder_equals_reference(encoder_dir, rows, part, pooling, normalize):
    backbone, tokenizer = BertModel.from_pretrained(encoder_dir).eval(), AutoTokenizer.from_pretrained(encoder_dir)
    scored = score(rows, [Embedding(encoder_dir, part=part, pooling=pooling, normalize=normalize)])
    texts = Pool(rows).texts(part)
    assert texts[2] == TEXTS[part]
    expected = [pooled(plain_states(backbone, tokenizer, text), pooling, normalize) for text in texts]
    np.testing.assert_allclose(scored["embedding"], expected, atol=1e-5)
    assert scored.features["embedding"] == List(Value("float32"))
    assert scored["embedding_reason"][:] == [""] * len(rows)
    assert np.ptp(expected, axis=0).max() > 1e-2


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_live_model_equals_reference(model, tokenizer, rows, pooling):
    result = score(rows, [Embedding(pooling=pooling)], model=model, processing_class=tokenizer)["embedding"]
    texts = Pool(rows).texts("both")
    expected = [pooled(plain_states(model.base_model, tokenizer, text, 1024), pooling, True) for text in texts]
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_named_model_equals_live_model(tiny_model_dir, model, tokenizer, rows):
    named = score(rows, [Embedding(str(tiny_model_dir))])["embedding"]
    live = score(rows, [Embedding()], model=model, processing_class=tokenizer)["embedding"]
    np.testing.assert_allclose(named, live, atol=1e-6)


def test_live_adapters_are_used(model, tokenizer, rows):
    from peft import LoraConfig, get_peft_model

    before = np.array(score(rows, [Embedding()], model=model, processing_class=tokenizer)["embedding"])
    tuned = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM"))
    after = np.array(score(rows, [Embedding()], model=tuned, processing_class=tokenizer)["embedding"])
    expected = [
        pooled(plain_states(tuned.get_base_model().base_model.eval(), tokenizer, text, 1024), "mean", True)
        for text in Pool(rows).texts("both")
    ]
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_pooling_excludes_padding():
    class Padded(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            states = input_ids[..., None].float().repeat(1, 1, 2)
            states[attention_mask == 0] = float("nan")
            return type("Output", (), {"last_hidden_state": states})()

    ids = [np.array([2, 4, 9]), np.array([6]), np.array([1, 2])]
    for pooling, expected in (
        ("mean", [5.0, 6.0, 1.5]),
        ("last", [9.0, 6.0, 2.0]),
        ("weighted_mean", [37 / 6, 6.0, 5 / 3]),
    ):
        created = object.__new__(row_vectors._Encoder)
        created.backbone, created.device, created.padding = Padded(), torch.device("cpu"), 0
        created.pooling = pooling
        np.testing.assert_allclose(created.pooled(ids), [[value, value] for value in expected], rtol=1e-6)


def test_batch_size_invariance(encoder_dir, model, tokenizer, pool_rows):
    for inputs in ({"model": model, "processing_class": tokenizer}, {"model": encoder_dir}):
        one, many = (
            score(pool_rows, [Embedding()], scoring_tokens_per_batch=tokens, **inputs)["embedding"]
            for tokens in (1, 10**6)
        )
        np.testing.assert_allclose(one, many, atol=1e-5)


def test_rows_are_read_in_chunks(monkeypatch, model, tokenizer, rows):
    full = score(rows, [Embedding()], model=model, processing_class=tokenizer)["embedding"]
    monkeypatch.setattr(row_vectors, "_CHUNK_ROWS", 3)
    result = score(rows, [Embedding()], model=model, processing_class=tokenizer)["embedding"]
    np.testing.assert_allclose(result, full, atol=1e-5)


def test_subset_of_rows(model, tokenizer, pool_rows):
    full = score(pool_rows, [Embedding()], model=model, processing_class=tokenizer)["embedding"]
    some = np.array([20, 3, 11])
    pool, settings = Pool(pool_rows), TokenSettings(max_length=96)
    prepared = PreparedDataset(prepare_dataset(convert_pool(pool, True), tokenizer, settings), tokenizer, settings)
    for created in (None, prepared):
        # training cuts rows at another length, which is no matter for texts
        engine = Engine(pool, model, tokenizer, settings=settings, prepared=created)
        result = as_numpy(engine.compute(Embedding(max_length=512), some)["embedding"])
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, np.array(full)[some], atol=1e-5)


def test_map_infers_float32(encoder_dir, rows):
    result = rows.map(Embedding(encoder_dir), batched=True, batch_size=3, load_from_cache_file=False)
    assert result.features["embedding"] == List(Value("float32"))
    np.testing.assert_allclose(result["embedding"], score(rows, [Embedding(encoder_dir)])["embedding"], atol=1e-5)


def test_tokenizer_is_unchanged(encoder_dir, rows):
    tokenizer = load_tokenizer(encoder_dir)
    before = tokenizer.backend_tokenizer.to_str()
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 16
    score(rows, [Embedding(encoder_dir)])
    assert tokenizer.backend_tokenizer.to_str() == before


# -- the row as training sees it --------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["prompt", "response", "both"])
@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last"])
def test_as_trained_pools_training_tokens(part, pooling, model, tokenizer, rows):
    scored = score(
        rows, [Embedding(part=part, pooling=pooling, as_trained=True)], model=model, processing_class=tokenizer
    )
    settings = TokenSettings()
    trained = PreparedDataset(
        prepare_dataset(convert_pool(Pool(rows), True), tokenizer, settings), tokenizer, settings
    ).with_spans(True)
    for vector, ids, (start, stop) in zip(scored["embedding"], trained["input_ids"], trained["spans"], strict=True):
        with torch.no_grad():
            states = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        part_of = {"prompt": states[:start], "response": states[start:stop], "both": states}[part]
        if pooling == "weighted_mean":
            total = sum(place * state for place, state in enumerate(part_of, 1))
            expected = total / sum(range(1, len(part_of) + 1))
        else:
            expected = part_of[-1] if pooling == "last" else part_of.mean(dim=0)
        np.testing.assert_allclose(vector, expected / expected.norm(), atol=1e-5)


def test_as_trained_shares_forward_pass(model, tokenizer, rows):
    live = {"model": model, "processing_class": tokenizer}
    seen = []
    model.base_model.layers[0].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    loss = score(rows, [Loss()], **live)["loss"][:]
    one_pass, seen[:] = sum(seen), []
    together = score(rows, [Embedding(as_trained=True), Loss(), Length("tokens")], **live)
    assert sum(seen) == one_pass
    assert together["loss"][:] == loss
    assert together["embedding"][:] == score(rows, [Embedding(as_trained=True)], **live)["embedding"][:]


# -- rows -------------------------------------------------------------------------------------------------------------
def test_rows_without_text(encoder_dir):
    data = Dataset.from_dict({"prompt": ["Is it slow?", "a", " ", None], "completion": ["Yes.", " ", "No.", "x"]})
    scored = score(data, [Embedding(encoder_dir, part="prompt")], on_summary=str)
    assert [value is None for value in scored["embedding"]] == [False, True, True, True]
    assert scored["embedding_reason"][:3] == ["", "empty_response", "empty_text"]
    assert scored["embedding_reason"][3]
    none = score(data.select([1, 2]), [Embedding(encoder_dir, part="prompt")], on_summary=str)
    assert none["embedding"][:] == [None, None]
    response = score(data.select([2]), [Embedding(encoder_dir)], on_summary=str)["embedding"]
    alone = score(Dataset.from_dict({"text": ["No."]}), [Embedding(encoder_dir)])["embedding"]
    np.testing.assert_allclose(response, alone, atol=1e-6)  # an empty prompt leaves no newline


def test_text_rows_have_no_parts(encoder_dir):
    with pytest.raises(FormatError, match=r"have no response to embed. Embedding\(part='both'\)"):
        score(Dataset.from_dict({"text": ["a"]}), [Embedding(encoder_dir, part="response")])


def test_long_texts_are_truncated(encoder_dir):
    data = Dataset.from_dict({"text": ["word " * 400]})
    backbone, tokenizer = BertModel.from_pretrained(encoder_dir).eval(), AutoTokenizer.from_pretrained(encoder_dir)
    for limit in (None, 9):
        expected = pooled(plain_states(backbone, tokenizer, data[0]["text"], limit or 128), "mean", True)
        result = score(data, [Embedding(encoder_dir, max_length=limit)])["embedding"]
        np.testing.assert_allclose(result, [expected], atol=1e-5)
    with pytest.raises(ModelError, match=r"Embedding\(max_length=129\) is more than the 128 tokens"):
        score(data, [Embedding(encoder_dir, max_length=129)])


def test_non_finite_values(model, tokenizer, rows):
    with torch.no_grad():
        model.base_model.norm.weight[0] = float("nan")
    scored = score(rows, [Embedding()], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["embedding"][:] == [None] * len(rows)
    assert set(scored["embedding_reason"]) == {"not_finite"}


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "respons"}, r"Embedding\(part='respons'\).*Did you mean 'response'\?"),
        ({"pooling": "max"}, r"Embedding\(pooling='max'\): it has to be 'mean', 'weighted_mean' or 'last'"),
        ({"vectors_dtype": "bfloat16"}, r"vectors_dtype='bfloat16'\): it has to be 'float32' or 'float16'"),
        ({"normalize": 1}, r"Embedding\(normalize=1\): it has to be True or False"),
        ({"max_length": 1}, "max_length has to be an int of at least 2"),
        ({"model": 3}, r"Embedding\(model=\.\.\.\) has to be a name or a path"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Embedding(**settings)


def test_invalid_models(tmp_path, rows, model, tokenizer):
    with pytest.raises(ScoreError, match=r"Embedding\(\) has no model to run in map"):
        Embedding()(rows[:2])
    with pytest.raises(ScoreError, match="Embedding has no model to run"):
        score(rows, [Embedding()])
    t5 = tmp_path / "t5"
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)).save_pretrained(t5)
    tokenizer.save_pretrained(t5)
    with pytest.raises(ModelError, match="is an encoder-decoder model"):
        score(rows, [Embedding(str(t5))])
    (t5 / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is an encoder-decoder model"):  # for which no weights are read
        Engine(Pool(rows)).compute(Embedding(str(t5)), np.empty(0, dtype=np.int64))


def test_named_adapter(tmp_path, rows, model, tokenizer):
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = score(rows, [Embedding()], model=tuned, processing_class=tokenizer)["embedding"]
    np.testing.assert_allclose(score(rows, [Embedding(str(tmp_path))])["embedding"], expected, atol=1e-5)


def test_float16_vectors(encoder_dir, model, tokenizer, rows, monkeypatch):
    half = Embedding(encoder_dir, vectors_dtype="float16")
    exact, scored = score(rows, [replace(half, vectors_dtype="float32")]), score(rows, [half])
    assert scored.features["embedding"] == List(Value("float16"))
    assert scored["embedding"][:] == np.array(exact["embedding"][:], dtype=np.float16).tolist()
    assert half.spec()["vectors_dtype"] == "float16"
    assert score(exact, [half]).features["embedding"] == List(Value("float16"))  # replaces the column
    mapped = rows.map(half, batched=True, batch_size=3, load_from_cache_file=False)
    assert mapped.features["embedding"] == List(Value("float16"))
    np.testing.assert_allclose(mapped["embedding"], exact["embedding"], atol=1e-3)
    with torch.no_grad():
        model.base_model.norm.weight *= 1e6
    large = Embedding(normalize=False, vectors_dtype="float16")
    scored = score(rows, [large], model=model, processing_class=tokenizer, on_summary=str)
    assert scored["embedding"][:] == [None] * len(rows)
    assert set(scored["embedding_reason"]) == {"not_finite"}
