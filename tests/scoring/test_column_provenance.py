"""Provenance of columns: through files and renaming, and only for the same values."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import load_pool, score, select
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError
from hf_datasel.scores import IFD, Length, Loss
from hf_datasel.scoring import Score
from hf_datasel.scoring.column_provenance import read_provenance, write_provenance
from hf_datasel.selectors import Superfiltering, Top


@pytest.fixture(scope="module")
def scored(pool_rows, tiny_model_dir):
    return score(pool_rows, [IFD(), Loss(reduction="sum")], model=tiny_model_dir)


def test_score_columns_have_provenance(scored, tiny_model_dir):
    selected = select(scored, Superfiltering(quality="ifd"), size=3)
    (spec,) = selected.provenance["scores"]
    assert (spec["score"], spec["convention"], spec["tokens"]["max_length"]) == ("ifd", "sft", 1024)
    assert spec["resolved_model"].startswith("files:")
    assert selected.provenance["columns_unverified"] == []
    assert selected.apply(scored).column_names == [*scored.column_names, "selection_rank", "selection_round"]


def test_last_computation_of_equal_values_counts(pool_rows, tiny_model_dir):
    rows = pool_rows.select(range(20))
    live, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    by_name = score(rows, [IFD(str(tiny_model_dir))])
    score(rows, [IFD()], model=live, processing_class=tokenizer)
    again = score(rows, [IFD(str(tiny_model_dir))])
    assert again["ifd"][:] == by_name["ifd"][:]
    (spec,) = select(again, Superfiltering(quality="ifd"), size=1).provenance["scores"]
    assert spec["resolved_model"].startswith("files:")


def test_renamed_column_in_a_file(tmp_path, scored):
    path = tmp_path / "renamed.parquet"
    scored.rename_column("loss_sum", "mine").to_parquet(path)
    (spec,) = select(load_pool(str(path)), Top(by="mine"), size=3).provenance["scores"]
    assert (spec["score"], spec["reduction"]) == ("loss", "sum")


@pytest.mark.parametrize("change", ["one value", "order", "fewer"])
def test_changed_values_are_unverified(scored, change):
    data = scored
    if change == "one value":
        values = np.array(scored["ifd"][:])
        values[5] += 1e-6
        data = scored.remove_columns("ifd").add_column("ifd", values.astype(np.float32))
    elif change == "order":
        data = scored.select(range(23, -1, -1))
    else:
        data = scored.select(range(23))
    selected = select(data, Top(by="ifd"), size=3)
    assert selected.provenance["scores"] == []
    assert selected.provenance["columns_unverified"] == ["ifd"]


def test_provenance_between_commands(tmp_path, pool_rows, tiny_model_dir, monkeypatch):
    pool_rows.select(range(20)).to_parquet(tmp_path / "rows.parquet")
    run = ["score", "--dataset_name", str(tmp_path / "rows.parquet"), "--model_name_or_path", str(tiny_model_dir)]
    assert main([*run, "--scores", "loss", "--output_dir", str(tmp_path / "out")]) == 0
    monkeypatch.setattr("hf_datasel.scoring.column_provenance._specs", {})  # another process
    file = tmp_path / "out" / "scored.parquet"
    settings = ["--selector", "top", "--selector_kwargs", '{"by": "loss"}', "--selection_size", "3"]
    assert main(["select", "--dataset_name", str(file), *settings, "--output_dir", str(tmp_path / "selected")]) == 0
    result = json.loads((tmp_path / "selected" / "selection.json").read_text())
    assert [item["score"] for item in result["scores"]] == ["loss"]
    assert result["columns_unverified"] == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"origins": 3}'])
def test_invalid_provenance_file(tmp_path, text, caplog):
    (tmp_path / "scored.origins.json").write_text(text)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        read_provenance(tmp_path / "scored.origins.json")
    assert "how its columns were computed counts as unverified" in caplog.text


def test_few_distinct_values_need_the_name(pool_rows, monkeypatch):
    monkeypatch.setattr("hf_datasel.scoring.column_provenance._specs", {})
    short = pool_rows.map(lambda row: {"output": "one"})
    words = score(short, [Length()])
    mine = words.add_column("mine", np.array(words["response_words"]))
    selected = select(mine, Top(by="mine"), size=3)
    assert (selected.provenance["scores"], selected.provenance["columns_unverified"]) == ([], ["mine"])
    assert select(mine, Top(by="response_words"), size=3).provenance["columns_unverified"] == []


def test_tokens_are_not_recorded(tmp_path, pool_rows, tiny_model_dir):
    score(pool_rows, [Loss(model_init_kwargs={"token": "hf_SECRET"})], model=tiny_model_dir, store=tmp_path / "store")
    result = score(pool_rows, [Loss(model_init_kwargs={"token": "hf_SECRET"})], model=tiny_model_dir)
    write_provenance(tmp_path / "origins.json", result.data.table)
    texts = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(texts) == 4  # origins.json, and of the store spec.json, parents.json and the identity of the model
    assert not any("hf_SECRET" in text for text in texts)


@dataclass(frozen=True)
class Characters(Score):
    """Number of characters of the response, in a column of the name that `Loss` writes."""

    def columns(self):
        return {"loss": pa.float32()}

    def compute(self, rows, runner):
        lengths = [len(text) for text in rows.pool.texts("response")]
        return {"loss": pa.array(lengths, pa.float32())}


def test_column_of_another_score_is_not_used(pool_rows):
    scored = score(pool_rows, Characters())
    with pytest.raises(ColumnError, match=r"needs loss, but column 'loss' was computed by .*:Characters\. Pass a"):
        select(scored, "cross_entropy", size=3)
    assert select(scored, {"top": {"by": "loss"}}, size=3).provenance["columns_verified"] == ["loss"]
