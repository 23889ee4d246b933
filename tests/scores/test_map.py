"""Scores as callables for `datasets.map`."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, IterableDataset, Json, LargeList, Sequence, Value, load_dataset

import hf_datasel
from hf_datasel import score
from hf_datasel.errors import ScoreError
from hf_datasel.formats import Pool, canonical_rows
from hf_datasel.scores import IFD, Compressibility, Embedding, Length, Loss, SelectIT
from hf_datasel.scoring.base import Score
from hf_datasel.scoring.map_batches import dataset_of_batch

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


@pytest.mark.slow
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


# -- one number by every way in ---------------------------------------------------------------------------------------
ODD = {
    "meta": (Json(), [5, "five", {"a": 1}, [1, "x"], None]),
    "price": (Value("decimal128(10,2)"), [Decimal("1.10")] * 5),
    "seen": (Value("timestamp[us]"), [datetime(2026, 1, 2)] * 5),
    "blob": (Value("binary"), [b"\xff\x00"] * 5),
    "long": (Value("large_string"), ["x"] * 5),
    "ids": (LargeList(Value("int64")), [[1, 2]] * 5),
    "other": (Value("float64"), [0.1] * 5),
}
"""Columns that no score reads."""


def odd_rows():
    rows = {"prompt": ["Is it slow?", "b c", None, "d", "e"], "completion": ["Yes, it is", "no", "x", "", "a b c d"]}
    features = {"prompt": Value("large_string"), "completion": Value("string")}
    columns = {name: values for name, (_, values) in ODD.items()}
    types = {name: feature for name, (feature, _) in ODD.items()}
    return Dataset.from_dict({**rows, **columns}, features=Features({**features, **types}))


def columns_of(data, scores):
    names = list(scores.columns())
    data = data.with_format(None)
    rows = list(data.select_columns(names))
    return {name: [row[name] for row in rows] for name in names}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("format_", [None, "arrow", "numpy"])
def test_columns_beside_the_row_change_nothing(format_, batch_size):
    data, scores = odd_rows(), Compressibility()
    expected = columns_of(score(data, [scores], on_summary=str), scores)
    mapped = data.with_format(format_).map(scores, batched=True, batch_size=batch_size, features=scores.features(data))
    assert columns_of(mapped, scores) == expected
    assert {name: mapped.features[name] for name in data.column_names} == data.features
    streamed = data.to_iterable_dataset().with_format(format_ if format_ == "arrow" else None)
    streamed = streamed.map(scores, batched=True, batch_size=batch_size, features=scores.features(streamed))
    assert columns_of(streamed, scores) == expected


@pytest.mark.parametrize("format_", ["numpy", "torch"])
def test_messages_in_tensor_formats(format_):
    chats = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}] for text in ("a b", "c", "")]
    data, scores = Dataset.from_dict({"messages": chats, "other": [0.1, 0.2, 0.3]}), Length()
    expected = columns_of(score(data, [scores], on_summary=str), scores)
    assert columns_of(data.with_format(format_).map(scores, batched=True), scores) == expected
    streamed = data.remove_columns("other").to_iterable_dataset().with_format(format_)
    assert columns_of(streamed.map(scores, batched=True, features=scores.features(streamed)), scores) == expected


def test_speakers_as_keys_with_content_in_parts():
    parts = [{"type": "text", "text": "a b"}]
    rows = [{"conversation": [{"input": "Hi", "output": output}]} for output in (parts, "c")]
    expected = score(Dataset.from_list(rows, on_mixed_types="use_json"), Length())["response_words"][:]
    assert expected == [2, 1]
    for batch_size in (1, 2):
        stream = IterableDataset.from_generator(lambda: iter(rows)).map(Length(), batched=True, batch_size=batch_size)
        assert [row["response_words"] for row in stream] == expected


VALUES = [52.37, 1e-12, 0.1 + 0.2, 3, "5", True, datetime(2024, 5, 6, 7), date(2024, 5, 6)]


def chats_with(value):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": value}}}
    texts = {"human": {"value": "Hi"}, "gpt": {"value": "a", "tool_calls": [call]}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"default": value}}}]
    return {"conversations": [{"from": name, **rest} for name, rest in texts.items()], "tools": tools}


def test_values_of_other_rows_change_no_value_of_a_batch():
    rows = [chats_with(value) for value in VALUES]
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    found = Pool(dataset_of_batch(batch)).row_ids.tolist()
    assert found == [list(canonical_rows({name: [row[name]] for name in row})[0].digest()) for row in rows]
    assert found == [Pool(Dataset.from_list([row])).row_ids[0].tolist() for row in rows]


def test_half_a_surrogate_pair_in_a_stream():
    rows = [{"prompt": "Hi", "completion": text} for text in ("a b", "c \ud83d")]
    chats = [{"conversations": [row["prompt"], row["completion"]]} for row in rows]
    for stream in (rows, chats):
        scored = IterableDataset.from_generator(lambda stream=stream: iter(stream)).map(Length(), batched=True)
        assert [row["response_words"] for row in scored] == [2, 2]


def test_messages_that_are_stored_by_key():
    chats = [{"role": ["user", "assistant"], "content": ["Hi", text]} for text in ("a b", "c")]
    features = Features({"messages": Sequence({"role": Value("string"), "content": Value("string")})})
    data, scores = Dataset.from_dict({"messages": chats}, features=features), Length()
    assert score(data, [scores])["response_words"][:] == [2, 1]
    for batch_size in (1, 2):
        assert data.map(scores, batched=True, batch_size=batch_size)["response_words"][:] == [2, 1]
    stream = IterableDataset.from_generator(lambda: iter([{"messages": chat} for chat in chats]))
    for batch_size in (1, 2):
        streamed = stream.map(scores, batched=True, batch_size=batch_size)
        assert [row["response_words"] for row in streamed] == [2, 1]


@pytest.mark.parametrize("format_", ["numpy", "torch"])
def test_formats_that_round_numbers_of_a_row(format_):
    turn = {"role": "assistant", "content": "It is.", "degrees": 52.3702157}
    data = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hi", "degrees": 0.5}, turn]]})
    with pytest.raises(ScoreError, match=r"rounds the numbers in column 'messages', .* dataset\.with_format\(None\)"):
        data.with_format(format_).map(Length(), batched=True)


def test_formats_that_round_a_column_of_a_score():
    @dataclass(frozen=True)
    class Halved(Score):
        @property
        def reads(self):
            return ("other",)

        def columns(self):
            return {"halved": pa.float32()}

        def compute(self, rows, runner):
            return {"halved": pa.array([value / 2 for value in rows.pool.dataset["other"]], pa.float32())}

    data = Dataset.from_dict({"prompt": ["a"], "completion": ["b"], "other": [0.1], "third": [1]})
    assert data.map(Halved(), batched=True)["halved"][0] == pytest.approx(0.05)
    assert Halved()({"prompt": ["a"], "completion": ["b"], "other": [0.1]})["halved"] == [np.float32(0.05)]
    with pytest.raises(ScoreError, match=r"rounds the numbers in column 'other', which the score reads"):
        data.with_format("numpy").map(Halved(), batched=True)


def test_table_formats_that_are_refused(pool_rows):
    expected = r"in the pandas format, .* dataset\.with_format\(None\)\.map\(Length\(\.\.\.\), batched=True\)"
    with pytest.raises(ScoreError, match=expected):
        pool_rows.with_format("pandas").map(Length(), batched=True)


def test_single_rows_are_refused(pool_rows):
    chats = Dataset.from_dict(
        {"messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]}
    )
    for data in (pool_rows, chats):
        with pytest.raises(ScoreError, match=r"Length works on batches: call dataset\.map\(\.\.\., batched=True\)"):
            data.map(Length())
        with pytest.raises(ScoreError, match="works on batches"):
            list(data.to_iterable_dataset().map(Length()))
    with pytest.raises(ScoreError, match="Call map without input_columns"):
        pool_rows.map(Length(), batched=True, input_columns=["output"])


def test_replaced_columns_before_the_score():
    data = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", "d"]})

    def shout(batch):
        batch["completion"] = [f"{text} {text}" for text in batch["completion"]]
        return Length()(batch)

    assert data.map(shout, batched=True)["response_words"][:] == [2, 2]
