"""`hf_datasel.score`: several scores over a whole dataset."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, Value

from hf_datasel import score
from hf_datasel.errors import DataselError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scores import IFD, Cluster, DeitaScore, Embedding, Influence, Length, Loss, Reward, RewardGap, SelectIT
from hf_datasel.scoring import models
from hf_datasel.scoring.engine import Engine
from hf_datasel.tokens import TokenSettings


def passes(model, run):
    """Return the result of `run`, and the number of rows in forward passes."""
    seen = []
    hook = model.model.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[0]))
    try:
        return run(), sum(seen)
    finally:
        hook.remove()


LENGTH = ("response_words", "length_reason")


def test_columns_are_appended(model, tokenizer, pool_rows):
    data = pool_rows.add_column("source", [f"s{row}" for row in range(24)])
    result = score(data, [IFD(), Length()], model=model, processing_class=tokenizer)
    assert result.column_names == [*data.column_names, "ifd", "loss", "loss_prior", "ifd_reason", *LENGTH]
    assert result.select_columns(data.column_names).to_dict() == data.to_dict()


def test_scores_share_forward_passes(model, tokenizer, pool_rows):
    live = {"model": model, "processing_class": tokenizer}
    _, loss_rows = passes(model, lambda: score(pool_rows, [Loss()], **live))
    alone, ifd_rows = passes(model, lambda: score(pool_rows, [IFD()], **live))
    both, rows = passes(model, lambda: score(pool_rows, [Loss(), IFD(), Length("tokens")], **live))
    assert rows == ifd_rows
    assert 2 * loss_rows > ifd_rows > loss_rows
    assert both["ifd"][:] == alone["ifd"][:]
    assert both["loss"][:] == alone["loss"][:]


@pytest.mark.parametrize("named", [Embedding, Reward])
def test_checks_without_rows(model, tokenizer, tiny_model_dir, pool_rows, named, monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda how: pytest.fail(f"{how} was loaded"))
    none = np.empty(0, dtype=np.int64)
    engine = Engine(Pool(pool_rows), model, tokenizer)
    texts = Engine(Pool(pool_rows.select_columns("output").rename_column("output", "text")), model, tokenizer)
    result = engine.compute(Embedding(str(tiny_model_dir), column_prefix="old_"), none)
    assert {name: (len(item), item.type) for name, item in result.items()} == {
        "old_embedding": (0, pa.list_(pa.float32())),
        "old_embedding_reason": (0, pa.string()),
    }
    assert set(engine.compute(IFD(), none)) == {"ifd", "loss", "loss_prior", "ifd_reason"}
    with pytest.raises(ModelError, match="No model '/no/such/model'"):
        engine.compute(named("/no/such/model"), none)
    with pytest.raises(FormatError, match="only a text column have no response to"):
        texts.compute(IFD(), none)
    with pytest.raises(FormatError, match=r"only a text column have no (prompt to embed|response to rate)"):
        texts.compute(named(str(tiny_model_dir), **({"part": "prompt"} if named is Embedding else {})), none)
    with pytest.raises(ScoreError, match="has only 24 rows to fit to"):
        engine.compute(Cluster(k=25), none)


def test_row_order_and_batch_size(model, tokenizer, pool_rows):
    live = {"model": model, "processing_class": tokenizer}
    expected = np.array(score(pool_rows, [IFD()], **live)["ifd"])
    order = np.random.default_rng(0).permutation(24)
    shuffled = score(pool_rows.select(order), [IFD()], scoring_tokens_per_batch=200, **live)
    np.testing.assert_allclose(shuffled["ifd"], expected[order], rtol=1e-5)


@pytest.mark.parametrize("good", [0, -1])
def test_many_null_rows(tiny_model_dir, good):
    answers = [""] * 3001
    answers[good] = "Yes."
    data = Dataset.from_dict({"prompt": ["Hi?"] * 3001, "completion": answers})
    result = score(data, [IFD(str(tiny_model_dir))])
    assert result.features["ifd"] == Value("float32")
    assert result.data.column("ifd_reason").null_count == 0
    assert (result["ifd_reason"][good], result["ifd_reason"][1]) == ("", "empty_response")
    assert result["ifd"][good] > 0
    assert result.data.column("ifd").null_count == 3000


@pytest.mark.parametrize("settings", [{}, {"convention": "cherry"}, {"convention": "iterit"}])
def test_all_rows_null(tiny_model_dir, settings):
    data = Dataset.from_dict({"instruction": ["a", "b"], "output": ["", None]})
    result = score(data, [IFD(str(tiny_model_dir), **settings), Length("tokens", str(tiny_model_dir))])
    assert result["ifd"][:] == result["num_tokens"][:] == [None, None]
    assert result["ifd_reason"][:] == ["empty_response"] * 2
    assert (result.features["ifd"], result.features["num_tokens"]) == (Value("float32"), Value("int32"))


def test_no_row_fits(tiny_model_dir):
    data = Dataset.from_dict({"prompt": ["a long question"], "completion": ["b"]})
    assert score(data, [Loss(str(tiny_model_dir), max_length=4)])["loss_reason"][:] == ["prompt_fills_window"]


def test_existing_columns_are_replaced(model, tokenizer, pool_rows):
    live = {"model": model, "processing_class": tokenizer}
    stale = pool_rows.add_column("ifd", ["stale"] * 24)
    assert score(stale, [IFD()], overwrite=True, **live)["ifd"][:] == score(pool_rows, [IFD()], **live)["ifd"][:]


def test_single_score(pool_rows):
    assert score(pool_rows, Length())["response_words"][0] == 4


def test_selected_and_formatted_datasets(pool_rows):
    data = pool_rows.select([3, 1]).with_format("numpy")
    assert score(data, [Length()])["response_words"][:] == [5, 8]


def test_conflicting_columns(model, tokenizer, pool_rows):
    live = {"model": model, "processing_class": tokenizer}
    message = r"IFD\(.*\) and IFD\(.*\) both write 'ifd'. Give one of them a column_prefix"
    with pytest.raises(ScoreError, match=message):
        score(pool_rows, [IFD(), IFD(prior_context="bos")], **live)
    with pytest.raises(ScoreError, match="both write 'loss'"):
        score(pool_rows, [Loss(), IFD(convention="cherry")], **live)
    with pytest.raises(ScoreError, match="both write 'loss'"):
        score(pool_rows, [Loss(max_length=16), IFD()], **live)
    result = score(pool_rows, [IFD(), IFD(prior_context="bos", column_prefix="bos_")], **live)
    assert result["ifd"][:] != result["bos_ifd"][:]
    np.testing.assert_allclose(result["loss"], result["bos_loss"], rtol=1e-5)


@pytest.mark.parametrize("scores", [[Loss(), IFD()], [IFD(), Loss()]])
def test_non_finite_prior_keeps_the_loss(model, tokenizer, pool_rows, scores):
    live = {"model": model, "processing_class": tokenizer}
    expected = score(pool_rows, [Loss()], **live)["loss"][:]
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.bos_token_id] = float("nan")
    result = score(pool_rows, scores, **live)
    assert result["loss"][:] == expected
    assert set(result["ifd"]) == set(result["loss_prior"]) == {None}
    assert (set(result["loss_reason"]), set(result["ifd_reason"])) == ({""}, {"not_finite"})


def test_duplicate_scores(model, tokenizer, pool_rows):
    result = score(pool_rows, [Loss(), Loss()], model=model, processing_class=tokenizer)
    assert result.column_names[-2:] == ["loss", "loss_reason"]


def test_models_named_by_scores(tiny_model_dir, model, tokenizer, pool_rows):
    path = str(tiny_model_dir)
    by_default = score(pool_rows, [Loss()], model=path)["loss"][:]
    assert score(pool_rows, [Loss(path)])["loss"][:] == by_default
    assert score(pool_rows, [Loss()], model=model, processing_class=tokenizer)["loss"][:] == by_default
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.zero_()
    both = [Loss(), Loss(path, column_prefix="other_")]
    result = score(pool_rows, both, model=model, processing_class=tokenizer)
    assert result["other_loss"][:] == by_default
    assert result["loss"][:] != by_default


def test_invalid_input(model, tokenizer, pool_rows, tiny_model_dir):
    with pytest.raises(ScoreError, match=r"Loss has no model to run. Pass its name or path: model=\.\.\."):
        score(pool_rows, [Loss()])
    for named in ({"model": str(tiny_model_dir)}, {}):
        with pytest.raises(ScoreError, match=r"processing_class is for a loaded model, and model=.* is none"):
            score(pool_rows, [Loss(str(tiny_model_dir))], processing_class=tokenizer, **named)
    with pytest.raises(ScoreError, match=r"A loaded model \(LlamaForCausalLM\) needs its tokenizer"):
        score(pool_rows, [Loss()], model=model)
    with pytest.raises(ScoreError, match="The dataset is empty"):
        score(pool_rows.select([]), [Length()])
    with pytest.raises(FormatError, match="DatasetDict with splits"):
        score(DatasetDict({"train": pool_rows}), [Length()])
    with pytest.raises(FormatError, match="match none of the supported formats"):
        score(pool_rows.rename_columns({"instruction": "ask", "output": "answer"}), [Length()])
    with pytest.raises(FormatError, match="only a text column have no response"):
        score(Dataset.from_dict({"text": ["a"]}), [Loss()], model=model, processing_class=tokenizer)


def test_trainer_truncation(model, tokenizer, pool_rows):
    engine = Engine(Pool(pool_rows), model, tokenizer, settings=TokenSettings(max_length=48))
    trained = engine.compute(Loss())["loss"].to_pylist()
    expected = score(pool_rows, [Loss(max_length=48)], model=model, processing_class=tokenizer)["loss"][:]
    assert trained == expected
    assert None in trained
    with pytest.raises(
        ScoreError, match=r"Loss\(max_length=64\) does not truncate rows as training does \(max_length=48\)"
    ):
        engine.compute(Loss(max_length=64))


def test_indices_set_the_order(model, tokenizer, pool_rows):
    engine = Engine(Pool(pool_rows), model, tokenizer)
    complete = engine.compute(IFD())["ifd"].to_pylist()
    part = engine.compute(IFD(), np.array([7, 2, 11]))["ifd"].to_pylist()
    assert part == pytest.approx([complete[7], complete[2], complete[11]], rel=1e-5)


def test_summary_of_null_rows(pool_rows, caplog):
    data = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", ""]})
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        score(pool_rows, [Length()])
        assert caplog.text == ""
        score(data, [Length()])
    assert "response_words: 1 of 2 rows scored, 1 without: 1 empty_response" in caplog.text


def test_first_thousand_rows_null(model, tokenizer):
    full = [{"role": "user", "content": "why " * 40}, {"role": "assistant", "content": "Because."}]
    short = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    data = Dataset.from_dict({"messages": [full] * 1_200 + [short] * 2})
    result = score(data, [Loss(max_length=40)], model=model, processing_class=tokenizer)
    assert set(result["loss_reason"][:1_200]) == {"prompt_fills_window"}
    assert None not in result["loss"][1_200:]


@pytest.mark.parametrize(
    "missing",
    [
        {"scores": [Loss(), Reward("/no/reward")]},
        {"scores": [Loss(), RewardGap(reward_model="/no/reward")]},
        {"scores": [Loss(), DeitaScore(complexity_model="/no/one", quality_model="/no/other")]},
        {"scores": [Loss(), Embedding("/no/encoder")]},
        {"scores": [Loss(), Cluster(centroids="/no/centroids.npy")]},
        {"scores": [Loss(), SelectIT("/no/a", level="model", parameters=1, models=(("/no/b", 2),))]},
        {"scores": [Loss(), Influence(checkpoints=("/no/checkpoint",), validation="/no/rows.json")]},
        {"scores": [Length(), Loss()], "model": "/no/model"},
    ],
)
def test_missing_models_and_files_are_named_first(missing, tiny_model_dir, pool_rows):
    done = []
    with pytest.raises(DataselError, match="/no/"):
        score(pool_rows, **{"model": tiny_model_dir, **missing}, on_summary=done.append)
    assert done == []
