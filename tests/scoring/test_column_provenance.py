"""Columns remember which score computed them: through files and renaming, and never another column's values."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import load_pool, score, select
from hf_datasel.cli import main
from hf_datasel.scores import IFD, Length, Loss
from hf_datasel.scoring.column_provenance import read_origins, write_origins
from hf_datasel.selectors import Superfiltering, Top


@pytest.fixture(scope="module")
def scored(pool_rows, tiny_model_dir):
    return score(pool_rows, [IFD(), Loss(reduction="sum")], model=tiny_model_dir)


def test_a_column_that_score_made_is_recorded_with_its_spec(scored, tiny_model_dir):
    chosen = select(scored, Superfiltering(quality="ifd"), size=3)
    (spec,) = chosen.provenance["scores"]
    assert (spec["score"], spec["convention"], spec["tokens"]["max_length"]) == ("IFD", "sft", 1024)
    assert spec["resolved_model"].startswith("files:")
    assert chosen.provenance["columns_unverified"] == []
    assert chosen.apply(scored).column_names == [*scored.column_names, "selection_rank", "selection_round"]


def test_of_equal_numbers_the_last_ones_computed_count(pool_rows, tiny_model_dir):
    rows = pool_rows.select(range(20))
    live, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    by_name = score(rows, [IFD(str(tiny_model_dir))])
    score(rows, [IFD()], model=live, tokenizer=tokenizer)
    again = score(rows, [IFD(str(tiny_model_dir))])
    assert again["ifd"][:] == by_name["ifd"][:]
    (spec,) = select(again, Superfiltering(quality="ifd"), size=1).provenance["scores"]
    assert spec["resolved_model"].startswith("files:")


def test_another_name_and_a_file_in_between(tmp_path, scored):
    path = tmp_path / "renamed.parquet"
    scored.rename_column("loss_sum", "mine").to_parquet(path)
    (spec,) = select(load_pool(str(path)), Top(by="mine"), size=3).provenance["scores"]
    assert (spec["score"], spec["reduction"]) == ("Loss", "sum")


@pytest.mark.parametrize("change", ["one value", "order", "fewer"])
def test_other_values_are_unverified(scored, change):
    data = scored
    if change == "one value":
        values = np.array(scored["ifd"][:])
        values[5] += 1e-6
        data = scored.remove_columns("ifd").add_column("ifd", values.astype(np.float32))
    elif change == "order":
        data = scored.select(range(23, -1, -1))
    else:
        data = scored.select(range(23))
    chosen = select(data, Top(by="ifd"), size=3)
    assert chosen.provenance["scores"] == []
    assert chosen.provenance["columns_unverified"] == ["ifd"]


def test_from_one_command_to_the_next(tmp_path, pool_rows, tiny_model_dir, monkeypatch):
    pool_rows.select(range(20)).to_parquet(tmp_path / "rows.parquet")
    run = ["score", "--dataset_name", str(tmp_path / "rows.parquet"), "--model_name_or_path", str(tiny_model_dir)]
    assert main([*run, "--scores", "loss", "--output_dir", str(tmp_path / "out")]) == 0
    monkeypatch.setattr("hf_datasel.scoring.column_provenance._known", {})  # another process
    file = tmp_path / "out" / "scored.parquet"
    settings = ["--selector", "top", "--selector_kwargs", '{"by": "loss"}', "--selection_size", "3"]
    assert main(["select", "--dataset_name", str(file), *settings, "--output_dir", str(tmp_path / "chosen")]) == 0
    found = json.loads((tmp_path / "chosen" / "selection.json").read_text())
    assert [each["score"] for each in found["scores"]] == ["Loss"]
    assert found["columns_unverified"] == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"origins": 3}'])
def test_a_file_that_says_nothing_leaves_columns_unverified(tmp_path, text, caplog):
    (tmp_path / "scored.origins.json").write_text(text)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        read_origins(tmp_path / "scored.origins.json")
    assert "does not say where columns come from" in caplog.text


def test_few_numbers_are_no_proof(pool_rows, monkeypatch):
    monkeypatch.setattr("hf_datasel.scoring.column_provenance._known", {})
    short = pool_rows.map(lambda row: {"output": "one"})
    words = score(short, [Length()])
    mine = words.add_column("mine", np.array(words["response_words"]))
    chosen = select(mine, Top(by="mine"), size=3)
    assert (chosen.provenance["scores"], chosen.provenance["columns_unverified"]) == ([], ["mine"])
    assert select(mine, Top(by="response_words"), size=3).provenance["columns_unverified"] == []


def test_a_token_is_written_nowhere(tmp_path, pool_rows, tiny_model_dir):
    score(pool_rows, [Loss(model_init_kwargs={"token": "hf_SECRET"})], model=tiny_model_dir, store=tmp_path / "store")
    found = score(pool_rows, [Loss(model_init_kwargs={"token": "hf_SECRET"})], model=tiny_model_dir)
    write_origins(tmp_path / "origins.json", found.data.table)
    texts = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(texts) == 2
    assert not any("hf_SECRET" in text for text in texts)
