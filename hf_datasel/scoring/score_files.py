"""Files in which other libraries save scores: arrays of one score per row of the dataset and query."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.lib.recfunctions import structured_to_unstructured

from hf_datasel._lazy import torch
from hf_datasel.errors import ScoreError
from hf_datasel.scoring.vector_files import row_blocks

__all__ = ["Reduction", "ScoreFile", "read_row_numbers", "read_score_file", "reduced"]

Reduction = Literal["mean", "max"]
"""How the scores of a row for several queries become one."""

_SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")
_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
_BFLOAT16 = "bfloat16"
"""A type that numpy does not have: its bits are the first 16 of a float32."""


@dataclass(frozen=True)
class ScoreFile:
    """Scores in the files of another library.

    Args:
        path: The file or folder.
        shape: Number of rows and of queries.
        block: Function that reads some rows: float64 of shape (rows, queries).
        written: Function that says of some rows whether all their scores were computed, bool of shape (rows,); None
            if the file does not record it.
        candidates: Row number of each row of the array, if the file has them.
        higher_is_better: Whether higher scores are better, if the file says so.
        record: What the file says about its origin, such as the library and its version.
    """

    path: Path
    shape: tuple[int, int]
    block: Callable[[slice], np.ndarray]
    written: Callable[[slice], np.ndarray] | None = None
    candidates: np.ndarray | None = None
    higher_is_better: bool | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def transposed(self) -> ScoreFile:
        """Return the file with the queries as rows."""
        rows = self.block(slice(None)).T
        return replace(self, shape=(self.shape[1], self.shape[0]), block=lambda part: rows[part])


def read_score_file(path: Path) -> ScoreFile:
    """Open a file or folder of scores, without reading all of them.

    Args:
        path: A folder that bergson wrote (`scores.bin` and `info.json`), or a file with one array or tensor (.npy,
            .pt, .pth, .safetensors), of shape (rows, queries) or (rows,).

    Raises:
        ScoreError: There is no such file, it is damaged, or it holds something else.
    """
    if path.is_dir():
        if (path / "info.json").is_file() and (path / "scores.bin").is_file():
            return _read_bergson(path)
        raise ScoreError(
            f"The folder {str(path)!r} has no scores of bergson, which are scores.bin and info.json: name the folder "
            "of `bergson score`, or the folder scores in that of a pipeline."
        )
    if not path.is_file():
        raise ScoreError(f"There is no file or folder {str(path)!r} with scores.")
    if path.suffix not in _SUFFIXES:
        raise ScoreError(
            f"{str(path)!r} is no file of scores: these are {', '.join(_SUFFIXES)}, or a folder of bergson. Rows with "
            "a column of scores, such as a Parquet file, are read as a dataset."
        )
    values, record = (_read_array if path.suffix == ".npy" else _read_tensor)(path)
    if len(values.shape) not in (1, 2) or not all(values.shape):
        raise ScoreError(
            f"{str(path)!r} holds an array of shape {tuple(values.shape)}: it has to be (rows, queries) or (rows,)."
        )
    columns = values.reshape(len(values), -1)

    def block(rows: slice) -> np.ndarray:
        part = columns[rows]
        return np.asarray(part if isinstance(part, np.ndarray) else part.to(torch.float64).numpy(), dtype=np.float64)

    return ScoreFile(path, (columns.shape[0], columns.shape[1]), block, record=record)


def reduced(file: ScoreFile, how: Reduction, negate: bool = False) -> np.ndarray:
    """Return one score per row of a file: float64 of shape (rows,), not finite where a score of the row is not.

    Args:
        file: The file.
        how: `"mean"` or `"max"` over the queries.
        negate: Whether lower scores are better: the sign is changed, before the queries are reduced.
    """
    result = np.empty(file.shape[0])
    for rows in row_blocks(file.shape[0], 8 * file.shape[1]):
        values = -file.block(rows) if negate else file.block(rows)
        with np.errstate(invalid="ignore", over="ignore"):
            result[rows] = values.mean(axis=1) if how == "mean" else values.max(axis=1)
    return result


def read_row_numbers(path: Path, num_scored: int) -> np.ndarray:
    """Return the row number of each row of an array of scores: int64 of shape (rows,).

    Args:
        path: File (.npy) of integers.
        num_scored: Number of rows that have scores.

    Raises:
        ScoreError: The file holds something else, or another number of rows.
    """
    if not path.is_file():
        raise ScoreError(f"There is no file {str(path)!r} of row numbers.")
    numbers, _ = _read_array(path)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or len(np.unique(numbers)) < len(numbers):
        raise ScoreError(
            f"{str(path)!r} has to hold row numbers, different integers of shape (rows,). It holds {numbers.dtype} of "
            f"shape {numbers.shape}{', and some of them twice' if numbers.ndim == 1 else ''}."
        )
    if len(numbers) != num_scored:
        raise ScoreError(
            f"{str(path)!r} has {len(numbers):,} row numbers, and there are scores of {num_scored:,} rows."
        )
    return np.asarray(numbers, dtype=np.int64)


# -- arrays and tensors -----------------------------------------------------------------------------------------------
def _read_array(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ScoreError(f"{str(path)!r} holds no array: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ScoreError(f"{str(path)!r} holds {getattr(values, 'dtype', 'several arrays')}: it has to hold numbers.")
    return values, {}


def _read_tensor(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the only tensor of a file, and its metadata."""
    from safetensors import SafetensorError, safe_open

    record: dict[str, Any] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                record = {"metadata": metadata} if (metadata := file.metadata()) else {}
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScoreError(
            f"{str(path)!r} cannot be read as a tensor: {first} Save the tensor alone: torch.save(scores.cpu(), path)."
        ) from error
    if isinstance(content, Mapping) and len(content) == 1:
        (content,) = content.values()
    if not isinstance(content, torch.Tensor) or content.is_complex() or content.dtype == torch.bool:
        names = f"{sorted(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise ScoreError(
            f"{str(path)!r} holds {names}, and not one tensor of scores: torch.save(scores.cpu(), path) writes one."
        )
    return content.detach(), record


# -- bergson ----------------------------------------------------------------------------------------------------------
def _read_bergson(folder: Path) -> ScoreFile:
    """Open the folder that bergson's score writers write: a score and a flag for each row and query.

    Layout: `bergson.score.score_writer` and `bergson.data.load_scores` of bergson 0.26.1 to 2.5.1.
    """
    dtype, narrow, num_rows, num_scores = _bergson_layout(folder)
    values = np.memmap(folder / "scores.bin", dtype=dtype, mode="r", shape=(num_rows,))

    def block(rows: slice) -> np.ndarray:
        part = structured_to_unstructured(values[rows][[f"score_{query}" for query in range(num_scores)]])
        wide = (part.astype(np.uint32) << 16).view(np.float32) if narrow else part
        return np.asarray(wide, dtype=np.float64)

    def written(rows: slice) -> np.ndarray:
        flags = values[rows][[f"written_{query}" for query in range(num_scores)]]
        return np.asarray(structured_to_unstructured(flags).all(axis=1))

    candidates = folder / "candidates.npy"
    settings, version, record = _bergson_config(folder)
    return ScoreFile(
        folder,
        (num_rows, num_scores),
        block,
        written,
        read_row_numbers(candidates, num_rows) if candidates.is_file() else None,
        settings.get("higher_is_better"),
        {"library": " ".join(["bergson", *([version] if version else [])]), **record},
    )


def _bergson_layout(folder: Path) -> tuple[np.dtype[Any], bool, int, int]:
    """Return the type of a row of `scores.bin`, whether scores are bfloat16, and how many rows and queries it has."""
    info_file = folder / "info.json"
    try:
        info = json.loads(info_file.read_text(encoding="utf-8"))
        num_rows, num_scores, layout = int(info["num_rows"]), int(info["num_scores"]), info["dtype"]
        formats = dict(zip(layout["names"], layout["formats"], strict=True))
        offsets = dict(zip(layout["names"], map(int, layout["offsets"]), strict=True))
        names = [(f"score_{query}", f"written_{query}") for query in range(num_scores)]
        (kind,) = {np.dtype(formats[score]).name if formats[score] != _BFLOAT16 else _BFLOAT16 for score, _ in names}
        scalar = np.dtype(np.uint16) if kind == _BFLOAT16 else _DTYPES[kind]
        dtype = np.dtype(
            {
                "names": [name for pair in names for name in pair],
                "formats": [scalar, np.dtype(bool)] * num_scores,
                "offsets": [offsets[name] for pair in names for name in pair],
                "itemsize": int(layout["itemsize"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoreError(
            f"{str(info_file)!r} does not describe scores of bergson as versions 0.26.1 to 2.5.1 write them: "
            f"{type(error).__name__} {error}."
        ) from error
    if info.get("attribute_tokens"):
        raise ScoreError(
            f"{str(folder)!r} has a score for each token (attribute_tokens), and a selection needs one for each row. "
            "Run bergson without attribute_tokens."
        )
    size = (folder / "scores.bin").stat().st_size
    if not num_rows or size != num_rows * dtype.itemsize:
        raise ScoreError(
            f"{str(folder / 'scores.bin')!r} is damaged: info.json names {num_rows:,} rows, which are "
            f"{num_rows * dtype.itemsize:,} bytes, and it has {size:,}."
        )
    return dtype, kind == _BFLOAT16, num_rows, num_scores


def _bergson_config(folder: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return `score_cfg`, the version and the run in the config.yaml of a folder of bergson; empty without one."""
    file = folder / "config.yaml"
    if not file.is_file():
        return {}, "", {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        commands = [command for step in content["steps"] for command in step.values() if command]
        scoring: Mapping[str, Any] = next((command for command in commands if command.get("score_cfg")), {})
        metadata = content.get("metadata") or {}
        settings, index = dict(scoring.get("score_cfg") or {}), scoring.get("index_cfg") or {}
        data = index.get("data") or {}
        chunks = int(data.get("chunk_length") or 0)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"{str(file)!r} is no config of bergson: {type(error).__name__} {error}.") from error
    if chunks > 0:
        raise ScoreError(
            f"{str(folder)!r} has scores of chunks of {chunks:,} tokens (chunk_length), which are no rows. Run "
            "bergson with truncation instead."
        )
    run = {
        "created": metadata.get("created"),
        "model": index.get("model"),
        "dataset_name": data.get("dataset"),
        "split": data.get("split"),
    }
    run = {name: str(value) for name, value in run.items() if value}
    return settings, str(metadata.get("bergson_version") or ""), {"library_run": run} if run else {}
