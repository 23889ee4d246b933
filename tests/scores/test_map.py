"""Scores as callables for `datasets.map`."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, IterableDataset, Value, load_dataset

import hf_datasel
from hf_datasel import score
from hf_datasel.errors import ScoreError
from hf_datasel.scores import IFD, Embedding, Length, Loss, SelectIT

QUESTION, ANSWER = "Is it slow?", "Yes, on a hill."


@pytest.fixture
def path(tiny_model_dir):
    return str(tiny_model_dir)


def pairs(answers):
    return Dataset.from_dict({"prompt": [QUESTION] * len(answers), "completion": answers})


@pytest.mark.parametrize("convention", ["sft", "cherry"])
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_equals_the_engine(path, pool_rows, convention, batch_size):
    scores = IFD(path, convention=convention)
    mapped, engine = pool_rows.map(scores, batched=True, batch_size=batch_size), score(pool_rows, [scores])
    assert mapped.column_names == engine.column_names
    assert mapped.features == engine.features
    for name in ("ifd", "loss", "loss_prior"):
        np.testing.assert_allclose(mapped[name], engine[name], rtol=1e-5)
    assert mapped["output"][:] == pool_rows["output"][:]


def test_other_columns_and_formatted_datasets(path, pool_rows):
    expected = score(pool_rows, [Loss(path)])["loss"][:]
    more = pool_rows.add_column("text", ["x"] * 24).add_column("embedding", [[0.5, 1.0]] * 24)
    assert more.map(Loss(path), batched=True)["loss"][:] == pytest.approx(expected, rel=1e-5)
    assert set(more.map(Loss(path), batched=True).column_names) == {*more.column_names, "loss", "loss_reason"}


def test_plain_columns(path):
    result = Loss(path)({"prompt": [QUESTION, "a"], "completion": [ANSWER, ""]})
    assert [type(value) for value in result["loss"]] == [np.float32, type(None)]
    assert result["loss_reason"] == ["", "empty_response"]


def test_streaming(path, pool_rows):
    streamed = pool_rows.to_iterable_dataset().map(IFD(path), batched=True, batch_size=5)
    rows = list(streamed)
    expected = score(pool_rows, [IFD(path)])
    assert [row["output"] for row in rows] == pool_rows["output"][:]
    np.testing.assert_allclose([row["ifd"] for row in rows], expected["ifd"], rtol=1e-5)


@pytest.mark.parametrize(
    "make_score",
    [Loss, Embedding, lambda path: Embedding(path, as_trained=True), lambda path: SelectIT(path, level="token")],
)
def test_streaming_reads_one_batch(path, pool_rows, make_score):
    asked = []

    def rows():
        for row in pool_rows:
            asked.append(row["output"])
            yield row

    streamed = IterableDataset.from_generator(rows).map(make_score(path), batched=True, batch_size=4)
    first = next(iter(streamed))
    assert len(asked) <= 5  # a batch, and one row that says whether there is another
    expected = score(pool_rows, [make_score(path)])
    name = next(iter(make_score(path).columns()))
    np.testing.assert_allclose(first[name], expected[name][0], rtol=1e-4, atol=1e-6)


def test_features_of_a_streaming_dataset(path, pool_rows):
    streamed = pool_rows.to_iterable_dataset()
    assert Loss(path).features(streamed) == Loss(path).features(pool_rows)
    unknown = IterableDataset.from_generator(lambda: iter(pool_rows))
    with pytest.raises(ScoreError, match="features of this streaming dataset are unknown"):
        Loss(path).features(unknown)


def test_streaming_batch_without_scores(path):
    rows = list(pairs(["", "", ANSWER]).to_iterable_dataset().map(Loss(path), batched=True, batch_size=2))
    assert [row["loss_reason"] for row in rows] == ["empty_response", "empty_response", ""]
    assert rows[2]["loss"] > 0


# -- nulls and the types that datasets infers -------------------------------------------------------------------------
MANY = 3000


@pytest.mark.parametrize("kind", ["loss", "words"])
def test_null_after_3000_scored_rows(path, kind):
    scores = Loss(path) if kind == "loss" else Length()
    mapped = pairs(["b"] * MANY + ["", "c"]).map(scores, batched=True)
    name = next(iter(scores.columns()))
    assert mapped.features[name] == Value("float32" if kind == "loss" else "int32")
    assert [mapped[name][row] is None for row in (0, MANY - 1, MANY, MANY + 1)] == [False, False, True, False]


def test_score_after_3000_nulls_with_features(path):
    data = pairs([""] * MANY + [ANSWER])
    for scores, name in ((IFD(path), "ifd"), (Length(), "response_words")):
        mapped = data.map(scores, batched=True, features=scores.features(data))
        assert mapped.features[name] == scores.features(data)[name]
        assert mapped[name][MANY] > 0
        assert mapped[name][0] is None


def test_score_after_3000_nulls_without_features(path, caplog):
    data = pairs([""] * MANY + [ANSWER])
    with caplog.at_level(logging.WARNING, "hf_datasel"), pytest.raises(TypeError, match="null"):
        data.map(IFD(path), batched=True)
    assert "No row of this batch has a ifd" in caplog.text
    assert "features=IFD(...).features(dataset) to map, or use hf_datasel.score" in caplog.text


def test_features(pool_rows):
    features = IFD(column_prefix="mine_").features(pool_rows)
    assert list(features) == [
        *pool_rows.features, "mine_ifd", "mine_loss", "mine_loss_prior", "mine_ifd_reason",
    ]  # fmt: skip
    assert (features["mine_ifd"], features["mine_ifd_reason"]) == (Value("float32"), Value("string"))


def test_column_prefix(path, pool_rows):
    rows = pool_rows.select(range(3))
    plain = rows.map(IFD(path), batched=True)
    mapped = rows.map(IFD(path, column_prefix="mine_"), batched=True)
    assert mapped["mine_ifd"][:] == plain["ifd"][:]
    assert mapped["mine_ifd_reason"][:] == [""] * 3
    assert IFD(column_prefix="mine_").column == "mine_ifd"


# -- pickles and cache keys -------------------------------------------------------------------------------------------
def test_pickles_hold_no_weights(path, pool_rows):
    scores = IFD(path, convention="cherry", ratio="loss", column_prefix="x_")
    before = pickle.dumps(scores)
    scores(pool_rows[:2])
    again = pickle.loads(pickle.dumps(scores))
    assert again == scores
    assert repr(again) == repr(scores)
    assert hash(again) == hash(scores)
    assert pickle.dumps(scores) == before
    assert len(before) < 1000


def mapped_file(rows, scores, cache):
    """The cache file of a mapped dataset and when it was written."""
    data = load_dataset("json", data_files=rows, split="train", cache_dir=cache)
    file = Path(data.map(scores, batched=True).cache_files[0]["filename"])
    return str(file), file.stat().st_mtime_ns


IN_A_NEW_PROCESS = """
import json, sys
sys.path.insert(0, {here!r})
from test_map import mapped_file
from hf_datasel.scores import IFD, Length

model, rows, cache = sys.argv[1:]
found = {{"again": mapped_file(rows, IFD(model), cache), "words": mapped_file(rows, Length(), cache)}}
found["setting"] = mapped_file(rows, IFD(model, end_token=False), cache)
IFD.version += 1
found["version"] = mapped_file(rows, IFD(model), cache)
print(json.dumps(found))
"""


def test_map_cache_across_processes(tiny_model_dir, pool_rows, tmp_path):
    model, rows, cache = tmp_path / "model", str(tmp_path / "rows.json"), str(tmp_path / "cache")
    shutil.copytree(tiny_model_dir, model)
    pool_rows.to_json(rows)
    first, words = mapped_file(rows, IFD(str(model)), cache), mapped_file(rows, Length(), cache)
    assert mapped_file(rows, IFD(str(model)), cache) == first
    code = IN_A_NEW_PROCESS.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), rows, cache],
        cwd=Path(hf_datasel.__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = {name: tuple(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    assert result["again"] == first
    assert result["words"] == words
    others = {result["setting"][0], result["version"][0]}
    assert len(others | {first[0]}) == 3

    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert mapped_file(rows, IFD(str(model)), cache)[0] not in others | {first[0]}
