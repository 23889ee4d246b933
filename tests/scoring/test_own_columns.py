"""Columns of the user that have the name of a score's column."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.cli import main
from hf_datasel.errors import ScoreError
from hf_datasel.scores import IFD, Compressibility, Length, Loss, Similarity

ROWS = {"prompt": ["a", "b", "c"], "completion": ["one", "two words", "three of them"]}
EXPECTED = r"Length writes column 'response_words', and the dataset has a column .* no known result of a score"


def own(values):
    return Dataset.from_dict({**ROWS, "response_words": values})


@pytest.mark.parametrize("values", [[7, 8, 9], [0.5, 0.1, 0.2], ["few", "many", None], [[1.0], [2.0], None]])
def test_own_column_is_kept(values):
    with pytest.raises(ScoreError, match=EXPECTED) as raised:
        score(own(values), [Length()])
    assert "column_prefix='my_'" in str(raised.value)
    assert "overwrite=True" in str(raised.value)
    assert "--overwrite" in raised.value.cli_message
    prefixed = score(own(values), [Length(column_prefix="my_")])
    assert prefixed["response_words"][:] == values
    assert prefixed["my_response_words"][:] == [1, 2, 3]
    assert score(own(values), [Length()], overwrite=True)["response_words"][:] == [1, 2, 3]


def test_columns_of_scores_are_computed_again(tmp_path):
    scored = score(Dataset.from_dict(ROWS), [Length(), Compressibility()])
    assert score(scored, [Length(), Compressibility()]).column_names == scored.column_names
    mapped = Dataset.from_dict(ROWS).map(Length(), batched=True)
    mapped.to_parquet(tmp_path / "rows.parquet")
    loaded = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    assert score(loaded, [Length()])["response_words"][:] == [1, 2, 3]
    assert score(own([None] * 3), [Length()])["response_words"][:] == [1, 2, 3]


def test_score_that_shares_a_column_with_an_earlier_one(tiny_model_dir, pool_rows):
    rows = pool_rows.select(range(20))
    scored = score(rows, [IFD()], model=str(tiny_model_dir))
    assert "loss_reason" in score(scored, [Loss()], model=str(tiny_model_dir)).column_names


def test_score_is_computed_again_with_more_columns(tiny_model_dir, pool_rows, tmp_path):
    pool_rows.select(range(3)).to_json(tmp_path / "target.jsonl")
    subject = Similarity(str(tiny_model_dir), validation=str(tmp_path / "target.jsonl"))
    scored = score(pool_rows, [subject])
    again = score(scored, [replace(subject, by_target=True)])
    assert again.column_names == [*scored.column_names, "similarity_by_target"]


def test_own_column_is_refused_before_work(pool_rows):
    data = Dataset(pool_rows.data.table.append_column("loss", pa.array([0.5] * len(pool_rows))))
    with pytest.raises(ScoreError, match="Loss writes column 'loss'"):
        score(data, [Length(), Loss("no/such-model")])


def test_command_line(tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    lines = [
        {"prompt": "a", "completion": "b c", "response_words": 7, "id": 2**53 + 1},
        {"prompt": "d", "completion": "e"},
    ]
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = ["score", "--scores", "length", "--output_dir", str(tmp_path / "out"), "--dataset_name"]
    assert main([*command, str(data)]) != 0
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, str(data), "--overwrite"]) == 0
    assert main([*command, str(tmp_path / "out" / "scored.parquet")]) == 0
    assert Dataset.from_parquet(str(tmp_path / "out" / "scored.parquet"))["response_words"][:] == [2, 1]
