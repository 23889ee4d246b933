"""Scoring in shards: any order, any mix of folders, nothing twice, and the numbers of one call."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.errors import FormatError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scores import IFD, Cluster, Embedding, Length, Loss
from hf_datasel.scoring import Score, ScoreStore, Shard, ShardedScores, score_table
from hf_datasel.scoring.column_provenance import provenance_of
from hf_datasel.tokens.row_tokenizer import RowTokenizer

SCORES = [IFD(), Length(), Embedding(as_trained=True)]
NAMES = ["ifd", "ifd_reason", "response_words", "embedding"]


@pytest.fixture
def rows(pool_rows):
    """Return the small pool with an empty response, and a column that no score reads."""
    data = pool_rows.to_list()
    data[3]["output"] = ""
    return Dataset.from_list(data).add_column("source", [f"row {number}" for number in range(len(data))])


@pytest.fixture
def no_tokenizing(monkeypatch):
    """Return a function after whose call rows cannot be tokenized."""

    def refuse(*arguments, **options):
        raise AssertionError("a row is tokenized")

    return lambda: monkeypatch.setattr(RowTokenizer, "apply_chat_template", refuse)


def sharded(rows, folder, model=None, scores=SCORES, **options):
    return ShardedScores(rows, scores, folder, model, store=options.pop("store", folder / "store"), **options)


def values(dataset):
    return {name: dataset[name][:] for name in NAMES}


# -- which rows -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("total", "num_shards"), [(10, 3), (24, 24), (7, 1), (8, 4)])
def test_rows_are_those_of_datasets(total, num_shards):
    data = Dataset.from_dict({"number": list(range(total))})
    for index in range(num_shards):
        assert list(Shard(index, num_shards).rows(total)) == data.shard(num_shards, index)["number"][:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3/3", "There is no shard 3/3: shards are counted from 0, so that the last of 3 is 2/3"),
        ("-1/3", "A shard is INDEX/NUMBER, such as 0/64 for the first of 64, and not '-1/3'"),
        ("1", "A shard is INDEX/NUMBER"),
        ("0/0", "a number of shards above 0"),
    ],
)
def test_no_such_shard(text, message):
    with pytest.raises(ScoreError, match=message):
        Shard.parse(text)


def test_more_shards_than_rows(rows, tmp_path):
    with pytest.raises(ScoreError, match="24 rows cannot be split into 25 shards"):
        sharded(rows, tmp_path, scores=[Length()]).score(Shard(0, 25))


# -- one table --------------------------------------------------------------------------------------------------------
def test_table_has_no_text(rows, tmp_path):
    table = score_table(rows.select(range(4, 9)), Length(), first_row=4, store=tmp_path)
    assert table.column_names[:3] == ["row", "row_id", "row_reason"]
    assert {"instruction", "input", "output", "source"}.isdisjoint(table.column_names)
    assert table["row"].to_pylist() == [4, 5, 6, 7, 8]
    assert table["row_id"].to_pylist() == [bytes(row) for row in Pool(rows).row_ids[4:9]]
    assert score_table(rows.select([3, 4]), Length())["row_reason"].to_pylist() == ["empty_response", ""]
    assert table["response_words"].to_pylist() == score(rows, Length())["response_words"][4:9]


@dataclass(frozen=True)
class Row(Score):
    """A score that writes `row`."""

    def columns(self):
        return {"row": pa.int32()}

    def compute(self, rows, runner):
        return {"row": pa.array([1] * len(rows), pa.int32())}


def test_score_that_writes_a_reserved_column(rows):
    with pytest.raises(ScoreError, match=r"has a column 'row' of its own\. Give the score a column_prefix"):
        score_table(rows, Row())
    assert score_table(rows, Row(column_prefix="my_"))["my_row"].to_pylist() == [1] * 24


# -- all shards -------------------------------------------------------------------------------------------------------
def test_shards_equal_one_call(rows, tmp_path, tiny_model_dir, passes, no_tokenizing):
    job = sharded(rows, tmp_path, tiny_model_dir)
    assert job.gather() is None
    assert [job.score(Shard(index, 3)) for index in (2, 0)] == [True, True]
    lines = []
    job = sharded(rows, tmp_path, tiny_model_dir, on_summary=lines.append)
    passes.clear()
    gathered = job.gather()
    assert 0 < sum(passes) <= 3 * 8 + 4  # the shard that was missing, and once more for the trial of the head
    assert lines[-3] == "ifd: 23 of 24 rows scored, 1 without: 1 empty_response"
    assert gathered.column_names == score(rows, SCORES, model=tiny_model_dir, store=tmp_path / "store").column_names

    one = score(rows, SCORES, model=tiny_model_dir)
    for name in ("ifd", "embedding"):
        scored = [index for index, value in enumerate(one[name]) if value is not None]
        numbers = [np.array([dataset[name][index] for index in scored]) for dataset in (gathered, one)]
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-6)
    assert gathered["ifd_reason"][:] == one["ifd_reason"][:]
    assert gathered["response_words"][:] == one["response_words"][:]

    passes.clear()
    again = score(rows, SCORES, model=tiny_model_dir, store=tmp_path / "store")
    assert passes == []
    assert values(again) == values(gathered)
    assert again.features == gathered.features
    ifd = gathered.with_format("numpy")["ifd"][:].astype(np.float64)
    assert provenance_of("ifd", ifd)["score"] == "ifd"

    no_tokenizing()
    shutil.rmtree(tmp_path / "store")
    assert not sharded(rows, tmp_path, tiny_model_dir).score(Shard(0, 3))
    assert values(sharded(rows, tmp_path, tiny_model_dir).gather()) == values(gathered)
    assert passes == []


def test_shards_of_several_machines(rows, tmp_path, tiny_model_dir, passes):
    scores = [Loss()]
    for index in range(2):
        sharded(rows, tmp_path / str(index), tiny_model_dir, scores).score(Shard(index, 2))
    shutil.copytree(tmp_path / "1" / "scores", tmp_path / "0" / "scores", dirs_exist_ok=True)
    passes.clear()
    gathered = sharded(rows, tmp_path / "0", tiny_model_dir, scores).gather()
    assert passes == []
    store = ScoreStore(tmp_path / "all")
    for index in range(2):
        store.merge(tmp_path / str(index) / "store")
    assert score(rows, scores, model=tiny_model_dir, store=store)["loss"][:] == gathered["loss"][:]
    assert passes == []


@pytest.mark.parametrize("change", ["row", "setting", "more scores", "damage", "earlier shard"])
def test_file_of_something_else_is_replaced(change, rows, tmp_path):
    sharded(rows, tmp_path, scores=[Length()]).score(Shard(0, 2))
    path = tmp_path / "scores" / "shard-00000-of-00002.parquet"
    before, scores = path.read_bytes(), [Length()]
    if change == "row":
        data = rows.to_list()
        data[2]["output"] = "One more word."
        rows = Dataset.from_list(data)
    elif change == "setting":
        scores = [Length(column_prefix="my_")]
    elif change == "more scores":
        scores = [Length(), Length(column_prefix="my_")]
    elif change == "damage":
        path.write_bytes(before[:-20])
    else:
        sharded(rows, tmp_path, scores=[Length()]).score(Shard(1, 2))
        shutil.copy(tmp_path / "scores" / "shard-00001-of-00002.parquet", path)
    job = sharded(rows, tmp_path, scores=scores)
    assert job.score(Shard(0, 2))
    expected = score(rows.select(range(12)), scores)
    table = pq.read_table(path)
    for name in table.column_names[3:]:
        assert table[name].to_pylist() == expected[name][:]
    assert not job.score(Shard(0, 2))


def test_another_column_does_not_matter(rows, tmp_path):
    sharded(rows, tmp_path, scores=[Length()]).score(Shard(1, 2))
    assert not sharded(rows.remove_columns("source"), tmp_path, scores=[Length()]).score(Shard(1, 2))


# -- what cannot be split ---------------------------------------------------------------------------------------------
def test_scores_of_the_whole_dataset_are_refused(rows, tmp_path, tiny_model_dir):
    job = sharded(rows, tmp_path, tiny_model_dir, [Embedding(as_trained=True), Cluster(k=2)])
    with pytest.raises(
        ScoreError, match=r"Cluster is not fitted, which needs the whole dataset, and not a shard\."
    ) as error:
        job.score(Shard(0, 2))
    assert "without --shard" in error.value.cli_message
    assert not (tmp_path / "scores").exists()


def test_tokenized_rows_are_refused(tmp_path, tiny_model_dir):
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [[-100, 2, 3]] * 4})
    with pytest.raises(ScoreError, match=r"The rows are tokenized already, .*Loss can score shards of the rows"):
        sharded(rows, tmp_path, tiny_model_dir, [Loss()]).score(Shard(0, 2))


def test_loaded_model_is_refused(rows, tmp_path, model):
    with pytest.raises(ScoreError, match=r"this is a loaded LlamaForCausalLM\. Save the model and pass its folder"):
        sharded(rows, tmp_path, model)


def test_column_of_the_user_is_not_replaced(rows, tmp_path):
    own = rows.add_column("response_words", [7] * 24)
    with pytest.raises(ScoreError, match="writes column 'response_words', and the dataset has a column of this name"):
        sharded(own, tmp_path, scores=[Length()]).score(Shard(0, 2))
    assert sharded(own, tmp_path, scores=[Length()], overwrite=True).score(Shard(0, 2))


def test_rows_in_no_supported_format(tmp_path):
    with pytest.raises(FormatError, match="format"):
        sharded(Dataset.from_dict({"a": [1, 2]}), tmp_path, scores=[Length()]).score(Shard(0, 2))
