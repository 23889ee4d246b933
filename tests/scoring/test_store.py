"""What was scored is kept: killed runs, grown datasets, other models, several writers, damaged files."""

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
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score
from hf_datasel.errors import ScoreError
from hf_datasel.scores import IFD, Embedding, Loss, SelectIT
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.store.segment_log import read_segment
from hf_datasel.scoring.store.store import ScoreStore

SPEC = {"computed": "test", "version": 1}
F64 = np.dtype(np.float64)
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def keys(numbers):
    """A key of 16 bytes for each number; some end in zeros, which numpy's strings drop."""
    return np.array([[*int(each).to_bytes(4, "little"), *[7, 0, 0] * 4] for each in numbers], dtype=np.uint8)


def table(folder, width=2, dtype=F64, **spec):
    return ScoreStore(folder).table({**SPEC, **spec}, width, dtype)


def filled(folder, numbers, width=2, **spec):
    values = np.full((len(numbers), width), -1.0)
    known = table(folder, width, **spec).fill(keys(numbers), values)
    return known.tolist(), values[:, 0].tolist()


def kept(folder, numbers, close=True, **spec):
    made = table(folder, **spec)
    made.append(keys(numbers), np.array([[each, each / 7] for each in numbers], dtype=np.float64))
    if close:
        made.close()
        made.compact()
    return made


@pytest.fixture
def passes(monkeypatch):
    """How many sequences went through the model's layers since the list was last cleared."""
    seen, original = [], forward.Forwards.hidden

    def counted(self, batch):
        seen.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(forward.Forwards, "hidden", counted)
    return seen


# -- a table ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("close", [True, False])
def test_what_is_kept_is_found_again(tmp_path, close):
    made = kept(tmp_path, [1, 256, 65536, 0], close)
    assert filled(tmp_path, [0, 5, 256, 256]) == ([True, False, True, True], [0.0, -1.0, 256.0, 256.0])
    made.close()
    values = np.zeros((1, 2))
    table(tmp_path).fill(keys([65536]), values)
    assert values.tolist() == [[65536, 65536 / 7]]


def test_nothing_kept_and_nothing_asked(tmp_path):
    assert filled(tmp_path, [1, 2]) == ([False, False], [-1.0, -1.0])
    assert filled(tmp_path, []) == ([], [])
    made = table(tmp_path)
    made.append(keys([]).reshape(0, 16), np.empty((0, 2)))
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_another_spec_width_or_dtype_is_another_table(tmp_path):
    kept(tmp_path, [1])
    assert filled(tmp_path, [1], version=2)[0] == filled(tmp_path, [1], width=3)[0] == [False]
    values = np.zeros((1, 2), dtype=np.float32)
    assert not table(tmp_path, dtype=np.dtype(np.float32)).fill(keys([1]), values).any()


def test_vectors_in_float32(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32)
    made = table(tmp_path, 300, vectors.dtype)
    made.append(keys(range(5)), vectors)
    made.close()
    found = np.zeros_like(vectors)
    assert table(tmp_path, 300, vectors.dtype).fill(keys(range(5)), found).all()
    assert np.array_equal(found, vectors)


def test_segments_become_one_part_that_anyone_can_read(tmp_path):
    for numbers in ([1, 2], [3], [2, 4]):
        kept(tmp_path, numbers)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".parquet"]
    (part,) = folder.glob("*.parquet")
    data = Dataset.from_parquet(str(part), cache_dir=str(tmp_path / "cache"))
    assert sorted(values[0] for values in data["values"]) == [1.0, 2.0, 3.0, 4.0]
    (described,) = ScoreStore(tmp_path).tables()
    assert (described["rows"], described["computed"], described["folder"]) == (4, "test", folder.name)


def test_the_same_rows_twice_stay_one_part(tmp_path):
    kept(tmp_path, [1, 2])
    kept(tmp_path, [2, 1])
    assert len(list(tmp_path.glob("*/*.parquet"))) == 1
    assert filled(tmp_path, [1, 2])[0] == [True, True]


def test_a_segment_at_work_is_read_and_left_alone(tmp_path):
    at_work = kept(tmp_path, [1], close=False)
    kept(tmp_path, [2])
    assert len(list(tmp_path.glob("*/*.segment"))) == 1
    assert filled(tmp_path, [1, 2])[0] == [True, True]
    at_work.append(keys([3]), np.ones((1, 2)))
    at_work.close()
    at_work.compact()
    assert filled(tmp_path, [1, 2, 3])[0] == [True, True, True]
    assert list(tmp_path.glob("*/*.segment")) == []


# -- damage ----------------------------------------------------------------------------------------------------------
def abandoned(folder, batches):
    """A segment whose writer is gone, a batch each; its path."""
    made = table(folder)
    for numbers in batches:
        made.append(keys(numbers), np.array([[each, each] for each in numbers], dtype=np.float64))
    made._writer.close()
    return made._writer.path


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_batch_that_was_cut_off_is_lost_alone(tmp_path, caplog, cut):
    path = abandoned(tmp_path, [[1, 2], [3]])
    os.truncate(path, path.stat().st_size - cut)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        assert filled(tmp_path, [1, 2, 3])[0] == [True, True, False]
        kept(tmp_path, [4])
    assert filled(tmp_path, [1, 2, 3, 4])[0] == [True, True, False, True]
    assert not caplog.text  # nothing is wrong: the process was killed
    assert not path.exists()


def test_a_batch_that_changed_is_set_aside_with_what_follows(tmp_path, caplog):
    path = abandoned(tmp_path, [[1, 2], [3], [4]])
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    records = read_segment(path, 2, F64)
    assert records.damaged
    assert len(records.keys) == 2
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        kept(tmp_path, [5])
    assert "was moved into set-aside" in caplog.text
    assert (path.parent / "set-aside" / path.name).read_bytes() == data
    assert filled(tmp_path, [1, 2, 3, 4, 5])[0] == [True, True, False, False, True]


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text"])
def test_a_damaged_part_is_set_aside(tmp_path, caplog, harm):
    kept(tmp_path, range(100))
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
    kept(tmp_path, range(100))
    assert all(filled(tmp_path, range(100))[0])


def test_a_disk_that_takes_no_more(tmp_path, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    made = kept(tmp_path, [1], close=False)
    with monkeypatch.context() as patch:
        patch.setattr("hf_datasel.scoring.store.segment_log.os.write", full)
        with pytest.raises(ScoreError, match=r"Cannot write to the score store at .*: No space left on device"):
            made.append(keys([2]), np.ones((1, 2)))
    made.close()
    assert filled(tmp_path, [1, 2])[0] == [True, False]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ScoreError, match=r"store='.*/file/store' cannot be made"):
        ScoreStore(tmp_path / "file" / "store")


# -- several processes -----------------------------------------------------------------------------------------------
def _writer(folder, first, start):
    start.wait()
    for step in range(10):
        numbers = [first + step, 1000 + step]  # every second one is written by all of them
        kept(folder, numbers)


def test_processes_that_write_at_once(tmp_path):
    processes = multiprocessing.get_context("spawn")
    start = processes.Event()
    writers = [processes.Process(target=_writer, args=(tmp_path, first, start)) for first in (0, 100, 200)]
    for each in writers:
        each.start()
    start.set()
    for each in writers:
        each.join(120)
    assert [each.exitcode for each in writers] == [0, 0, 0]
    wanted = [first + step for first in (0, 100, 200, 1000) for step in range(10)]
    known, values = filled(tmp_path, wanted)
    assert all(known)
    assert values == wanted
    kept(tmp_path, [5000])
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


def test_scores_that_need_the_same_numbers_find_them(tmp_path, tiny_model_dir, pool_rows, passes):
    score(pool_rows, [IFD()], model=tiny_model_dir, store=tmp_path)
    passes.clear()
    score(pool_rows, [Loss(), IFD(ratio="loss", column_prefix="b_")], model=tiny_model_dir, store=tmp_path)
    assert passes == []


def test_of_a_dataset_that_grew_only_what_is_new_is_computed(tmp_path, tiny_model_dir, pool_rows, passes):
    old = pool_rows.select(range(4, 24))
    score(old, [Loss()], model=tiny_model_dir, store=tmp_path)
    passes.clear()
    grown = concatenate_datasets([pool_rows.select(range(4)), old])
    found = score(grown, [Loss()], model=tiny_model_dir, store=tmp_path)
    assert sum(passes) <= 4 + 4  # and two rows more on which the head is tried
    np.testing.assert_allclose(found["loss"], score(grown, [Loss()], model=tiny_model_dir)["loss"], rtol=1e-5)


def test_another_order_column_names_and_format_of_the_same_rows(tmp_path, tiny_model_dir, pool_rows, passes):
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
    """Another model than the one in `folder`, at `copy`, in one respect."""
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
def test_old_entries_are_never_taken_for_others(what, tmp_path, tiny_model_dir, pool_rows, passes, monkeypatch):
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
    found = score(rows, [Loss(**settings)], model=model, store=tmp_path / "store", on_summary=str)["loss"][:]
    assert sum(passes) >= sum(value is not None for value in expected)
    assert found == expected


def test_the_same_files_elsewhere_are_the_same_model(tmp_path, tiny_model_dir, pool_rows, passes):
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path / "store")
    shutil.copytree(tiny_model_dir, tmp_path / "copy")
    passes.clear()
    score(pool_rows, [Loss()], model=tmp_path / "copy", store=tmp_path / "store")
    assert passes == []


def test_a_live_model_is_refused(tmp_path, model, tokenizer, pool_rows):
    with pytest.raises(ScoreError, match=r"this is a live LlamaForCausalLM\. Save it and pass its folder"):
        score(pool_rows, [Loss()], model=model, tokenizer=tokenizer, store=tmp_path)


def test_values_that_are_not_finite_are_not_kept(tmp_path, tiny_model_dir, pool_rows, passes):
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        model.base_model.norm.weight[:] = float("nan")
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(broken)
    for _ in range(2):
        passes.clear()
        found = score(pool_rows, [Embedding(as_trained=True)], model=broken, store=tmp_path / "s", on_summary=str)
        assert sum(passes) == 24
        assert set(found["embedding_reason"]) == {"not_finite"}


# -- killed ----------------------------------------------------------------------------------------------------------
_SLOW = """
import sys, time
from datasets import Dataset, disable_progress_bars
from hf_datasel import score
from hf_datasel.scores import IFD, forward
disable_progress_bars()
whole = forward.Forwards.hidden
def slow(self, batch):
    time.sleep(0.05)
    return whole(self, batch)
forward.Forwards.hidden = slow
rows = Dataset.from_parquet(sys.argv[1])
print("ready", flush=True)
score(rows, [IFD()], model=sys.argv[2], store=sys.argv[3], tokens_per_batch=100)
"""


def test_killed_and_started_again(tmp_path, tiny_model_dir, pool_rows, passes):
    expected = score(pool_rows, [IFD()], model=tiny_model_dir, tokens_per_batch=100)
    total = sum(passes)
    file, store = tmp_path / "rows.parquet", tmp_path / "store"
    pool_rows.to_parquet(file)
    written = 0
    for _ in range(2):
        command = [sys.executable, "-c", _SLOW, str(file), str(tiny_model_dir), str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while len(held := _held(store)) < written + 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        written = len(_held(store))
        assert written >= len(held) >= 6
    passes.clear()
    found = score(pool_rows, [IFD()], model=tiny_model_dir, store=store, tokens_per_batch=100)
    assert sum(passes) <= total - written + 4  # the rows on which the head is tried come once more
    assert values(found) == values(expected)


def _held(store):
    """Keys that a folder holds, in whatever file."""
    found = []
    for path in store.glob("*/*.segment"):
        found += [bytes(each) for each in read_segment(path, 2, F64).keys]
    for path in store.glob("*/*.parquet"):
        found += pq.read_table(path)["key"].to_pylist()
    return found


def test_an_error_half_way_keeps_what_was_computed(tmp_path, tiny_model_dir, pool_rows, monkeypatch, passes):
    counted, seen = forward.Forwards.hidden, []

    def failing(self, batch):
        seen.append(len(batch))
        if len(seen) == 6:
            raise KeyboardInterrupt("stop")
        return counted(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(forward.Forwards, "hidden", failing)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path, tokens_per_batch=100)
    passes.clear()
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path, tokens_per_batch=100)
    assert 0 < sum(passes) <= 24 - sum(seen[1:5]) + 2


def test_the_spec_is_readable(tmp_path, tiny_model_dir, pool_rows):
    score(pool_rows, [Loss()], model=tiny_model_dir, store=tmp_path)
    (path,) = tmp_path.glob("nll-*/spec.json")
    spec = json.loads(path.read_text())
    assert (spec["computed"], spec["weights_dtype"], spec["width"]) == ("nll", "torch.float32", 2)
    assert spec["model"]["weights"].startswith("files:")
    assert str(tiny_model_dir) not in path.read_text()
