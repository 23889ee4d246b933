"""Results of scoring on disk: kept batch by batch, and found again by content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from hf_datasel.errors import ScoreError
from hf_datasel.scoring.store.segment_log import KEY_BYTES, SegmentWriter, claimed, read_segment

__all__ = ["ScoreStore", "StoreTable"]

logger = logging.getLogger(__name__)

_GROUP_BYTES = 64 << 20
"""Of a Parquet row group, and the size from which a part is left as it is."""


class ScoreStore:
    """A folder that keeps what scoring computes, so that nothing is computed twice.

    What is kept is what a model made of a sequence of tokens, or a judge of a text: sums of losses, ratings, vectors.
    It is found again by a digest of those very tokens together with everything else that decides the numbers: the
    files of the model and its adapter, dtype, and the version of the computation. So another template, tokenizer,
    truncation or model never meets old entries, whatever it is called, and a row is known again in any dataset.
    Numbers do not depend on which rows were scored with it, but for the rounding of the dtype computed in.

    One folder a spec, with `spec.json`, Parquet parts, and the segments that are being written. Killed at any moment,
    at most the batch under way is lost. Several processes may write at once; a file that is damaged is put into
    `set-aside`, and what it held is computed again.

    Args:
        folder: made where it is not there yet. Processes on several nodes need one that all of them see.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not any(self.folder.iterdir()):  # one that is filled may be read only
                (self.folder / "probe.tmp").touch()
                (self.folder / "probe.tmp").unlink()
        except OSError as error:
            raise ScoreError(f"store={str(folder)!r} cannot be made: {error.strerror}.") from error

    def table(self, spec: Mapping[str, Any], width: int, dtype: np.dtype[Any]) -> StoreTable:
        """What is kept under one spec: `width` numbers of this dtype for each key."""
        whole = {**spec, "width": width, "values": dtype.name}
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        return StoreTable(self.folder / f"{spec['computed']}-{digest}", whole, width, dtype)

    def tables(self) -> list[dict[str, Any]]:
        """The spec of each table, with its `folder` and how many `rows` it holds in finished files."""
        found = []
        for file in sorted(self.folder.glob("*/spec.json")):
            rows = sum(pq.read_metadata(part).num_rows for part in file.parent.glob("*.parquet"))
            found.append({**json.loads(file.read_text(encoding="utf-8")), "folder": file.parent.name, "rows": rows})
        return found

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> Any:
        """Add what is here to a dataset repository, so that others score only what is new. Holds no text of any row.

        Args:
            repo_id: `"name"` or `"namespace/name"`; made if it is not there. What it holds of others stays.
            private: whether a new repository is private.
            token: by default the one that is logged in.

        Returns:
            The `CommitInfo` of the one commit.

        Raises:
            PublishError: there is nothing here, or the Hub does not take it.
        """
        from hf_datasel.scoring.store.hub import push_store

        return push_store(self, repo_id, private=private, token=token)

    @classmethod
    def from_hub(
        cls, repo_id: str, folder: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> ScoreStore:
        """The store of a repository, added to what is in the folder. Take it from people whose scores you trust.

        Args:
            repo_id: `"namespace/name"` of a dataset repository.
            folder: of the local store; made where it is not there yet.
            revision: commit, branch or tag.
            token: by default the one that is logged in.

        Raises:
            PublishError: it is not there, or holds no scores.
        """
        from hf_datasel.scoring.store.hub import pull_store

        return pull_store(repo_id, Path(folder), revision=revision, token=token)


class StoreTable:
    """The results under one spec."""

    def __init__(self, folder: Path, spec: Mapping[str, Any], width: int, dtype: np.dtype[Any]):
        self.folder = folder
        self.spec = spec
        self.width = width
        self.dtype = dtype
        self._writer: SegmentWriter | None = None

    def fill(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Put known results into `values`, and say which are known.

        Args:
            keys: uint8 of shape (items, 16).
            values: shape (items, width), written to where a result is known.

        Returns:
            Bool of shape (items,).
        """
        known = np.zeros(len(keys), dtype=bool)
        if not len(keys):
            return known
        distinct, inverse = np.unique(_as_text(keys), return_inverse=True)
        for stored, results in self._read():
            at = np.searchsorted(distinct, stored).clip(max=len(distinct) - 1)
            hits = np.flatnonzero(distinct[at] == stored)
            row = np.full(len(distinct), -1, dtype=np.int64)
            row[at[hits]] = hits
            found = row[inverse]
            values[found >= 0] = results[found[found >= 0]]
            known |= found >= 0
        return known

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Keep results: on disk, as far as the process is concerned, when this returns."""
        if not len(keys):
            return
        if self._writer is None:
            self._writer = SegmentWriter(self.folder)
            self._write_spec()
        self._writer.append(keys, np.ascontiguousarray(values, dtype=self.dtype))

    def close(self) -> None:
        """End what this process writes."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def compact(self) -> None:
        """Put what is finished into Parquet, unless another process is at it."""
        if not any(self.folder.glob("*.segment")):
            return
        try:
            with FileLock(str(self.folder / "compact.lock"), timeout=0):
                self._compact()
        except Timeout:
            logger.debug("Another process is compacting %s.", self.folder)
        except PermissionError as error:
            logger.debug("%s may not be written, and stays as it is: %s", self.folder, error)

    def _write_spec(self) -> None:
        path = self.folder / "spec.json"
        if not path.is_file():
            draft = path.with_suffix(f".{os.getpid()}.tmp")
            draft.write_text(json.dumps(self.spec, indent=1, sort_keys=True), encoding="utf-8")
            draft.replace(path)

    # -- reading ------------------------------------------------------------------------------------------------------
    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys (S16) and values of every file. One that vanishes has been compacted into another: begin again."""
        read: set[str] = set()
        while True:
            fresh = [path for path in self._files() if path.name not in read]
            if not fresh:
                return
            for path in fresh:
                read.add(path.name)
                try:
                    yield from self._read_file(path)
                except FileNotFoundError:
                    continue

    def _files(self) -> list[Path]:
        return [*sorted(self.folder.glob("*.parquet")), *sorted(self.folder.glob("*.segment"))]

    def _read_file(self, path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if path.suffix == ".segment":
            records = read_segment(path, self.width, self.dtype)
            yield _as_text(records.keys), records.values
            return
        try:
            groups = list(self._read_part(path))
        except FileNotFoundError:
            raise
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's or the system's problem
                raise ScoreError(f"Cannot read {str(path)!r} of the score store: {error.strerror}.") from error
            self._set_aside(path, str(error))
            return
        yield from groups

    def _read_part(self, path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                keys = table.column("key").combine_chunks().cast(pa.binary(KEY_BYTES))
                values = table.column("values").combine_chunks()
                flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=self.dtype)
                start = keys.offset
                stored = np.frombuffer(keys.buffers()[1], dtype=f"S{KEY_BYTES}")[start : start + len(keys)]
                yield stored, flat.reshape(len(stored), self.width)

    def _set_aside(self, path: Path, why: str) -> None:
        aside = self.folder / "set-aside"
        aside.mkdir(exist_ok=True)
        logger.warning(
            "%s is damaged (%s). It was moved into set-aside, and what it held is computed again.",
            path,
            " ".join(why.split()),
        )
        path.replace(aside / path.name)

    # -- compacting ---------------------------------------------------------------------------------------------------
    def _compact(self) -> None:
        """Finished segments and small parts into one new part."""
        locks = {path: lock for path in self.folder.glob("*.segment") if (lock := claimed(path)) is not None}
        try:
            small = [path for path in self.folder.glob("*.parquet") if path.stat().st_size < _GROUP_BYTES]
            if not locks:
                return
            for draft in self.folder.glob("part-*.tmp"):
                draft.unlink()  # of a process that was killed here
            segments = {path: read_segment(path, self.width, self.dtype) for path in locks}
            damaged = [path for path, records in segments.items() if records.damaged]
            groups = [each for path in small for each in self._read_file(path)]
            groups += [(_as_text(each.keys), each.values) for each in segments.values()]
            written = self._write_part(groups) if any(len(keys) for keys, _ in groups) else None
            for path in small:
                if path != written:
                    path.unlink(missing_ok=True)  # a damaged one is gone already
            for path in locks:
                if path in damaged:
                    self._set_aside(path, "a batch in it is not as it was written")
                else:
                    path.unlink()
        finally:
            for path, lock in locks.items():
                lock.release()
                path.with_suffix(".lock").unlink(missing_ok=True)

    def _write_part(self, groups: list[tuple[np.ndarray, np.ndarray]]) -> Path:
        keys, first = np.unique(np.concatenate([keys for keys, _ in groups]), return_index=True)
        values = np.concatenate([values for _, values in groups])[first]
        padded = keys.astype(f"S{KEY_BYTES}").tobytes()
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, pa.py_buffer(padded)])
        table = pa.table(
            {
                "key": column.cast(pa.binary()),
                "values": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.width),
            }
        )
        digest = hashlib.blake2b(padded, digest_size=8).hexdigest()
        draft = self.folder / f"part-{digest}.{os.getpid()}.tmp"
        rows = max(_GROUP_BYTES // (self.width * self.dtype.itemsize + KEY_BYTES), 1024)
        pq.write_table(table, draft, row_group_size=rows, write_page_checksum=True)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        return draft.replace(self.folder / f"part-{digest}.parquet")


def _as_text(keys: np.ndarray) -> np.ndarray:
    """Keys as numpy compares them at once: bytes of length 16."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)
