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
    """(result, rows that went through the model's layers)."""
    seen = []
    hook = model.model.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[0]))
    try:
        return run(), sum(seen)
    finally:
        hook.remove()


LENGTH = ("response_words", "length_reason")


def test_columns_are_added_and_rows_left_alone(model, tokenizer, pool_rows):
    data = pool_rows.add_column("source", [f"s{row}" for row in range(24)])
    found = score(data, [IFD(), Length()], model=model, tokenizer=tokenizer)
    assert found.column_names == [*data.column_names, "ifd", "loss", "loss_prior", "ifd_reason", *LENGTH]
    assert found.select_columns(data.column_names).to_dict() == data.to_dict()


def test_scores_that_need_the_same_pass_share_it(model, tokenizer, pool_rows):
    live = {"model": model, "tokenizer": tokenizer}
    _, loss_rows = passes(model, lambda: score(pool_rows, [Loss()], **live))
    alone, ifd_rows = passes(model, lambda: score(pool_rows, [IFD()], **live))
    both, rows = passes(model, lambda: score(pool_rows, [Loss(), IFD(), Length("tokens")], **live))
    assert rows == ifd_rows
    assert 2 * loss_rows > ifd_rows > loss_rows
    assert both["ifd"][:] == alone["ifd"][:]
    assert both["loss"][:] == alone["loss"][:]


@pytest.mark.parametrize("named", [Embedding, Reward])
def test_of_no_rows_it_is_checked_whether_they_could_be_scored(
    model, tokenizer, tiny_model_dir, pool_rows, named, monkeypatch
):
    monkeypatch.setattr(models, "read_model", lambda how: pytest.fail(f"{how} was loaded"))
    none = np.empty(0, dtype=np.int64)
    engine = Engine(Pool(pool_rows), model, tokenizer)
    texts = Engine(Pool(pool_rows.select_columns("output").rename_column("output", "text")), model, tokenizer)
    found = engine.compute(Embedding(str(tiny_model_dir), column_prefix="old_"), none)
    assert {name: (len(each), each.type) for name, each in found.items()} == {
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


def test_row_order_and_batches_do_not_matter(model, tokenizer, pool_rows):
    live = {"model": model, "tokenizer": tokenizer}
    expected = np.array(score(pool_rows, [IFD()], **live)["ifd"])
    order = np.random.default_rng(0).permutation(24)
    shuffled = score(pool_rows.select(order), [IFD()], tokens_per_batch=200, **live)
    np.testing.assert_allclose(shuffled["ifd"], expected[order], rtol=1e-5)


@pytest.mark.parametrize("good", [0, -1])
def test_thousands_of_rows_without_a_score(tiny_model_dir, good):
    answers = [""] * 3001
    answers[good] = "Yes."
    data = Dataset.from_dict({"prompt": ["Hi?"] * 3001, "completion": answers})
    found = score(data, [IFD(str(tiny_model_dir))])
    assert found.features["ifd"] == Value("float32")
    assert found.data.column("ifd_reason").null_count == 0
    assert (found["ifd_reason"][good], found["ifd_reason"][1]) == ("", "empty_response")
    assert found["ifd"][good] > 0
    assert found.data.column("ifd").null_count == 3000


@pytest.mark.parametrize("settings", [{}, {"convention": "cherry"}, {"convention": "iterit"}])
def test_no_row_with_a_score(tiny_model_dir, settings):
    data = Dataset.from_dict({"instruction": ["a", "b"], "output": ["", None]})
    found = score(data, [IFD(str(tiny_model_dir), **settings), Length("tokens", str(tiny_model_dir))])
    assert found["ifd"][:] == found["num_tokens"][:] == [None, None]
    assert found["ifd_reason"][:] == ["empty_response"] * 2
    assert (found.features["ifd"], found.features["num_tokens"]) == (Value("float32"), Value("int32"))


def test_no_row_that_fits(tiny_model_dir):
    data = Dataset.from_dict({"prompt": ["a long question"], "completion": ["b"]})
    assert score(data, [Loss(str(tiny_model_dir), max_length=4)])["loss_reason"][:] == ["prompt_fills_window"]


def test_columns_that_are_there_are_replaced(model, tokenizer, pool_rows):
    live = {"model": model, "tokenizer": tokenizer}
    stale = pool_rows.add_column("ifd", ["stale"] * 24)
    assert score(stale, [IFD()], **live)["ifd"][:] == score(pool_rows, [IFD()], **live)["ifd"][:]


def test_one_score_need_not_be_a_list(pool_rows):
    assert score(pool_rows, Length())["response_words"][0] == 4


def test_selected_and_formatted_datasets(pool_rows):
    data = pool_rows.select([3, 1]).with_format("numpy")
    assert score(data, [Length()])["response_words"][:] == [5, 8]


def test_different_numbers_in_one_column_are_refused(model, tokenizer, pool_rows):
    live = {"model": model, "tokenizer": tokenizer}
    message = r"IFD\(.*\) and IFD\(.*\) both write 'ifd'. Give one of them a column_prefix"
    with pytest.raises(ScoreError, match=message):
        score(pool_rows, [IFD(), IFD(prior_context="bos")], **live)
    with pytest.raises(ScoreError, match="both write 'loss'"):
        score(pool_rows, [Loss(), IFD(convention="cherry")], **live)
    with pytest.raises(ScoreError, match="both write 'loss'"):
        score(pool_rows, [Loss(max_length=16), IFD()], **live)
    found = score(pool_rows, [IFD(), IFD(prior_context="bos", column_prefix="bos_")], **live)
    assert found["ifd"][:] != found["bos_ifd"][:]
    np.testing.assert_allclose(found["loss"], found["bos_loss"], rtol=1e-5)


@pytest.mark.parametrize("scores", [[Loss(), IFD()], [IFD(), Loss()]])
def test_a_prior_that_is_not_finite_leaves_the_loss(model, tokenizer, pool_rows, scores):
    live = {"model": model, "tokenizer": tokenizer}
    expected = score(pool_rows, [Loss()], **live)["loss"][:]
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.bos_token_id] = float("nan")
    found = score(pool_rows, scores, **live)
    assert found["loss"][:] == expected
    assert set(found["ifd"]) == set(found["loss_prior"]) == {None}
    assert (set(found["loss_reason"]), set(found["ifd_reason"])) == ({""}, {"not_finite"})


def test_equal_scores_twice_are_one(model, tokenizer, pool_rows):
    found = score(pool_rows, [Loss(), Loss()], model=model, tokenizer=tokenizer)
    assert found.column_names[-2:] == ["loss", "loss_reason"]


def test_scores_name_their_own_models(tiny_model_dir, model, tokenizer, pool_rows):
    path = str(tiny_model_dir)
    by_default = score(pool_rows, [Loss()], model=path)["loss"][:]
    assert score(pool_rows, [Loss(path)])["loss"][:] == by_default
    assert score(pool_rows, [Loss()], model=model, tokenizer=tokenizer)["loss"][:] == by_default
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.zero_()
    both = [Loss(), Loss(path, column_prefix="other_")]
    found = score(pool_rows, both, model=model, tokenizer=tokenizer)
    assert found["other_loss"][:] == by_default
    assert found["loss"][:] != by_default


def test_what_it_refuses(model, tokenizer, pool_rows):
    with pytest.raises(ScoreError, match=r"Loss has no model to run. Pass its name or path: model=\.\.\."):
        score(pool_rows, [Loss()])
    with pytest.raises(ScoreError, match="A live LlamaForCausalLM needs its tokenizer"):
        score(pool_rows, [Loss()], model=model)
    with pytest.raises(ScoreError, match="The dataset is empty"):
        score(pool_rows.select([]), [Length()])
    with pytest.raises(FormatError, match="DatasetDict with splits"):
        score(DatasetDict({"train": pool_rows}), [Length()])
    with pytest.raises(FormatError, match="make none of the formats"):
        score(pool_rows.rename_columns({"instruction": "ask", "output": "answer"}), [Length()])
    with pytest.raises(FormatError, match="only a text column have no response"):
        score(Dataset.from_dict({"text": ["a"]}), [Loss()], model=model, tokenizer=tokenizer)


def test_inside_a_trainer_rows_are_cut_as_training_cuts_them(model, tokenizer, pool_rows):
    engine = Engine(Pool(pool_rows), model, tokenizer, settings=TokenSettings(max_length=48))
    trained = engine.compute(Loss())["loss"].to_pylist()
    expected = score(pool_rows, [Loss(max_length=48)], model=model, tokenizer=tokenizer)["loss"][:]
    assert trained == expected
    assert None in trained
    with pytest.raises(ScoreError, match=r"Loss\(max_length=64\) is not how training cuts rows \(max_length=48\)"):
        engine.compute(Loss(max_length=64))


def test_rows_are_scored_in_the_order_asked_for(model, tokenizer, pool_rows):
    engine = Engine(Pool(pool_rows), model, tokenizer)
    whole = engine.compute(IFD())["ifd"].to_pylist()
    part = engine.compute(IFD(), np.array([7, 2, 11]))["ifd"].to_pylist()
    assert part == pytest.approx([whole[7], whole[2], whole[11]], rel=1e-5)


def test_the_summary_is_one_line_a_score(pool_rows, caplog):
    data = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", ""]})
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        score(pool_rows, [Length()])
        assert caplog.text == ""
        score(data, [Length()])
    assert "response_words: 1 of 2 rows scored, 1 without: 1 empty_response" in caplog.text


def test_a_first_thousand_rows_without_a_response_in_the_window(model, tokenizer):
    full = [{"role": "user", "content": "why " * 40}, {"role": "assistant", "content": "Because."}]
    short = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    data = Dataset.from_dict({"messages": [full] * 1_200 + [short] * 2})
    found = score(data, [Loss(max_length=40)], model=model, tokenizer=tokenizer)
    assert set(found["loss_reason"][:1_200]) == {"prompt_fills_window"}
    assert None not in found["loss"][1_200:]


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
def test_what_is_not_there_is_named_before_anything_is_computed(missing, tiny_model_dir, pool_rows):
    done = []
    with pytest.raises(DataselError, match="/no/"):
        score(pool_rows, **{"model": tiny_model_dir, **missing}, on_summary=done.append)
    assert done == []
