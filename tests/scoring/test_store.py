"""The score store: killed runs, grown datasets, other models, concurrent writers, damaged files."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score
from hf_datasel.errors import ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scores import IFD, Embedding, Loss, SelectIT
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.store import segment_log, table as table_module
from hf_datasel.scoring.store.segment_log import SegmentWriter, read_segment
from hf_datasel.scoring.store.store import ScoreStore
from hf_datasel.scoring.store.table import StoreTable

SPEC = {"computed": "test", "version": 1}
F64 = np.dtype(np.float64)
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def keys(numbers):
    """Return a key of 16 bytes per number; some end in zeros, which numpy's strings drop."""
    return np.array([[*int(item).to_bytes(4, "little"), *[7, 0, 0] * 4] for item in numbers], dtype=np.uint8)


def table(folder, width=2, dtype=F64, **spec):
    return ScoreStore(folder).table({**SPEC, **spec}, width, dtype)


def filled(folder, numbers, width=2, **spec):
    values = np.full((len(numbers), width), -1.0)
    is_cached = table(folder, width, **spec).fill(keys(numbers), values)
    return is_cached.tolist(), values[:, 0].tolist()


def stored(folder, numbers, close=True, **spec):
    built = table(folder, **spec)
    built.append(keys(numbers), np.array([[item, item / 7] for item in numbers], dtype=np.float64))
    if close:
        built.close()
        built.compact()
    return built


# -- a table ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("close", [True, False])
def test_store_roundtrip(tmp_path, close):
    built = stored(tmp_path, [1, 256, 65536, 0], close)
    assert filled(tmp_path, [0, 5, 256, 256]) == ([True, False, True, True], [0.0, -1.0, 256.0, 256.0])
    built.close()
    values = np.zeros((1, 2))
    table(tmp_path).fill(keys([65536]), values)
    assert values.tolist() == [[65536, 65536 / 7]]


def test_values_are_read_of_row_groups_with_requested_keys_only(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "_GROUP_BYTES", 1)  # 1,024 rows are the least
    stored(tmp_path, range(3000))
    read = []
    read_row_group = pq.ParquetFile.read_row_group

    def record(file, group, columns):
        read.append((group, *columns))
        return read_row_group(file, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", record)
    for numbers, groups in (([3001, 9999], 0), ([5], 1), (range(3000), 3)):
        read.clear()
        assert filled(tmp_path, numbers)[0] == [number < 3000 for number in numbers]
        assert len([part for part in read if part[1:] == ("values",)]) == groups


def test_empty_table_and_no_keys(tmp_path):
    assert filled(tmp_path, [1, 2]) == ([False, False], [-1.0, -1.0])
    assert filled(tmp_path, []) == ([], [])
    built = table(tmp_path)
    built.append(keys([]).reshape(0, 16), np.empty((0, 2)))
    built.close()
    assert list(tmp_path.iterdir()) == []


def test_tables_differ_by_spec_width_and_dtype(tmp_path):
    stored(tmp_path, [1])
    assert filled(tmp_path, [1], version=2)[0] == filled(tmp_path, [1], width=3)[0] == [False]
    values = np.zeros((1, 2), dtype=np.float32)
    assert not table(tmp_path, dtype=np.dtype(np.float32)).fill(keys([1]), values).any()


def test_float32_vectors(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32)
    built = table(tmp_path, 300, vectors.dtype)
    built.append(keys(range(5)), vectors)
    built.close()
    result = np.zeros_like(vectors)
    assert table(tmp_path, 300, vectors.dtype).fill(keys(range(5)), result).all()
    assert np.array_equal(result, vectors)


def test_compact_writes_parquet(tmp_path):
    for numbers in ([1, 2], [3], [2, 4]):
        stored(tmp_path, numbers)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".parquet"]
    (part,) = folder.glob("*.parquet")
    data = Dataset.from_parquet(str(part), cache_dir=str(tmp_path / "cache"))
    assert sorted(values[0] for values in data["values"]) == [1.0, 2.0, 3.0, 4.0]
    (described,) = ScoreStore(tmp_path).tables()
    assert (described["rows"], described["computed"], described["folder"]) == (4, "test", folder.name)


def test_compact_removes_duplicates(tmp_path):
    stored(tmp_path, [1, 2])
    stored(tmp_path, [2, 1])
    assert len(list(tmp_path.glob("*/*.parquet"))) == 1
    assert filled(tmp_path, [1, 2])[0] == [True, True]


def test_large_results_are_compacted_into_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "_PART_BYTES", 64)
    monkeypatch.setattr(segment_log, "_READ_BYTES", 64)
    built = table(tmp_path)
    for numbers in ([1, 2, 3], [4, 5], [6]):
        built.append(keys(numbers), np.array([[item, item / 7] for item in numbers]))
    built.close()
    built.compact()
    assert len(list(tmp_path.glob("*/*.parquet"))) == 2
    assert not list(tmp_path.glob("*/*.segment"))
    assert filled(tmp_path, [6, 2, 7, 6, 4]) == ([True, True, False, True, True], [6.0, 2.0, -1.0, 6.0, 4.0])


def test_open_segment_is_read_but_not_compacted(tmp_path):
    at_work = stored(tmp_path, [1], close=False)
    stored(tmp_path, [2])
    assert len(list(tmp_path.glob("*/*.segment"))) == 1
    assert filled(tmp_path, [1, 2])[0] == [True, True]
    at_work.append(keys([3]), np.ones((1, 2)))
    at_work.close()
    at_work.compact()
    assert filled(tmp_path, [1, 2, 3])[0] == [True, True, True]
    assert list(tmp_path.glob("*/*.segment")) == []


# -- stores of several machines --------------------------------------------------------------------------------------
def test_merge(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    stored(own, [1, 2])
    stored(other, [2, 3])
    stored(other, [7], version=2)
    open_segment = stored(other, [4], close=False)
    before = sorted(path.name for path in other.glob("*/*"))
    for _ in range(2):
        ScoreStore(own).merge(other)
        assert filled(own, [1, 2, 3, 4, 5])[0] == [True, True, True, True, False]
        assert filled(own, [7], version=2)[0] == [True]
        assert [path.suffix for path in own.glob("*/*") if path.suffix == ".segment"] == []
        assert {table["version"]: table["rows"] for table in ScoreStore(own).tables()} == {1: 4, 2: 1}
    assert sorted(path.name for path in other.glob("*/*")) == before
    open_segment.close()


def test_merge_reads_its_own_results_once(tmp_path, monkeypatch):
    own, other = tmp_path / "own", tmp_path / "other"
    stored(own, [1, 2])
    abandoned(other, [[2], [3], [4], [5]])
    monkeypatch.setattr(segment_log, "_READ_BYTES", 1)
    read, opened = StoreTable._read_part, []
    monkeypatch.setattr(StoreTable, "_read_part", lambda self, *part: opened.append(part[0]) or read(self, *part))
    monkeypatch.setattr(StoreTable, "compact", lambda self: None)
    ScoreStore(own).merge(other)
    assert len([path for path in opened if own in path.parents]) == 1
    assert filled(own, [1, 2, 3, 4, 5])[0] == [True] * 5


def test_merge_with_a_missing_folder(tmp_path):
    with pytest.raises(ScoreError, match=r"There is no score store at '.*missing'"):
        ScoreStore(tmp_path / "own").merge(tmp_path / "missing")


# -- damage ----------------------------------------------------------------------------------------------------------
def abandoned(folder, batches):
    """Write a closed segment with one batch per group of numbers, and return its path."""
    built = table(folder)
    for numbers in batches:
        built.append(keys(numbers), np.array([[item, item] for item in numbers], dtype=np.float64))
    built._writer.close()
    return built._writer.path


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_truncated_batch(tmp_path, caplog, cut):
    path = abandoned(tmp_path, [[1, 2], [3]])
    os.truncate(path, path.stat().st_size - cut)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        assert filled(tmp_path, [1, 2, 3])[0] == [True, True, False]
        stored(tmp_path, [4])
    assert filled(tmp_path, [1, 2, 3, 4])[0] == [True, True, False, True]
    assert not caplog.text  # no warning: the process was killed
    assert not path.exists()


def test_damaged_batch_is_set_aside(tmp_path, caplog):
    path = abandoned(tmp_path, [[1, 2], [3], [4]])
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    [records] = read_segment(path, 2, F64)
    assert records.damaged
    assert len(records.keys) == 2
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        stored(tmp_path, [5])
    assert "was moved into set-aside" in caplog.text
    assert (path.parent / "set-aside" / path.name).read_bytes() == data
    assert filled(tmp_path, [1, 2, 3, 4, 5])[0] == [True, True, False, False, True]


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text"])
def test_damaged_parquet_file_is_set_aside(tmp_path, caplog, harm):
    stored(tmp_path, range(100))
    (part,) = tmp_path.glob("*/*.parquet")
    data = bytearray(part.read_bytes())
    if harm == "flip":
        metadata = pq.read_metadata(part)
        data[metadata.row_group(0).column(1).data_page_offset + 100] ^= 1
    harmed = {"cut": data[:-20], "flip": data, "empty": b"", "text": b"no parquet at all"}[harm]
    part.write_bytes(harmed)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        assert not any(filled(tmp_path, range(100))[0])
    assert "is damaged" in caplog.text
    assert [path.name for path in tmp_path.glob("*/set-aside/*")] == [part.name]
    stored(tmp_path, range(100))
    assert all(filled(tmp_path, range(100))[0])


PAIRS = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float64(), 2))
KEYS = [b"k" * 16, b"l" * 16, b"m" * 16]
FOREIGN = {
    "a dataset": {"text": ["a"] * 3},
    "another width": {"key": KEYS, "values": pa.array([[1.0]] * 3, pa.list_(pa.float64(), 1))},
    "another type": {"key": KEYS, "values": PAIRS.cast(pa.list_(pa.float32(), 2))},
    "no lists": {"key": KEYS, "values": [1.0, 2.0, 3.0]},
    "no bytes": {"key": [1, 2, 3], "values": PAIRS},
    "short keys": {"key": [b"k"] * 3, "values": PAIRS},
    "no values": {"key": KEYS, "values": pa.array([None] * 3, PAIRS.type)},
    "no keys": {"key": pa.array([None] * 3, pa.binary()), "values": PAIRS},
}


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_parquet_file_is_set_aside(tmp_path, caplog, content):
    stored(tmp_path, range(10))
    (part,) = tmp_path.glob("*/*.parquet")
    pq.write_table(pa.table(FOREIGN[content]), part.with_name("part-0000000000000000.parquet"))
    foreign = np.frombuffer(b"".join(KEYS), dtype=np.uint8).reshape(-1, 16)  # values that nobody needs are not read
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        is_cached = table(tmp_path).fill(np.concatenate([keys(range(10)), foreign]), np.zeros((13, 2)))
    assert is_cached.tolist() == [True] * 10 + [False] * 3
    assert "is damaged" in caplog.text
    assert [path.name for path in tmp_path.glob("*/set-aside/*")] == ["part-0000000000000000.parquet"]


@pytest.mark.parametrize("harm", ["spec.json", "parquet"])
def test_tables_of_a_damaged_store(tmp_path, harm):
    stored(tmp_path, range(10))
    (path,) = tmp_path.glob(f"*/*{harm}")
    content = path.read_bytes()
    changed = content.replace(b'"version": 1', b'"version": 2') if harm == "spec.json" else content[:-9]
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(ScoreError, match=rf"'.*{path.name}' of the score store is damaged \(.*\)\. Delete it"):
        ScoreStore(tmp_path).tables()
    path.unlink()
    stored(tmp_path, range(20))
    assert ScoreStore(tmp_path).tables()[0]["rows"] == 20


def test_full_disk_while_compacting(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hf_datasel.scoring.store.table.pq.write_table", full)
        stored(tmp_path, range(10))
    assert all(filled(tmp_path, range(10))[0])
    stored(tmp_path, [10])
    assert all(filled(tmp_path, range(11))[0])


def test_folder_of_a_segment_cannot_be_written_to(tmp_path):
    (tmp_path / "sums").write_text("a file")
    with pytest.raises(ScoreError, match=r"Cannot write to the score store at '.*/sums': "):
        SegmentWriter(tmp_path / "sums")


def test_disk_full(tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    built = stored(tmp_path, [1], close=False)
    with monkeypatch.context() as patch:
        patch.setattr("hf_datasel.scoring.store.segment_log.os.write", full)
        with pytest.raises(ScoreError, match=r"Cannot write to the score store at .*: No space left on device"):
            built.append(keys([2]), np.ones((1, 2)))
    built.close()
    assert filled(tmp_path, [1, 2])[0] == [True, False]


def test_folder_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScoreError, match=r"store='.*/file/store' cannot be created"):
        ScoreStore(tmp_path / "file" / "store")


# -- several processes -----------------------------------------------------------------------------------------------
def _writer(folder, first, start):
    start.wait()
    for step in range(10):
        numbers = [first + step, 1000 + step]  # every second number is written by all processes
        stored(folder, numbers)


def test_concurrent_writers(tmp_path):
    processes = multiprocessing.get_context("fork")
    start = processes.Event()
    writers = [processes.Process(target=_writer, args=(tmp_path, first, start)) for first in (0, 100, 200)]
    for item in writers:
        item.start()
    start.set()
    for item in writers:
        item.join(400)
    assert [item.exitcode for item in writers] == [0, 0, 0]
    requested = [first + step for first in (0, 100, 200, 1000) for step in range(10)]
    is_cached, values = filled(tmp_path, requested)
    assert all(is_cached)
    assert values == requested
    stored(tmp_path, [5000])
    assert list(tmp_path.glob("*/*.segment")) == []


# -- scoring with one ------------------------------------------------------------------------------------------------
SCORES = [IFD(), Loss(reduction="sum"), Embedding(as_trained=True), SelectIT(level="token")]


def values(scored):
    return {name: scored[name][:] for name in scored.column_names if name not in ("instruction", "input", "output")}


def test_nothing_is_computed_twice(tmp_path, tiny_model_dir, pool_rows, passes):
    plain = score(pool_rows, SCORES, model=tiny_model_dir)
    passes.clear()
    first = score(pool_rows, SCORES, model=tiny_model_dir, store=tmp_path)
    assert sum(passes) >= 3 * len(pool_rows)
    passes.clear()
    again = score(pool_rows, SCORES, model=tiny_model_dir, store=tmp_path)
    assert passes == []
    assert values(first) == values(again) == values(plain)


def test_scores_share_stored_results(tmp_path, tiny_model_dir, pool_rows, passes):
    score(pool_rows, [IFD()], model=tiny_model_dir, store=tmp_path)
    passes.clear()
    score(pool_rows, [Loss(), IFD(ratio="loss", column_prefix="b_")], model=tiny_model_dir, store=tmp_path)
    assert passes == []


def test_only_new_rows_are_computed(tmp_path, tiny_model_dir, pool_rows, passes):
    old = pool_rows.select(range(4, 24))
    score(old, [Loss()], model=tiny_model_dir, store=tmp_path)
    passes.clear()
    grown = concatenate_datasets([pool_rows.select(range(4)), old])
    result = score(grown, [Loss()], model=tiny_model_dir, store=tmp_path)
    assert sum(passes) <= 4 + 4  # two more rows for comparing the head
    np.testing.assert_allclose(result["loss"], score(grown, [Loss()], model=tiny_model_dir)["loss"], rtol=1e-5)


def test_same_rows_in_other_order_and_format(tmp_path, tiny_model_dir, pool_rows, passes):
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path)
    passes.clear()
    data = Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]}
            for row in pool_rows
            for prompt in [f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]]
        ]
    ).select(range(23, -1, -1))
    score(data, [Loss()], model=tiny_model_dir, store=tmp_path)
    assert passes == []


def changed(what, folder, copy):
    """Copy the model in `folder` to `copy`, with one change."""
    shutil.copytree(folder, copy)
    if what == "weights":
        model = AutoModelForCausalLM.from_pretrained(copy)
        with torch.no_grad():
            model.base_model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
        model.save_pretrained(copy)
    elif what == "template":
        tokenizer = AutoTokenizer.from_pretrained(copy)
        tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\n", "<|im_end|>\n\n")
        tokenizer.save_pretrained(copy)
    elif what == "adapter":
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder), LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM")
        )
        shutil.rmtree(copy)
        model.save_pretrained(copy)
        AutoTokenizer.from_pretrained(folder).save_pretrained(copy)


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")  # bitsandbytes 0.49 on torch 2.13
@pytest.mark.parametrize("what", ["weights", "template", "adapter", "dtype", "max_length", "4bit", "version"])
def test_changed_computation_is_not_cached(what, tmp_path, tiny_model_dir, pool_rows, passes, monkeypatch):
    rows, settings, model = pool_rows.select(range(6)), {}, tiny_model_dir
    score(rows, [Loss()], model=tiny_model_dir, store=tmp_path / "store")
    if what in ("weights", "template", "adapter"):
        changed(what, tiny_model_dir, model := tmp_path / "copy")
    elif what == "version":
        monkeypatch.setattr(forward.SummedNLL, "spec", lambda self: {"computed": "nll", "version": 2})
    else:
        settings = {
            "dtype": {"dtype": "bfloat16"},
            "max_length": {"max_length": 30},
            "4bit": {"model_init_kwargs": {"quantization_config": NF4, "device_map": {"": "cpu"}}},
        }[what]
    expected = score(rows, [Loss(**settings)], model=model, on_summary=str)["loss"][:]
    passes.clear()
    result = score(rows, [Loss(**settings)], model=model, store=tmp_path / "store", on_summary=str)["loss"][:]
    assert sum(passes) >= sum(value is not None for value in expected)
    assert result == expected


def test_copied_model_is_the_same_model(tmp_path, tiny_model_dir, pool_rows, passes):
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path / "store")
    shutil.copytree(tiny_model_dir, tmp_path / "copy")
    passes.clear()
    score(pool_rows, [Loss()], model=tmp_path / "copy", store=tmp_path / "store")
    assert passes == []


def test_loaded_model_has_the_results_of_its_name(tmp_path, tiny_model_dir, model, tokenizer, pool_rows, passes):
    named = score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path)
    passes.clear()
    loaded = score(pool_rows, [Loss()], model=model, processing_class=tokenizer, store=tmp_path)
    assert passes == []
    assert loaded["loss"][:] == named["loss"][:]


def test_non_finite_values_are_not_stored(tmp_path, tiny_model_dir, pool_rows, passes):
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.base_model.norm.weight[:] = float("nan")
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(broken)
    for _ in range(2):
        passes.clear()
        result = score(pool_rows, [Embedding(as_trained=True)], model=broken, store=tmp_path / "s", on_summary=str)
        assert sum(passes) == 24
        assert set(result["embedding_reason"]) == {"not_finite"}


# -- killed ----------------------------------------------------------------------------------------------------------
_SLOW = """
import sys, time
from datasets import Dataset, disable_progress_bars
from hf_datasel import score
from hf_datasel.scores import IFD
from hf_datasel.scoring import logprobs as forward
disable_progress_bars()
whole = forward.LogprobRunner.hidden
def slow(self, batch):
    time.sleep(0.05)
    return whole(self, batch)
forward.LogprobRunner.hidden = slow
rows = Dataset.from_parquet(sys.argv[1])
print("ready", flush=True)
score(rows, [IFD()], model=sys.argv[2], store=sys.argv[3], scoring_tokens_per_batch=100)
"""


@pytest.mark.usefixtures("warm_python")
def test_resume_after_kill(tmp_path, tiny_model_dir, pool_rows, passes):
    expected = score(pool_rows, [IFD()], model=tiny_model_dir, scoring_tokens_per_batch=100)
    total = sum(passes)
    file, store = tmp_path / "rows.parquet", tmp_path / "store"
    pool_rows.to_parquet(file)
    written = 0
    for _ in range(2):
        command = [sys.executable, "-c", _SLOW, str(file), str(tiny_model_dir), str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while len(memory := _held(store)) < written + 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        written = len(_held(store))
        assert written >= len(memory) >= 6
    passes.clear()
    result = score(pool_rows, [IFD()], model=tiny_model_dir, store=store, scoring_tokens_per_batch=100)
    assert sum(passes) <= total - written + 4  # the rows for comparing the head run again
    assert values(result) == values(expected)


def _held(store):
    """Return the keys in all files of a folder."""
    result = []
    for path in store.glob("*/*.segment"):
        result += [bytes(item) for records in read_segment(path, 2, F64) for item in records.keys]
    for path in store.glob("*/*.parquet"):
        result += pq.read_table(path)["key"].to_pylist()
    return result


def test_results_before_an_error_are_stored(tmp_path, tiny_model_dir, pool_rows, monkeypatch, passes):
    counted, seen = forward.LogprobRunner.hidden, []

    def failing(self, batch):
        seen.append(len(batch))
        if len(seen) == 6:
            raise KeyboardInterrupt("stop")
        return counted(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(forward.LogprobRunner, "hidden", failing)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path, scoring_tokens_per_batch=100)
    passes.clear()
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path, scoring_tokens_per_batch=100)
    assert 0 < sum(passes) <= 24 - sum(seen[1:5]) + 2


def test_spec_file(tmp_path, tiny_model_dir, pool_rows):
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path)
    (path,) = tmp_path.glob("nll-*/spec.json")
    spec = json.loads(path.read_text())
    assert (spec["computed"], spec["weights_dtype"], spec["width"]) == ("nll", "torch.float32", 2)
    assert spec["model"]["weights"].startswith("files:")
    assert str(tiny_model_dir) not in path.read_text()


def test_rows_with_one_id_and_different_prompts_keep_their_own_results(tmp_path, tiny_model_dir):
    """The id joins instruction and input, and the prompts of Alpaca do not: results are those of the tokens."""
    rows = Dataset.from_dict(
        {"instruction": ["Say this.\n\nHello", "Say this."], "input": ["", "Hello"], "output": ["Hello.", "Hello."]}
    )
    first, second = Pool(rows).row_ids
    assert (first == second).all()
    ifd = IFD(str(tiny_model_dir), convention="superfiltering")
    alone = [score(rows.select([row]), ifd)["ifd"][0] for row in (0, 1)]
    assert alone[0] != alone[1]
    for part in ([0], [0, 1], [1, 0]):
        assert score(rows.select(part), ifd, store=tmp_path)["ifd"][:] == pytest.approx([alone[row] for row in part])
