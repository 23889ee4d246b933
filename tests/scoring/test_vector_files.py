"""Columns of vectors above the size that is kept in memory: files, datasets that map them, and full disks."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets, disable_caching, enable_caching, load_from_disk
from filelock import FileLock

from hf_datasel import load_pool, score, select
from hf_datasel.cli.main import main
from hf_datasel.errors import ScoreError
from hf_datasel.hub.parents import Parents, parents_of, write_parquet
from hf_datasel.rounds.cache import as_numpy
from hf_datasel.scores import Embedding
from hf_datasel.scoring import vector_files
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.shards import score_table
from hf_datasel.scoring.vector_sample import finite_rows
from hf_datasel.scoring.vectors import load_vectors
from hf_datasel.selectors import KCenter

GAPS = [[1.0, 2.0], None, [3.0, 4.0], [5.0, float("nan")], None]


@pytest.fixture
def rows(pool_rows):
    return pool_rows.select(range(8))


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Let every column of vectors be a file, written in blocks of three rows; return the temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(vector_files, "MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(vector_files, "_MAX_BLOCK_ROWS", 3)
    return folder


@pytest.fixture
def expected(rows, tiny_model_dir):
    """Return the rows with vectors that were computed in memory."""
    return score(rows, [Embedding()], model=str(tiny_model_dir))


def files_of(data):
    return [Path(file["filename"]) for file in data.cache_files]


def test_file_in_the_folder_of_the_store(expected, rows, tiny_model_dir, tmp_path, on_disk):
    scored = score(rows, [Embedding()], model=str(tiny_model_dir), store=tmp_path / "store")
    assert (scored.column_names, scored.features) == (expected.column_names, expected.features)
    assert scored["embedding"][:] == expected["embedding"][:]
    assert scored.data.column("embedding").num_chunks == 3
    (file,) = (tmp_path / "store" / "vectors").iterdir()
    assert file in files_of(scored)
    assert not list(on_disk.iterdir())
    before = file.stat().st_mtime_ns
    again = score(rows, [Embedding()], model=str(tiny_model_dir), store=tmp_path / "store")
    assert list((tmp_path / "store" / "vectors").iterdir()) == [file]
    assert file.stat().st_mtime_ns == before  # so that map finds what it has cached
    assert again._fingerprint == scored._fingerprint


def test_datasets_read_a_mapped_column(expected, rows, tiny_model_dir, tmp_path, on_disk):
    vectors = Embedding(vectors_dtype="float16", column_prefix="my_")
    scored = score(rows, [vectors], model=str(tiny_model_dir), store=tmp_path / "store")
    numbers = np.array(expected["embedding"][:], dtype=np.float16).tolist()
    scored.save_to_disk(tmp_path / "saved")
    scored.to_parquet(tmp_path / "scored.parquet")
    copies = {
        "saved": load_from_disk(tmp_path / "saved"),
        "parquet": Dataset.from_parquet(str(tmp_path / "scored.parquet"), cache_dir=str(tmp_path / "cache")),
        "pickled": pickle.loads(pickle.dumps(scored)),
        "mapped": scored.map(lambda row: {"more": 1}),
        "selected": scored.select([*range(7, -1, -1)]).select([*range(7, -1, -1)]).flatten_indices(),
    }
    for name, data in copies.items():
        assert data.features["my_embedding"] == scored.features["my_embedding"], name
        assert data["my_embedding"][:] == numbers, name
        np.testing.assert_array_equal(load_vectors(data, "my_embedding"), np.array(numbers, np.float32))


def test_files_without_a_store(expected, rows, tiny_model_dir, tmp_path, on_disk):
    rows.to_parquet(tmp_path / "rows.parquet")
    cached = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    scored = score(cached, [Embedding()], model=str(tiny_model_dir))
    assert scored["embedding"][:] == expected["embedding"][:]
    assert {file.parent for file in files_of(scored)} == {files_of(cached)[0].parent}
    disable_caching()
    try:
        scored = score(cached, [Embedding()], model=str(tiny_model_dir))
    finally:
        enable_caching()
    assert len({file.parent for file in files_of(scored)}) == 2
    del scored
    assert cached.cleanup_cache_files() == 1


def test_origin_of_rows_is_that_without_the_file(rows, tiny_model_dir, tmp_path, on_disk):
    origin = {"name": "a/b", "revision": "c", "config": "d", "split": "train", "changed": False}
    parents = Parents(({**origin, "private": False, "gated": False},), True)  # so that the Hub is not asked
    write_parquet(rows, tmp_path / "rows.parquet", parents)
    published = load_pool(tmp_path / "rows.parquet")
    mixed = concatenate_datasets([published, Dataset.from_list(rows.to_list())], info=published.info)
    for data, is_complete in ((published, True), (mixed, False)):
        assert parents_of(data).complete is is_complete
        scored = score(data, [Embedding()], model=str(tiny_model_dir), store=tmp_path / "store")
        assert parents_of(scored).complete is is_complete


def test_command_leaves_one_copy_of_the_vectors(rows, tiny_model_dir, tmp_path, on_disk, monkeypatch):
    rows.to_json(tmp_path / "rows.jsonl")
    folder, waits = tmp_path / "out", []
    count = lambda self: waits.append(len(list(folder.rglob("*.arrow"))))  # noqa: E731
    monkeypatch.setattr(Processes, "wait_for_everyone", count)
    command = ["score", "--dataset_name", str(tmp_path / "rows.jsonl"), "--scores", "embedding"]
    assert main([*command, "--model_name_or_path", str(tiny_model_dir), "--output_dir", str(folder)]) == 0
    vectors = load_vectors(Dataset.from_parquet(str(folder / "scored.parquet")), "embedding")
    assert finite_rows(vectors).all()
    assert not list(folder.rglob("*.arrow"))
    assert waits[-1:] == [1], "the other processes have mapped the file before it is removed"


def test_command_removes_what_killed_commands_have_left(rows, tiny_model_dir, tmp_path, on_disk):
    rows.to_json(tmp_path / "rows.jsonl")
    vectors = tmp_path / "out" / "store" / "vectors"
    for name in ("temporary-killed", "temporary-running"):
        (vectors / name).mkdir(parents=True)
        (vectors / name / "column.arrow").write_bytes(b"vectors")
    (vectors / "temporary-killed.lock").touch()
    command = ["score", "--dataset_name", str(tmp_path / "rows.jsonl"), "--scores", "embedding"]
    with FileLock(str(vectors / "temporary-running.lock")):
        assert (
            main([*command, "--model_name_or_path", str(tiny_model_dir), "--output_dir", str(tmp_path / "out")]) == 0
        )
        assert [path.parent.name for path in vectors.rglob("*.arrow")] == ["temporary-running"]


def test_table_of_scores_leaves_no_files(expected, rows, tiny_model_dir, tmp_path, on_disk):
    table = score_table(rows, [Embedding()], model=str(tiny_model_dir), store=tmp_path / "store")
    assert table.column("embedding").to_pylist() == expected["embedding"][:]
    assert not list(tmp_path.rglob("*.arrow"))
    scored = score(rows, [Embedding()], model=str(tiny_model_dir), store=tmp_path / "store")
    score_table(scored, [Embedding()], model=str(tiny_model_dir), store=tmp_path / "store")
    assert pickle.loads(pickle.dumps(scored))["embedding"][:] == expected["embedding"][:], "its file is still there"


def test_full_disk_is_noticed_before_the_first_forward_pass(rows, model, tokenizer, monkeypatch, on_disk):
    monkeypatch.setattr(vector_files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1))
    model.base_model.register_forward_hook(lambda *_: pytest.fail("a forward pass was run"))
    for vectors in (Embedding(), Embedding(as_trained=True)):
        with pytest.raises(ScoreError, match=r"The vectors need 0\.0 GB in .*: 0\.0 GB are free\..*store=FOLDER"):
            score(rows, [vectors], model=model, processing_class=tokenizer)


def test_space_for_the_results_of_each_process(monkeypatch, on_disk):
    monkeypatch.setattr(vector_files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * 4000))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    files = vector_files.ColumnFiles()
    files.check_space(10, 100, "float32", Processes())
    with pytest.raises(ScoreError, match="The vectors need"):
        files.check_space(10, 100, "float32", Processes(0, 8))


def test_space_that_is_taken_meanwhile(on_disk, monkeypatch):
    monkeypatch.setattr(vector_files, "MAX_BYTES_IN_MEMORY", 0)
    with pytest.raises(ScoreError, match=r"The vectors need 4,000,000\.0 GB in .*TMPDIR"):
        vector_files.zeros((10**9, 10**6), np.float32)


def test_selection_leaves_no_files(expected, rows, tiny_model_dir, on_disk, monkeypatch):
    selectors = KCenter(vectors=Embedding()), KCenter(vectors="embedding")
    results = [select(expected, selector, size=4, model=str(tiny_model_dir)).indices for selector in selectors]
    monkeypatch.undo()
    assert not list(on_disk.iterdir())
    for selector, indices in zip(selectors, results, strict=True):
        in_memory = select(expected, selector, size=4, model=str(tiny_model_dir)).indices
        assert indices.tolist() == in_memory.tolist()


@pytest.mark.parametrize(
    "dtype",
    [pa.list_(pa.float32()), pa.list_(pa.float16()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)],
    ids=str,
)
def test_columns_with_gaps(dtype, on_disk):
    column = pa.chunked_array([pa.array(GAPS[:2], dtype), pa.array(GAPS[2:], dtype)])
    vectors = load_vectors(Dataset(pa.table({"v": column})), "v")
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[[0, 2]], [[1.0, 2.0], [3.0, 4.0]])
    assert np.isnan(vectors[[1, 3, 4]]).all()
    assert finite_rows(vectors).tolist() == [True, False, True, False, False]
    np.testing.assert_array_equal(as_numpy(column)[[0, 1, 2, 4]], vectors[[0, 1, 2, 4]])
    np.testing.assert_array_equal(vector_files.take_vectors(vectors, np.array([2, 0, 0, 2])), vectors[[2, 0, 0, 2]])
