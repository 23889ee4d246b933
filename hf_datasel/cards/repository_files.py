"""Files of a published selection: writing them to a folder, reading them, and recognising them in a repository."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.cards.build import config_names
from hf_datasel.cards.card import image_folder
from hf_datasel.cards.evaluation_files import evaluation_folder, publications
from hf_datasel.cards.facts import DataConfig, Facts
from hf_datasel.cards.figures import figures, png
from hf_datasel.cards.sections.reproduce import as_yaml
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selection.saved_format import parse_selection, with_digests

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "data_folders",
    "is_config_of",
    "is_file_of",
    "read_selection",
    "recipe_file",
    "selection_folders",
    "write_data",
    "write_page",
]

_KEYS = ("row", "row_id")
_IMAGES = ("forest", "cost", "lengths", "overlap", "weights", "map", "training")
_SHARD = 500_000_000
"""Approximate size of a Parquet file in bytes, as in `datasets`."""


def write_data(folder: Path, selections: Sequence[Selection], dataset: Dataset, publication: str) -> list[DataConfig]:
    """Write the rows, the scores and the selections, and return the configurations of the published dataset.

    The scores of several rounds are splits of one configuration.

    Args:
        folder: Folder to write into.
        selections: One selection, or one for each round.
        dataset: The dataset that all of them were made from; this is not checked.
        publication: Name of the selection in the repository.
    """
    names = config_names(selections, publication)
    tables = [_scores_table(selection) for selection in selections]
    schema = pa.unify_schemas([table.schema for table in tables])
    configs: list[DataConfig] = []
    scores: DataConfig = {
        "name": _scores_name(publication),
        "holds": "scores",
        "splits": {},
        "files": {},
        "bytes": 0,
        "default": False,
    }
    for name, selection, table in zip(names, selections, tables, strict=True):
        size = _write_rows(folder / "data" / name, selection.rows_of(dataset))
        configs.append(
            {
                "name": name,
                "holds": "rows",
                "splits": {"train": len(selection.indices)},
                "files": {"train": f"data/{name}/train-*.parquet"},
                "bytes": size,
                "default": publication == "default" and name == names[-1],
            }
        )
        split = "train" if len(selections) == 1 else f"round_{selection.provenance['round']}"
        scores["splits"][split] = selection.table.num_rows
        scores["files"][split] = f"scores/{name}/{split}-*.parquet"
        scores_file = folder / "scores" / name / f"{split}-00000-of-00001.parquet"
        scores["bytes"] += _write_scores(scores_file, table, schema)
        _write_selection(folder / "selections" / name, selection, scores_file)
    return [*configs, scores]


def write_page(folder: Path, facts: Facts) -> None:
    """Write the recipe and the images, for light and dark pages. The card is merged with the existing one later.

    Args:
        folder: Folder to write into.
        facts: Facts of the page.
    """
    path, reproduce = folder / recipe_file(facts["publication"]), facts["sections"]["reproduce"]
    path.write_text(as_yaml(reproduce["recipe"], reproduce["command"], path.name), encoding="utf-8")
    images = folder / image_folder(facts["publication"])
    images.mkdir(parents=True, exist_ok=True)
    for figure in figures(facts):
        for dark in (False, True):
            path = images / f"{figure.name}-{'dark' if dark else 'light'}.png"
            path.write_bytes(png(facts, figure.name, dark))


def recipe_file(publication: str) -> str:
    """Return the name of the recipe's file in the repository."""
    return "recipe.yaml" if publication == "default" else f"recipe-{publication}.yaml"


def is_file_of(path: str, publication: str) -> bool:
    """Return whether a file of the repository belongs to this publication, of this push or an earlier one."""
    if publication == "default":
        configs = r"(default|round-\d+)"
    else:
        configs = rf"({re.escape(publication)}|{re.escape(publication)}-round-\d+)"
    data = rf"(data|scores)/{configs}/\w+-\d{{5}}-of-\d{{5}}\.parquet"
    selection = rf"selections/{configs}/(selection\.json|indices\.npy)"
    image = rf"{re.escape(image_folder(publication))}/((scores|rounds)-[^/]+|{'|'.join(_IMAGES)})-(light|dark)\.png"
    evaluation = rf"{re.escape(evaluation_folder(publication))}/(results\.json|.+\.parquet)"
    return bool(re.fullmatch(rf"{data}|{selection}|{image}|{evaluation}", path))


def data_folders(files: Iterable[str]) -> tuple[str, ...]:
    """Return the folders with the rows, scores and evaluation results of the selections in a repository.

    Args:
        files: Paths of all files of the repository.
    """
    files = list(files)
    folders = [f"{kind}/{name}/" for name in _selection_names(files) for kind in ("data", "scores", "selections")]
    return (*folders, *(f"{evaluation_folder(publication)}/" for publication in publications(files)))


def is_config_of(name: str, publication: str) -> bool:
    """Return whether a configuration belongs to this publication."""
    return is_file_of(f"selections/{name}/selection.json", publication) or name == _scores_name(publication)


def selection_folders(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the selections in a repository: configuration -> paths of its scores.

    Args:
        files: Paths of all files of the repository.
    """
    names = _selection_names(files)
    return {name: sorted(path for path in files if path.startswith(f"scores/{name}/")) for name in names}


def _selection_names(files: Iterable[str]) -> list[str]:
    return [match[1] for path in files if (match := re.fullmatch(r"selections/([^/]+)/selection\.json", path))]


def read_selection(provenance_file: Path, indices: Path, scores: Sequence[Path], source: str) -> Selection:
    """Read a selection from its published files.

    Args:
        provenance_file: selection.json.
        indices: indices.npy.
        scores: Parquet files of the scores.
        source: Where the files come from, for messages.

    Raises:
        SelectionError: The files are damaged, changed or of a later version, or do not fit together.
    """
    contents = [path.read_bytes() for path in (provenance_file, indices, *scores)]
    return Selection(*parse_selection(contents[0], contents[1], contents[2:], source, _selection_table))


def _selection_table(published: pa.Table, provenance: dict[str, Any]) -> pa.Table:
    """Return the table of a selection, whose scores the provenance names: other rounds may have more of them."""
    ids = pa.array([bytes.fromhex(row_id) for row_id in published.column("row_id").to_pylist()], pa.binary(32))
    columns = provenance.pop("columns")
    return pa.table({"row_id": ids, **{name: published.column(_published_name(name)) for name in columns}})


def _published_name(column: str) -> str:
    """Return the name of a score in the published table, where `row` and `row_id` are reserved."""
    return f"score_{column}" if column in _KEYS else column


def _scores_name(publication: str) -> str:
    return "scores" if publication == "default" else f"{publication}-scores"


def _write_rows(folder: Path, subset: Dataset) -> int:
    folder.mkdir(parents=True)
    shards = max(1, -(-int(subset._estimate_nbytes()) // _SHARD))
    total = 0
    for index in range(shards):
        path = folder / f"train-{index:05d}-of-{shards:05d}.parquet"
        subset.shard(shards, index, contiguous=True).to_parquet(str(path))
        total += path.stat().st_size
    return total


def _scores_table(selection: Selection) -> pa.Table:
    table = selection.table
    ids = pa.array([row_id.hex() for row_id in table.column("row_id").to_pylist()], pa.string())
    columns: dict[str, Any] = {"row": np.arange(len(table), dtype=np.int64), "row_id": ids}
    return pa.table(columns | {_published_name(name): table.column(name) for name in table.column_names[1:]})


def _write_scores(path: Path, table: pa.Table, schema: pa.Schema) -> int:
    path.parent.mkdir(parents=True)
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    # in one chunk: the boundaries of chunks change the bytes of the file, and differ after a selection is loaded
    pq.write_table(table.select(schema.names).combine_chunks(), path)
    return path.stat().st_size


def _write_selection(folder: Path, selection: Selection, scores: Path) -> None:
    files = {"indices": folder / "indices.npy", "scores": scores}
    folder.mkdir(parents=True)
    with (folder / "indices.npy").open("wb") as file:
        np.save(file, selection.indices)
    digests = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in files.items()}
    provenance = {**without_paths(selection.provenance), "columns": selection.table.column_names[1:]}
    (folder / "selection.json").write_text(with_digests(provenance, digests), encoding="utf-8")
