"""Vectors on disk: arrays that are too large for memory, and the Arrow files of columns of vectors."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from filelock import FileLock, Timeout

from hf_datasel.atomic import failure_reason, remove_old_drafts
from hf_datasel.errors import ScoreError
from hf_datasel.hub.parents import COLUMN_FILE_PREFIX
from hf_datasel.scoring.distributed import Processes

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.store.store import ScoreStore

__all__ = ["COLUMNS_FOLDER", "ColumnFiles", "list_array", "row_blocks", "take_vectors", "temporary_folder", "zeros"]

MAX_BYTES_IN_MEMORY = 1 << 28
"""Size above which vectors are in a file, and not in memory."""
COLUMNS_FOLDER = "vectors"
"""Folder of columns of vectors in a score store."""
_TEMPORARY = "temporary-"
_BLOCK_BYTES = 1 << 24
_MAX_BLOCK_ROWS = 10_000


def row_blocks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Yield slices of consecutive rows, of at most 10,000 rows and about 16 MiB.

    Args:
        rows: Number of rows.
        bytes_per_row: Size of a row.
    """
    step = min(max(_BLOCK_BYTES // max(bytes_per_row, 1), 1), _MAX_BLOCK_ROWS)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def zeros(shape: tuple[int, int], dtype: npt.DTypeLike, folder: Path | None = None) -> np.ndarray:
    """Return an array of zeros: in memory, or mapped from a temporary file if it is above 256 MiB.

    The file has no name, and its space is free again once nothing refers to the array.

    Args:
        shape: Number of rows and numbers per row.
        dtype: Data type of the numbers.
        folder: Folder of the file; by default that of `tempfile`, which the environment variable `TMPDIR` sets.

    Raises:
        ScoreError: The folder has no space for the file.
    """
    num_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if num_bytes <= MAX_BYTES_IN_MEMORY:
        return np.zeros(shape, dtype)
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a write to a mapped page that the disk has no space for is a crash
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        raise _disk_error(folder, num_bytes, failure_reason(error)) from error


def take_vectors(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows of an array of vectors, copied in blocks; the array itself if these are all rows in order.

    Args:
        vectors: Shape (rows, dimensions).
        rows: Row numbers, int.
    """
    if len(rows) == len(vectors) and np.array_equal(rows, np.arange(len(rows))):
        return vectors
    result = zeros((len(rows), vectors.shape[1]), vectors.dtype)
    for block in row_blocks(len(rows), vectors.shape[1] * vectors.itemsize):
        result[block] = vectors[rows[block]]
    return result


def list_array(vectors: np.ndarray, is_valid: np.ndarray) -> pa.ListArray:
    """Return one list per row.

    Args:
        vectors: Vectors of the rows that have one, in order, shape (vectors, dimensions).
        is_valid: Whether each row has a vector, bool of shape (rows,); the others are null.
    """
    offsets = np.concatenate([[0], np.cumsum(is_valid * vectors.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)), mask=pa.array(~is_valid))


class ColumnFiles:
    """The Arrow files of columns of vectors that are too large for memory.

    A column is written in record batches, and mapped. Its type is a list with 32-bit offsets, which every format and
    method of `datasets` supports; the offsets count from the start of a batch, so that there is no limit on the rows.

    Args:
        folder: Function that returns the folder of the files, which stay there for the datasets that map them. By
            default files are temporary: they are deleted as soon as they are mapped.
    """

    def __init__(self, folder: Callable[[], Path] | None = None):
        self._folder = folder
        self._written: list[tuple[pa.ChunkedArray, Path]] = []

    @classmethod
    def for_dataset(cls, dataset: Dataset, store: ScoreStore | None) -> ColumnFiles:
        """Return the files of new columns of a dataset.

        They are in the folder of the score store. Without one they are where `Dataset.map` writes: next to the cache
        files of the dataset, or in a folder that `datasets` deletes when the process ends.

        Args:
            dataset: The dataset.
            store: The score store, if there is one.
        """

        def folder() -> Path:
            from datasets import is_caching_enabled
            from datasets.fingerprint import get_temporary_cache_files_directory

            if store is not None and os.access(store.folder, os.W_OK):
                return store.columns_folder()
            cached = [Path(file["filename"]).parent for file in dataset.cache_files] if is_caching_enabled() else []
            if cached and os.access(cached[0], os.W_OK):
                return cached[0]
            return Path(get_temporary_cache_files_directory())

        return cls(folder)

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return Path(tempfile.gettempdir()) if self._folder is None else self._folder()

    def zeros(self, shape: tuple[int, int], dtype: npt.DTypeLike) -> np.ndarray:
        """Return an array of zeros; see `zeros`. A file is in the same folder as those of the columns."""
        in_memory = shape[0] * shape[1] * np.dtype(dtype).itemsize <= MAX_BYTES_IN_MEMORY
        return zeros(shape, dtype, None if in_memory else self.folder)

    def check_space(self, rows: int, dimensions: int, dtype: npt.DTypeLike, processes: Processes) -> None:
        """Raise an error if the disk has no space for a column and the float32 results that it is made from.

        Each process has results of its own; those of other nodes are not counted, which may have disks of their own.

        Args:
            rows: Number of rows.
            dimensions: Numbers per vector.
            dtype: Data type of the column.
            processes: The processes.

        Raises:
            ScoreError: Says how much space is needed and how much there is.
        """
        results, column = rows * dimensions * 4, rows * dimensions * np.dtype(dtype).itemsize
        if results <= MAX_BYTES_IN_MEMORY:
            return
        results *= min(processes.num_processes, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        folder = self.folder
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if results + column > free:
            raise _disk_error(folder, results + column, f"{free / 1e9:,.1f} GB are free")

    def write(
        self,
        name: str,
        arrays: Callable[[], Iterator[pa.Array]],
        dtype: pa.DataType,
        num_bytes: int,
        processes: Processes,
    ) -> pa.Array | pa.ChunkedArray:
        """Return a column made of several arrays; above 256 MiB they are written to a file one after the other.

        Every process has to call this. One file is written for all processes that can read it.

        Args:
            name: Name of the column.
            arrays: Function that yields the arrays. Each process calls it.
            dtype: Type of the arrays.
            num_bytes: Size of all arrays, as an estimate that is equal in all processes.
            processes: The processes.

        Raises:
            ScoreError: The file cannot be written.
        """
        if num_bytes <= MAX_BYTES_IN_MEMORY:
            return pa.concat_arrays([pa.array([], dtype), *arrays()])
        if self._folder is None:
            path = self._write(name, arrays(), dtype)
        else:
            path = processes.run_on_main_process(lambda: self._write(name, arrays(), dtype))
            if not processes.is_main_process and path.is_file():
                for _ in arrays():  # it may have side effects
                    continue
            elif not processes.is_main_process:  # on another node, which does not have this folder
                path = self._write(name, arrays(), dtype)
        with pa.memory_map(str(path)) as source:
            column = pa.ipc.open_stream(source).read_all().column(name)
        if self._folder is None:
            with suppress(PermissionError):  # Windows does not remove open files
                path.unlink()
        else:
            self._written.append((column, path))
        return column

    def dataset(self, name: str, column: pa.Array | pa.ChunkedArray) -> Dataset | None:
        """Return a dataset that maps the file of a column, or None if the column is in memory.

        Args:
            name: Name of the column in the dataset.
            column: Column that `write` returned.
        """
        from datasets import Dataset

        path = next((path for written, path in self._written if written is column), None)
        if path is None:
            return None
        data = Dataset.from_file(str(path))
        return data if data.column_names == [name] else data.rename_column(data.column_names[0], name)

    def _write(self, name: str, arrays: Iterator[pa.Array], dtype: pa.DataType) -> Path:
        """Write a file that is named by a hash of its content, so that an equal column has the same file.

        The name is that of a cache file of `datasets`, which `Dataset.cleanup_cache_files` removes.
        """
        schema, digest, folder = pa.schema({name: dtype}), xxhash.xxh3_128(f"{name} {dtype}".encode()), self.folder
        draft = folder / f".{os.getpid()}-{uuid.uuid4().hex[:12]}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_old_drafts(folder)
            with pa.OSFile(str(draft), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                for array in arrays:
                    writer.write_batch(pa.record_batch([array], schema=schema))
                    _update(digest, array)
            path = folder / f"{COLUMN_FILE_PREFIX}{digest.hexdigest()}.arrow"
            if path.is_file() and path.stat().st_size == draft.stat().st_size:
                return path
            return draft.replace(path)
        except OSError as error:
            raise ScoreError(f"Cannot write column {name!r} to {str(folder)!r}: {failure_reason(error)}.") from error
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path, processes: Processes) -> Iterator[Callable[[], Path]]:
    """Yield a function that creates a folder for files, and returns it; it is removed when the context is left.

    What is mapped can still be read then. Folders of processes that were killed are removed first. Every process has
    to enter and leave the context.

    Args:
        parent: Folder that it is created in.
        processes: The processes.
    """
    if processes.is_main_process:
        for folder in parent.glob(f"{_TEMPORARY}*/"):
            _remove(folder, FileLock(f"{folder}.lock"))
    path = parent / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}"
    lock = FileLock(f"{path}.lock")

    def create() -> Path:
        if not lock.is_locked:
            parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()  # before the folder exists, so that no other process takes it for one that is left behind
            path.mkdir()
        return path

    try:
        yield create
        processes.wait_for_everyone()  # all have mapped the files
    finally:
        if lock.is_locked:
            _remove(path, lock)


def _remove(folder: Path, lock: FileLock) -> None:
    """Remove a folder and its lock, unless another process has the lock."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    shutil.rmtree(folder, ignore_errors=True)  # Windows does not remove open files
    lock.release(force=True)
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)


def _update(digest: Any, array: pa.Array) -> None:
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)))
    digest.update(np.ascontiguousarray(array.drop_null().flatten().to_numpy(zero_copy_only=False)))


def _disk_error(folder: Path, num_bytes: int, reason: str) -> ScoreError:
    return ScoreError(
        f"The vectors need {num_bytes / 1e9:,.1f} GB in {str(folder)!r}: {reason}.",
        hint="Use a folder on a larger disk: store=FOLDER in hf_datasel.score, or the environment variable TMPDIR.",
        cli_hint="Use a folder on a larger disk: --store FOLDER in hf-datasel score, or the environment variable "
        "TMPDIR.",
    )
