"""The files of a published selection, written to a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.cards.build import config_names
from hf_datasel.cards.card import image_folder
from hf_datasel.cards.facts import DataConfig, Facts
from hf_datasel.cards.figures import figures, png
from hf_datasel.cards.recipe import as_yaml
from hf_datasel.errors import SelectionError
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selection.result import check_format

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "belongs",
    "belongs_config",
    "read_selection",
    "recipe_file",
    "selection_folders",
    "write_data",
    "write_page",
]

_KEYS = ("row", "row_id")
_IMAGES = ("lengths", "overlap", "weights", "map", "training")
_SHARD = 500_000_000
"""Bytes of a Parquet file, about, as `datasets` has it."""


def write_data(folder: Path, selections: Sequence[Selection], dataset: Dataset, publication: str) -> list[DataConfig]:
    """Write rows, scores and the selections themselves; returns the configurations that the rows and scores make.

    The dataset has to be the one that all were made from.

    The scores of several rounds are splits of one configuration.
    """
    names = config_names(selections, publication)
    tables = [_scores_table(each) for each in selections]
    schema = pa.unify_schemas([each.schema for each in tables])
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
        scores["bytes"] += _write_scores(folder / "scores" / name / f"{split}-00000-of-00001.parquet", table, schema)
        _write_selection(folder / "selections" / name, selection)
    return [*configs, scores]


def write_page(folder: Path, facts: Facts) -> None:
    """Write the recipe and the plots, in light and dark; the card is merged with the one that is there."""
    recipe = folder / recipe_file(facts["publication"])
    recipe.write_text(as_yaml(facts["recipe"], facts["command"], recipe.name), encoding="utf-8")
    images = folder / image_folder(facts["publication"])
    images.mkdir(parents=True, exist_ok=True)
    for figure in figures(facts):
        for dark in (False, True):
            path = images / f"{figure.name}-{'dark' if dark else 'light'}.png"
            path.write_bytes(png(facts, figure.name, dark))


def recipe_file(publication: str) -> str:
    """Name of the recipe's file in the repository."""
    return "recipe.yaml" if publication == "default" else f"recipe-{publication}.yaml"


def belongs(path: str, publication: str) -> bool:
    """Whether a file of the repository is of this publication, written now or by an earlier push."""
    if publication == "default":
        configs = r"(default|round-\d+)"
    else:
        configs = rf"({re.escape(publication)}|{re.escape(publication)}-round-\d+)"
    data = rf"(data|scores)/{configs}/\w+-\d{{5}}-of-\d{{5}}\.parquet"
    selection = rf"selections/{configs}/(selection\.json|indices\.npy)"
    image = rf"{re.escape(image_folder(publication))}/((scores|rounds)-[^/]+|{'|'.join(_IMAGES)})-(light|dark)\.png"
    return bool(re.fullmatch(rf"{data}|{selection}|{image}", path))


def owned(files: Iterable[str]) -> tuple[str, ...]:
    """Folders that hold the rows and scores of the selections in a repository."""
    names = [match[1] for path in files if (match := re.fullmatch(r"selections/([^/]+)/selection\.json", path))]
    return tuple(f"{kind}/{name}/" for name in names for kind in ("data", "scores", "selections"))


def belongs_config(name: str, publication: str) -> bool:
    """Whether a configuration is of this publication."""
    return belongs(f"selections/{name}/selection.json", publication) or name == _scores_name(publication)


def selection_folders(files: Sequence[str]) -> dict[str, list[str]]:
    """Configuration -> paths of its scores, of every selection in a repository."""
    names = [match[1] for path in files if (match := re.fullmatch(r"selections/([^/]+)/selection\.json", path))]
    return {name: sorted(path for path in files if path.startswith(f"scores/{name}/")) for name in names}


def read_selection(provenance: Path, indices: Path, scores: Sequence[Path], where: str) -> Selection:
    """A selection from its published files.

    Args:
        where: it was read from, for messages.

    Raises:
        SelectionError: the files are of a later version, or do not fit together.
    """
    try:
        about = json.loads(provenance.read_text(encoding="utf-8"))
        check_format(about, where)
        columns = about.pop("columns")
        table = pa.concat_tables([pq.read_table(path) for path in scores])
        ids = pa.array([bytes.fromhex(each) for each in table.column("row_id").to_pylist()], pa.binary(32))
        values = {name: table.column(_published_name(name)).combine_chunks() for name in columns}
        rows = np.load(indices, allow_pickle=False)
    except SelectionError:
        raise
    except (KeyError, ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise SelectionError(f"The selection in {where} cannot be read: {' '.join(str(error).split())}") from error
    if rows.ndim != 1 or rows.dtype != np.int64 or (rows.size and not 0 <= rows.min() <= rows.max() < len(ids)):
        raise SelectionError(f"The selection in {where} has row numbers that its pool of {len(ids):,} rows lacks.")
    return Selection(rows, about, pa.table({"row_id": ids, **values}))


def _published_name(column: str) -> str:
    """What a score is called in the published table, where it has the name of one of the keys."""
    return f"score_{column}" if column in _KEYS else column


def _scores_name(publication: str) -> str:
    return "scores" if publication == "default" else f"{publication}-scores"


def _write_rows(folder: Path, subset: Dataset) -> int:
    folder.mkdir(parents=True)
    shards = max(1, -(-int(subset._estimate_nbytes()) // _SHARD))
    total = 0
    for at in range(shards):
        path = folder / f"train-{at:05d}-of-{shards:05d}.parquet"
        subset.shard(shards, at, contiguous=True).to_parquet(str(path))
        total += path.stat().st_size
    return total


def _scores_table(selection: Selection) -> pa.Table:
    table = selection.table
    ids = pa.array([each.hex() for each in table.column("row_id").to_pylist()], pa.string())
    columns: dict[str, Any] = {"row": np.arange(len(table), dtype=np.int64), "row_id": ids}
    return pa.table(columns | {_published_name(name): table.column(name) for name in table.column_names[1:]})


def _write_scores(path: Path, table: pa.Table, schema: pa.Schema) -> int:
    path.parent.mkdir(parents=True)
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    # in one piece: where the pieces end shows in the bytes of the file, and differs after a selection is loaded
    pq.write_table(table.select(schema.names).combine_chunks(), path)
    return path.stat().st_size


def _write_selection(folder: Path, selection: Selection) -> None:
    folder.mkdir(parents=True)
    with (folder / "indices.npy").open("wb") as file:
        np.save(file, selection.indices)
    about: Mapping[str, Any] = {**without_paths(selection.provenance), "columns": selection.table.column_names[1:]}
    text = json.dumps(about, indent=2, ensure_ascii=False, default=str)
    (folder / "selection.json").write_text(f"{text}\n", encoding="utf-8")
