"""Score store: results of scoring on disk, written batch by batch and indexed by content."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.atomic import write_file
from hf_datasel.errors import ScoreError
from hf_datasel.hub.parents import PARENTS_FILE, Parents, merged_parents, read_parents, write_parents
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.store.table import StoreTable
from hf_datasel.scoring.vector_files import COLUMNS_FOLDER, temporary_folder
from hf_datasel.scoring.weights import weights_digest

__all__ = ["ScoreStore"]


class ScoreStore:
    """A folder with the results of scoring, so that no result is computed twice.

    It stores what a model computes for a sequence of tokens, or a judge for a text: sums of losses, ratings, vectors.
    A result is identified by a digest of exactly these tokens and by everything else that determines it: the files of
    the model and its adapter, the data type, and the version of the computation. Results of another template,
    tokenizer, truncation or model are therefore never mixed up, and a row is recognized in any dataset. Results do not
    depend on which rows were in the same batch, up to the rounding of the data type.

    There is one folder per spec with `spec.json`, Parquet files, and the segments that are being written. If the
    process is killed, at most the current batch is lost. Several processes may write at the same time. A damaged file
    is moved into `set-aside`, and its results are computed again.

    The folder `vectors` has the files of large columns that `hf_datasel.score` returned. Delete it if no dataset maps
    them any more: they are made again from the results. `hf-datasel score` removes its own, and those of commands that
    were killed.

    Args:
        folder: Folder of the store, created if it does not exist. Processes on several nodes need a folder that all
            of them see.

    Raises:
        ScoreError: The folder cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not any(self.folder.iterdir()):  # a folder with results may be read-only
                with tempfile.TemporaryFile(dir=self.folder):
                    pass
        except OSError as error:
            raise ScoreError(f"store={str(folder)!r} cannot be created: {error.strerror}.") from error
        self._temporary: Callable[[], Path] | None = None

    def columns_folder(self) -> Path:
        """Return the folder of the files of columns of vectors."""
        return self.folder / COLUMNS_FOLDER if self._temporary is None else self._temporary()

    @contextmanager
    def temporary_columns(self, processes: Processes) -> Iterator[None]:
        """Remove the files of columns that are written in the context, and those that killed processes have left.

        Tables that map a file can still be read afterwards, but datasets cannot be pickled.

        Args:
            processes: The processes, all of which have to enter and leave the context.
        """
        before = self._temporary
        with temporary_folder(self.folder / COLUMNS_FOLDER, processes) as self._temporary:
            try:
                yield
            finally:
                self._temporary = before

    def table(self, spec: Mapping[str, Any], width: int, dtype: np.dtype[Any]) -> StoreTable:
        """Return the results of one spec.

        Args:
            spec: Everything but the item that determines a result, as JSON, with a name as `computed`.
            width: Numbers per item.
            dtype: Data type of the numbers.
        """
        full_spec = {**spec, "width": width, "values": dtype.name}
        return StoreTable(self.folder / _table_name(full_spec), full_spec, width, dtype)

    def tables(self) -> list[dict[str, Any]]:
        """Return the spec of each table, with its `folder` and the number of `rows` in its finished files.

        Raises:
            ScoreError: A file is damaged.
        """
        tables = []
        for file in sorted(self.folder.glob("*/spec.json")):
            damaged = file
            try:
                spec = json.loads(file.read_text(encoding="utf-8"))
                if _table_name(spec) != file.parent.name:
                    raise ValueError("it is not the spec of its folder")
                rows = 0
                for damaged in file.parent.glob("*.parquet"):
                    rows += pq.read_metadata(damaged).num_rows
            except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
                raise ScoreError(
                    f"{str(damaged)!r} of the score store is damaged ({' '.join(str(error).split())}). Delete it and "
                    "score again with this store: what is missing is computed and written again."
                ) from error
            tables.append({**spec, "folder": file.parent.name, "rows": rows})
        return tables

    def identity_of(self, model: Any) -> dict[str, Any]:
        """Return what identifies a loaded model in the specs of its results: a digest of its weights.

        A model that this store knows by name, with these weights, has the identity by which it was loaded, so that its
        results are found.

        Args:
            model: A causal LM of transformers, with or without an adapter.
        """
        digest = weights_digest(model)
        try:
            identity: dict[str, Any] = json.loads(self._model_file(digest).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not known, or damaged: then results are computed again
            identity = {"digest": digest}
        return identity

    def add_model(self, identity: Mapping[str, Any], model: Any) -> None:
        """Record the weights of a model that was loaded by name.

        Args:
            identity: What determines its output, as part of the specs of its results.
            model: The loaded model.
        """
        if identity["kind"] != "causal" or identity in self._models() or not os.access(self.folder, os.W_OK):
            return
        write_file(self._model_file(weights_digest(model)), json.dumps(identity, indent=1, sort_keys=True), ScoreError)

    def _models(self) -> list[dict[str, Any]]:
        """Return the identities of the models whose weights are recorded."""
        identities = []
        for file in self.folder.glob("models/*.json"):
            try:
                identities.append(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError):  # damaged: it is written again
                continue
        return identities

    def _model_file(self, digest: str) -> Path:
        return self.folder / "models" / f"{digest}.json"

    @property
    def parents(self) -> Parents:
        """Where the rows that the results are of come from."""
        path = self.folder / PARENTS_FILE
        return read_parents(path) if path.is_file() else Parents()

    def add_parents(self, parents: Parents) -> None:
        """Record where rows come from that are scored now; nothing is written if that is recorded already."""
        is_first = not (self.folder / PARENTS_FILE).is_file() and not self.tables()
        added = parents if is_first else merged_parents([self.parents, parents])
        if (is_first or added != self.parents) and os.access(self.folder, os.W_OK):
            write_file(self.folder / PARENTS_FILE, lambda file: write_parents(file, added), ScoreError)

    def merge(self, other: ScoreStore | str | os.PathLike[str]) -> None:
        """Add the results of another store, such as that of another machine.

        Of a result that is in both, the one of this store stays. Fitted scores of the other store are not copied.

        Args:
            other: The other store, or its folder. It is only read, but for damaged files, which are set aside there.

        Raises:
            ScoreError: The folder of the other store does not exist, or a file in it is damaged.
        """
        folder = other.folder if isinstance(other, ScoreStore) else Path(other).expanduser()
        if not folder.is_dir():
            raise ScoreError(f"There is no score store at {str(folder)!r}.")
        other = ScoreStore(folder)
        self.add_parents(other.parents)
        for spec in other.tables():
            del spec["rows"]
            name, width, dtype = spec.pop("folder"), spec["width"], np.dtype(spec["values"])
            StoreTable(self.folder / name, spec, width, dtype).merge(StoreTable(folder / name, spec, width, dtype))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> Any:
        """Upload the results to a dataset repository, so that others compute only new ones.

        The store contains no text of any row, but answers that models generated, for `RewardGap` and `PassRate`.
        Results in the repository that are not in this store stay.

        Each table is a configuration of the dataset, with a name such as `loss-Qwen3-0.6B`; the largest one is the
        default where the repository has no rows. The card names the datasets that the rows come from, and has their
        licences. Its other text is preserved.

        Args:
            repo_id: `"name"` or `"namespace/name"`, created if it does not exist.
            private: Whether a new repository is private; by default, if the origin of the rows is unknown. Results of
                rows of a private or gated dataset are never published in a public one.
            token: Token of the Hub; by default that of the login.

        Returns:
            The `CommitInfo` of the one commit.

        Raises:
            PublishError: The store is empty, the repository holds another dataset that could no longer be loaded, or
                the Hub refuses the upload.
        """
        from hf_datasel.scoring.store.hub import push_store

        return push_store(self, repo_id, private=private, token=token)

    @classmethod
    def from_hub(
        cls, repo_id: str, folder: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> ScoreStore:
        """Download the results of a repository into a folder. Use repositories of people whose scores you trust.

        Args:
            repo_id: `"namespace/name"` of a dataset repository.
            folder: Folder of the local store, created if it does not exist. Results in it stay.
            revision: Commit, branch or tag.
            token: Token of the Hub; by default that of the login.

        Returns:
            The local store.

        Raises:
            PublishError: The repository does not exist, or contains no results.
        """
        from hf_datasel.scoring.store.hub import pull_store

        return pull_store(cls, repo_id, Path(folder), revision=revision, token=token)


def _table_name(spec: Mapping[str, Any]) -> str:
    """Return the name of the folder of a table, which contains a digest of its spec."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    return f"{spec['computed']}-{digest}"
