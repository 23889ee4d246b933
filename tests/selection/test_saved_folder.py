"""Saved selections: killed, full, damaged and changed folders give a whole selection or one sentence."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings, strategies as st

from hf_datasel import Selection, select
from hf_datasel.cards.build import gather
from hf_datasel.errors import DataselError, SelectionError
from hf_datasel.selectors import Longest, Random, Top

FILES = {"selection.json", "indices.npy", "scores.parquet"}

KILLED_SAVES = """
import sys
from hf_datasel import Selection
from tests.kills import killed_at_each_operation
old, new, folder = (Selection.load(sys.argv[1]), Selection.load(sys.argv[2]), sys.argv[3])
seen = []
for number in killed_at_each_operation(lambda: new.save(folder), folder):
    now = Selection.load(folder)
    assert now in (old, new), number
    seen.append(now == new)
    if now == new:  # what the killed save left does not harm the next one
        old.save(folder)
        assert Selection.load(folder) == old
assert Selection.load(folder) == new
print(len(seen), sum(seen))
"""


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.add_column("loss", [round(0.1 * ((7 * row) % 24), 1) for row in range(24)])


@pytest.fixture(scope="module")
def selection(rows):
    return select(rows, Top(by="loss"), size=5)


def edit(folder, **changes):
    """Change keys of a record as a version without digests wrote it; None removes a key."""
    path = folder / "selection.json"
    record = {**json.loads(path.read_text(encoding="utf-8")), "format_version": 2, "sha256": None, **changes}
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def write_rows(folder, values):
    np.save(folder / "indices.npy", values)


# -- writing ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("warm_python")
def test_killed_save_leaves_a_whole_selection(rows, tmp_path):
    for name, seed, size in (("old", 0, 6), ("new", 1, 3), ("folder", 0, 6)):
        select(rows, Random(), size=size, seed=seed).save(tmp_path / name)
    Selection.load(tmp_path / "old").save(tmp_path / "folder")
    command = [sys.executable, "-W", "ignore", "-c", KILLED_SAVES]
    names = [str(tmp_path / name) for name in ("old", "new", "folder")]
    result = subprocess.run([*command, *names], capture_output=True, text=True, env=os.environ, timeout=120)
    assert result.returncode == 0, result.stderr
    kills, replaced = map(int, result.stdout.split())
    assert kills > 10
    assert 0 < replaced < kills
    assert {path.name for path in (tmp_path / "folder").iterdir()} == FILES


def test_two_writers(rows, tmp_path):
    selections = [select(rows, Random(), size=size, seed=size) for size in (3, 7)]
    selections[0].save(tmp_path)
    errors = []

    def write(selection):
        try:
            for _ in range(15):
                selection.save(tmp_path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(selection,)) for selection in selections]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        seen.add(selections.index(Selection.load(tmp_path)))
    for thread in threads:
        thread.join()
    assert not errors
    assert seen <= {0, 1}
    assert Selection.load(tmp_path) in selections
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace", "pyarrow.parquet.write_table", "numpy.save"])
def test_full_disk(rows, selection, tmp_path, monkeypatch, failing):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    other = select(rows, Longest(), size=4)
    for holds, folder in (("nothing", tmp_path / "new"), ("another", tmp_path / "old")):
        if holds == "another":
            other.save(folder)
        with monkeypatch.context() as patch:
            patch.setattr(failing, full)
            with pytest.raises(SelectionError, match=r"Cannot save the selection to .*: No space left") as caught:
                selection.save(folder)
        assert "It is still in memory: save it to another folder." in str(caught.value)
        assert ("The selection that it held before is unchanged." in str(caught.value)) == (holds == "another")
        assert {path.name for path in folder.iterdir()} == (FILES if holds == "another" else set())
    assert Selection.load(tmp_path / "old") == other
    selection.save(tmp_path / "new")
    assert Selection.load(tmp_path / "new") == selection


def test_folder_that_is_a_file(selection, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SelectionError, match=r"Cannot save the selection to '.*/file': File exists\."):
        selection.save(tmp_path / "file")
    with pytest.raises(SelectionError, match="holds no selection"):
        Selection.load(tmp_path / "file")


# -- reading ---------------------------------------------------------------------------------------------------------
def test_flipped_bits(selection, tmp_path):
    selection.save(tmp_path)
    rng, refused = np.random.default_rng(0), 0
    for name in sorted(FILES):
        content = (tmp_path / name).read_bytes()
        for bit in rng.choice(8 * len(content), 60, replace=False):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(flipped)
            try:
                assert Selection.load(tmp_path) == selection, f"bit {bit} of {name}"
            except SelectionError as error:
                refused += 1
                assert "\n" not in str(error)
        (tmp_path / name).write_bytes(content)
    assert refused > 150  # others change spaces of the JSON


@pytest.mark.parametrize("name", sorted(FILES))
def test_file_of_another_selection(rows, selection, tmp_path, name):
    selection.save(tmp_path / "one")
    select(rows, Top(by="loss"), size=5, seed=1).save(tmp_path / "two")
    write_rows(tmp_path / "two", selection.indices[::-1])  # the same rows in another order
    other = pq.read_table(tmp_path / "one" / "scores.parquet")
    scores = pa.array(reversed(other.column("loss").to_pylist()), other.schema.field("loss").type)
    pq.write_table(other.set_column(1, "loss", scores), tmp_path / "two" / "scores.parquet")
    record = json.loads((tmp_path / "two" / "selection.json").read_text(encoding="utf-8"))
    (tmp_path / "two" / "selection.json").write_text(json.dumps(record | {"round": 7}), encoding="utf-8")
    (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    message = "not as it was written" if name == "selection.json" else "not what was written with its selection.json"
    with pytest.raises(SelectionError, match=rf"The selection in '.*/one' is damaged: .* {message}.*select again\."):
        Selection.load(tmp_path / "one")


def test_digests_may_not_be_left_out(selection, tmp_path):
    selection.save(tmp_path)
    edit(tmp_path, format_version=3)
    with pytest.raises(SelectionError, match="not as it was written"):
        Selection.load(tmp_path)


def test_reformatted_record_is_the_same_record(selection, tmp_path):
    selection.save(tmp_path)
    record = json.loads((tmp_path / "selection.json").read_text(encoding="utf-8"))
    (tmp_path / "selection.json").write_text(json.dumps(dict(reversed(record.items()))), encoding="utf-8")
    assert Selection.load(tmp_path) == selection


def zipped(folder):
    with zipfile.ZipFile(folder / "indices.npy", "w") as file:
        file.writestr("a.npy", b"x")


def scores_of(*names, rows=24, ids=None):
    def write(folder):
        table = pq.read_table(folder / "scores.parquet")
        columns = {name: table.column(min(index, 1)) for index, name in enumerate(names)}
        if ids is not None:
            columns["row_id"] = pa.array(ids, pa.string() if ids[0] == "text" else pa.binary(32))
        pq.write_table(pa.table(columns).slice(0, rows), folder / "scores.parquet")

    return write


DAMAGED = {
    "2 of its 5 row numbers are repeated": lambda folder: write_rows(folder, np.array([1, 1, 1, 2, 3])),
    "it has 4 row numbers for 5 selected rows": lambda folder: write_rows(folder, np.arange(4)),
    "it has row numbers beyond its pool of 24 rows": lambda folder: write_rows(folder, np.array([-1, 1, 2, 3, 4])),
    "has row numbers beyond its pool": lambda folder: write_rows(folder, np.array([24, 1, 2, 3, 4])),
    "holds float64 of shape (5,), not a list of row": lambda folder: write_rows(folder, np.arange(5) + 0.5),
    "holds int32 of shape": lambda folder: write_rows(folder, np.arange(5, dtype=np.int32)),
    "holds int64 of shape (5, 1)": lambda folder: write_rows(folder, np.arange(5)[:, None]),
    "indices.npy cannot be read (Object arrays": lambda folder: write_rows(folder, np.array([{}] * 5)),
    "indices.npy cannot be read (the magic": lambda folder: (folder / "indices.npy").write_bytes(b"no array"),
    "indices.npy cannot be read (": lambda folder: (folder / "indices.npy").write_bytes(b""),
    "indices.npy cannot be read": zipped,
    "it has scores of 23 rows for a pool of 24": scores_of("row_id", "loss", rows=23),
    "its scores have no column of row ids": scores_of("loss"),
    "have no column of row ids": scores_of("loss", "row_id"),
    "no column of row ids.": scores_of("row_id", ids=["text"] * 24),
    "its row ids are not those of the dataset": scores_of("row_id", ids=[b"x" * 32] * 24),
    "its row ids are not those": scores_of("row_id", ids=[None] * 24),
    "its scores cannot be read (": lambda folder: (folder / "scores.parquet").write_bytes(b"PAR1 and no more PAR1"),
    "its scores cannot be read": lambda folder: (folder / "scores.parquet").write_bytes(b""),
    "selection.json is no valid JSON (": lambda folder: (folder / "selection.json").write_text('{"format_version": 2'),
    "is no valid JSON ('utf-8'": lambda folder: (folder / "selection.json").write_bytes(b'{"a": "\xff"}'),
    "is no valid JSON": lambda folder: (folder / "selection.json").write_text("[" * 200_000),
    "is no record of a selection.": lambda folder: (folder / "selection.json").write_text("[1]"),
    "it has no dataset": lambda folder: edit(folder, dataset=None),
    "it has no dataset.rows": lambda folder: edit(folder, dataset={"id": "1", "format": "alpaca"}),
    "dataset is no object": lambda folder: edit(folder, dataset=[]),
    "dataset.rows is not a whole number": lambda folder: edit(folder, dataset={"id": "1", "rows": 2.5, "format": "a"}),
    "exclusions.a is not a whole number": lambda folder: edit(folder, exclusions={"a": "b"}),
    "columns_unverified[0] is not text": lambda folder: edit(folder, columns_unverified=[0]),
    "columns_unverified is no list": lambda folder: edit(folder, columns_unverified="loss"),
    "selector is no object": lambda folder: edit(folder, selector=["top"]),
    "it has no selector.by.score": lambda folder: edit(folder, selector={"selector": "top", "by": {}}),
    "selector.then is no object": lambda folder: edit(folder, selector={"selector": "chain", "then": 5}),
    "selector.then.method.": lambda folder: edit(
        folder, selector={"selector": "chain", "then": {"selector": "within", "method": {}}}
    ),
    "round is not a whole number": lambda folder: edit(folder, round=True),
    "plan[0] is no object": lambda folder: edit(folder, plan=[1]),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_folder(selection, tmp_path, message):
    selection.save(tmp_path)
    edit(tmp_path)
    DAMAGED[message](tmp_path)
    with pytest.raises(SelectionError, match=re.escape(message)) as caught:
        Selection.load(tmp_path)
    assert repr(str(tmp_path)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(FILES))
def test_unreadable_file(selection, tmp_path, name):
    selection.save(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(SelectionError, match=rf"Cannot read '.*/{re.escape(name)}': Is a directory\."):
        Selection.load(tmp_path)


# -- anything ---------------------------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def used(folder: Path, rows: Dataset) -> None:
    """Load a selection and do with it what users do: either all of it works, or there is an error of this package."""
    try:
        loaded = Selection.load(folder)
        loaded.apply(rows)
        assert repr(loaded)
        assert loaded.overlap(loaded) == 1
        gather([loaded], None, title="Selected rows")
    except DataselError as error:
        assert "\n" not in str(error)


@FUZZ
@given(data=st.data())
def test_any_record(rows, selection, tmp_path, data):
    selection.save(tmp_path)
    edit(tmp_path)
    record = json.loads((tmp_path / "selection.json").read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        part = record
        while isinstance(part, dict) and part:
            key = data.draw(st.sampled_from(sorted(part)))
            if not isinstance(part[key], dict) or key == "selector" or data.draw(st.booleans()):
                break  # the settings of a selector are its own
            part = part[key]
        if isinstance(part, dict) and part:
            part[key] = data.draw(
                JSON if key != "selector" else JSON.filter(lambda value: not isinstance(value, dict))
            )
    (tmp_path / "selection.json").write_text(json.dumps(record))
    used(tmp_path, rows)


@FUZZ
@given(name=st.sampled_from(sorted(FILES)), cut=st.floats(0, 1), inserted=st.binary(max_size=8), signed=st.booleans())
def test_any_bytes(rows, selection, tmp_path, name, cut, inserted, signed):
    selection.save(tmp_path)
    if not signed:
        edit(tmp_path)
    content = (tmp_path / name).read_bytes()
    start = round(cut * len(content))
    (tmp_path / name).write_bytes(content[:start] + inserted + content[start + len(inserted) :])
    used(tmp_path, rows)


@FUZZ
@given(
    values=st.lists(st.integers(-2, 25), min_size=1, max_size=6),
    dtype=st.sampled_from(["<i8", ">i8", "<i4", "<f8", "S3", "?", "<M8[s]", "<U2"]),
)
def test_any_row_numbers(rows, selection, tmp_path, values, dtype):
    selection.save(tmp_path)
    edit(tmp_path, selected=len(values))
    write_rows(tmp_path, np.array(values, dtype=np.int64).astype(dtype))
    used(tmp_path, rows)
    is_valid = dtype == "<i8" and len(set(values)) == len(values) and all(0 <= value < 24 for value in values)
    if is_valid:
        assert Selection.load(tmp_path).indices.tolist() == values
    else:
        with pytest.raises(SelectionError, match="is damaged"):
            Selection.load(tmp_path)
