"""What was read of a pool is used again by later pools of the same rows, and never for other rows."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk

from hf_datasel import score, select
from hf_datasel.formats import Pool, canonical_rows, pool as pool_module, scan_cache
from hf_datasel.scores import Length
from hf_datasel.selectors import Longest

NUM_ROWS = 300
SAMPLED = 2 * 32 + 2
"""Most rows that are read again before a file is used."""


class Reads:
    """Number of rows that pools have read since the last call."""

    def __init__(self, monkeypatch):
        self.rows = 0
        scan_rows = pool_module.scan_rows

        def counting(batches, num_rows, *settings):
            self.rows += num_rows
            return scan_rows(batches, num_rows, *settings)

        monkeypatch.setattr(pool_module, "scan_rows", counting)

    def __call__(self):
        rows, self.rows = self.rows, 0
        return rows


def forget():
    """Forget what this process has read, as a later process has not read it."""
    scan_cache._recent.clear()


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(pool_module, "_MIN_CACHED_ROWS", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    forget()
    yield tmp_path / "cache" / "hf_datasel" / "row_scans"
    forget()


@pytest.fixture
def reads(monkeypatch):
    return Reads(monkeypatch)


def rows(word="row"):
    responses = [None if number % 50 == 7 else f"{word} {number}" for number in range(NUM_ROWS)]
    return {"prompt": [f"Say {number}." for number in range(NUM_ROWS)], "completion": responses}


@pytest.fixture
def data(tmp_path):
    Dataset.from_dict(rows()).save_to_disk(tmp_path / "rows")
    return load_from_disk(str(tmp_path / "rows"))


def ids(dataset):
    return [list(row.digest()) for row in canonical_rows(dataset[:])]


def check(pool, dataset):
    expected = canonical_rows(dataset[:])
    assert pool.row_ids.tolist() == [list(row.digest()) for row in expected]
    assert pool.reasons.tolist() == [row.reason for row in expected]
    assert pool.details == {number: row.detail for number, row in enumerate(expected) if row.reason}


def test_score_select_and_apply_read_the_rows_once(folder, reads, data):
    scored = score(data, [Length()])
    selection = select(scored, Longest(), size=5)
    assert len(selection.apply(scored)) == 5
    assert reads() == NUM_ROWS


def test_later_process_reads_a_sample(folder, reads, data):
    check(Pool(data), data)
    assert reads() == NUM_ROWS
    forget()
    check(Pool(data.add_column("ifd", np.zeros(NUM_ROWS))), data)
    assert 0 < reads() <= SAMPLED
    check(Pool(data), data)
    assert reads() == 0


def test_rows_of_other_tables_are_the_same(folder, reads, data):
    check(Pool(data), data)
    parts = [data.select(range(170)), data.select(range(170, NUM_ROWS))]
    backwards = data.select(range(NUM_ROWS - 1, -1, -1))
    reads()
    for same in (
        concatenate_datasets(parts),
        backwards.select(range(NUM_ROWS - 1, -1, -1)),
        Dataset.from_dict(rows()),
    ):
        check(Pool(same), data)
        assert reads() == 0
    check(Pool(backwards), backwards)
    assert reads() == NUM_ROWS


def test_other_rows_with_the_same_fingerprint(folder, data, tmp_path):
    check(Pool(data), data)
    changed = rows()
    changed["completion"][123] = "another row"
    Dataset.from_dict(changed).save_to_disk(tmp_path / "changed")
    other = load_from_disk(str(tmp_path / "changed"))
    other._fingerprint = data._fingerprint
    check(Pool(other), other)
    forget()
    check(Pool(other), other)


def test_other_columns_of_the_same_rows(folder, data):
    mapping = {"prompt": "completion", "completion": "prompt"}
    assert Pool(data, mapping).id != Pool(data).id
    assert Pool(data).details and not Pool(data, mapping).details.keys() & {0, 1}
    renamed = data.rename_columns({"prompt": "question", "completion": "answer"})
    assert Pool(renamed).details[7] == "column 'answer' is null"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"junk",
        lambda content: content[:-1],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: content * 2,
    ],
)
def test_damaged_file_is_ignored_and_replaced(folder, reads, data, caplog, damage):
    check(Pool(data), data)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    forget()
    caplog.set_level(logging.DEBUG, logger="hf_datasel")
    reads()
    check(Pool(data), data)
    assert reads() >= NUM_ROWS
    assert f"{file} is not used" in caplog.text
    assert [record.levelname for record in caplog.records if "is not used" in record.message] == ["DEBUG"]
    assert file.read_bytes() == content


@pytest.mark.parametrize("change", ["other rows", "first row", "all reasons", "more rows"])
def test_foreign_file_is_found_out(folder, data, change):
    check(Pool(data), data)
    (file,) = folder.iterdir()
    scan = Pool(data)._scan
    foreign = {
        "other rows": lambda: Pool(Dataset.from_dict(rows("foreign")))._scan,
        "first row": lambda: scan.marked(np.array([0]), "wrong_type", "a lie"),
        "all reasons": lambda: scan.marked(np.flatnonzero(~Pool(data).usable), "wrong_type", "a lie"),
        "more rows": lambda: Pool(concatenate_datasets([data, data]))._scan,
    }[change]()
    scan_cache._write(file, foreign)
    forget()
    check(Pool(data), data)
    forget()
    check(Pool(data), data)


def test_folder_that_cannot_be_written(folder, reads, data, monkeypatch):
    folder.parent.parent.mkdir()
    folder.parent.write_text("a file in place of the folder")
    check(Pool(data), data)
    folder.parent.unlink()
    forget()

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hf_datasel.atomic.os.fsync", full)
    check(Pool(data), data)
    assert reads() == 2 * NUM_ROWS
    assert list(folder.iterdir()) == []


def test_disabled_caching(folder, reads, data):
    datasets.disable_caching()
    try:
        for _ in range(2):
            check(Pool(data), data)
            assert reads() == NUM_ROWS
        assert not folder.exists()
    finally:
        datasets.enable_caching()


def test_rows_in_memory_leave_no_file(folder, reads):
    data = Dataset.from_dict(rows())
    for expected in (NUM_ROWS, 0):
        check(Pool(data), data)
        assert reads() == expected
    assert not folder.exists()


def test_few_rows_are_read_each_time(reads, data):
    for _ in range(2):
        Pool(data).id  # noqa: B018
        assert reads() == NUM_ROWS


def test_marked_rows_are_those_of_one_pool(folder, data):
    pool = Pool(data)
    pool.mark([3], "template_error", "no template")
    assert pool.reasons[3] == "template_error"
    check(Pool(data), data)
    forget()
    check(Pool(data), data)


def test_oldest_files_are_removed(folder, data, monkeypatch):
    Pool(data).id  # noqa: B018
    (first,) = folder.iterdir()
    os.utime(first, (1, 1))
    monkeypatch.setattr(scan_cache, "_MAX_BYTES", int(first.stat().st_size * 1.5))
    part = data.select(range(NUM_ROWS - 1))
    Pool(part).id  # noqa: B018
    (second,) = folder.iterdir()
    assert second != first
    check(Pool(part), part)


SCRIPT = """
import sys
from datasets import load_from_disk
from hf_datasel.formats import Pool, pool
pool._MIN_CACHED_ROWS = 1
print(Pool(load_from_disk(sys.argv[1])).id)
"""


def test_processes_at_once(folder, reads, data, tmp_path):
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "rows")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    printed = [process.communicate()[0].strip() for process in processes]
    assert printed == [Pool(data).id] * 2
    assert 0 < reads() <= SAMPLED
    assert len(list(folder.iterdir())) == 1
