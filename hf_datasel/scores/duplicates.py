"""Groups of rows with nearly the same text."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import write_file
from hf_datasel.errors import ColumnError, ConfigError, ScoreError, check_option, did_you_mean
from hf_datasel.formats import Part, Pool
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.numbers import read_numbers
from hf_datasel.scoring.setting_files import FILE
from hf_datasel.scoring.text_hashes import hash_words
from hf_datasel.strategies.min_hash import TextHashes, band_layout
from hf_datasel.strategies.text_duplicates import find_text_duplicates, similarity_to_kept
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Duplicates"]

_ENTRY = np.dtype([("row", "<u8"), ("kept", "<i8"), ("rows", "<i4"), ("similarity", "<f4")])
"""An entry of the file: the first 8 bytes of a row's id, the row that stays, the size of its group, the similarity.

The file is an array of entries, followed by an array of one text: the settings as JSON."""
_NO_GROUP = -1


class _Content(NamedTuple):
    """Content of a file of groups: entries in the order of `row`, the settings they were found with, a digest."""

    entries: np.ndarray
    settings: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Duplicates(Score):
    """Group of near-duplicates of text that the row is in: its size, the row of it that stays, and how similar it is.

    Groups are those of the filter `NoTextDuplicates` with the same settings, which excludes all rows but the one that
    stays: Jaccard similarity of n-grams of words of at least `threshold`, found by MinHash and then compared. Rows
    with the same words are always in one group. `by` says which row stays: the first one by default,
    `by="response_words"` the longest (with `Length()` in the same call of `hf_datasel.score`), or the one with the
    highest value of any other column.

    The groups depend on all rows, so the score is fitted first: `hf_datasel.score` and the command line do it and save
    the file in the folder of the score store; for `Dataset.map` use what `fit` returns:

        groups = Duplicates().fit(dataset, "duplicates.npy")
        dataset = dataset.map(groups, batched=True)

    Rows that were not fitted are an error: fit again. So is a file that was fitted with other settings. Each group has
    exactly one row that stays: the one whose own number `duplicate_of` is. Rows with equal content have equal values.

    False positives: rows of a template that differ in one number or name. Look at groups before you exclude them, with
    a threshold of 1 for the same words alone.

    Reads any supported row format, and the column `by`. Writes `duplicate_rows` (int32, number of rows of the group, 1
    for a row without duplicates), `duplicate_of` (int64, number of the row that stays, the same for all rows of a
    group), `duplicate_similarity` (float32, Jaccard similarity with that row, 1 for itself) and `duplicate_reason` (""
    for a row with a group). Cost: no model; as `NoTextDuplicates`.

    Reference: Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022 (2107.06499).

    Args:
        threshold: Jaccard similarity, above 0 and up to 1, from which on two rows are near-duplicates. With 1, only
            rows with the same words are.
        ngram: Number of words of an n-gram.
        part: Part of the row that is compared: `"prompt"`, `"response"` or `"both"`.
        num_perm: Number of hash functions. More find more pairs, and take more time and memory.
        by: Column of numbers whose highest value in a group stays; None for the lowest row number. A row without a
            value never stays: it is in the group of the rows with equal content if one of these has a value, and
            otherwise in no group.
        groups: File (.npy) of the groups, which `fit` writes.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Duplicates(part="prompt", by="ifd").reads
    ('ifd',)
    """

    threshold: float = 0.8
    ngram: int = field(default=5, kw_only=True)
    part: Part = field(default="both", kw_only=True)
    num_perm: int = field(default=128, kw_only=True)
    by: str | None = field(default=None, kw_only=True)
    groups: str | None = field(default=None, kw_only=True, metadata=FILE)

    citation = (
        "@inproceedings{lee2022deduplicating, title={Deduplicating Training Data Makes Language Models Better}, "
        "author={Lee, Katherine and Ippolito, Daphne and Nystrom, Andrew and Zhang, Chiyuan and Eck, Douglas and "
        "Callison-Burch, Chris and Carlini, Nicholas}, booktitle={Proceedings of the 60th Annual Meeting of the "
        "Association for Computational Linguistics}, pages={8424--8445}, year={2022}}"
    )

    def __post_init__(self) -> None:
        is_number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not is_number or not 0 < self.threshold <= 1:
            raise ConfigError(
                f"Duplicates(threshold={self.threshold!r}): it has to be a number above 0 and at most 1."
            )
        for name in ("ngram", "num_perm"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"Duplicates({name}={value!r}): it has to be an int of at least 1.")
        check_option(f"Duplicates(part={self.part!r})", self.part, get_args(Part))
        for name in ("by", "groups"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                what = "the name of a column" if name == "by" else "the path of a file"
                raise ConfigError(f"Duplicates({name}={value!r}): it has to be {what}, or None.")
        if self.threshold < 1:
            band_layout(self.threshold, self.num_perm)

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns that the score reads."""
        return (self.by,) if self.needs_fit and self.by is not None else ()

    @property
    def needs_fit(self) -> bool:
        """Whether the score has to be fitted first."""
        return self.groups is None

    @property
    def covers_new_rows(self) -> bool:
        """Whether the fitted score has values for rows that it was not fitted to."""
        return False

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {
            "duplicate_rows": pa.int32(),
            "duplicate_of": pa.int64(),
            "duplicate_similarity": pa.float32(),
            "duplicate_reason": pa.string(),
        }

    def fit(self, dataset: Dataset, path: str | os.PathLike[str]) -> Duplicates:
        """Find the groups of a dataset, and write them to a file.

        Args:
            dataset: The rows, in any supported format, with the column `by`.
            path: File to write, with the suffix .npy.

        Returns:
            This score with `groups` set.

        Raises:
            ColumnError: The column `by` is missing, or holds no numbers.
            FormatError: The rows are tokenized already, or have only a text column and `part` is not `"both"`.
        """
        target = Path(path).expanduser()
        if target.suffix != ".npy":
            raise ConfigError(f"Duplicates.fit(path={str(path)!r}): groups are written as .npy, so it has to end so.")
        content = io.BytesIO()
        np.save(content, self._find(dataset))
        np.save(content, np.array(json.dumps(self._fit_settings())))
        write_file(target, content.getvalue(), ScoreError)
        return replace(self, groups=str(target.resolve()))

    def fitted(self, dataset: Dataset, folder: Path) -> Duplicates:
        """Return the score fitted to a dataset; its file in the folder is named by a hash of the content."""
        fitted = self.fit(dataset, folder / f"duplicates.{os.getpid()}.npy")
        named = Path(str(fitted.groups)).rename(folder.resolve() / f"duplicates-{fitted._content().digest[5:17]}.npy")
        return replace(fitted, groups=str(named))

    def _find(self, dataset: Dataset) -> np.ndarray:
        """Return the entries of the rows with a group, in the order of their keys."""
        pool = Pool(dataset)
        usable = np.flatnonzero(pool.usable)
        entries = np.zeros(len(usable), dtype=_ENTRY)
        entries["row"], entries["kept"] = _keys(pool.row_ids[usable]), _NO_GROUP
        is_member, order = np.ones(len(usable), dtype=bool), np.arange(len(usable))
        if self.by is not None:
            if self.by not in dataset.column_names:
                raise ColumnError(
                    f"Duplicates(by={self.by!r}) needs this column, but the dataset has {dataset.column_names}."
                    f"{did_you_mean(self.by, dataset.column_names)}",
                    hint="Pass the score that writes it in the same call of hf_datasel.score.",
                    cli_hint="Name the score that writes it in --scores, too.",
                )
            values = read_numbers(dataset, self.by, "Duplicates")[usable]
            has_value = np.isfinite(values)
            is_member = np.isin(entries["row"], entries["row"][has_value])
            order = np.argsort(np.where(has_value, -values, np.inf)[is_member], kind="stable")
        rows = usable[is_member]

        def read(positions: np.ndarray) -> TextHashes:
            return hash_words(pool.texts(self.part, rows[positions]))

        kept = find_text_duplicates(read, order, self.threshold, self.ngram, self.num_perm).kept
        groups = {
            "kept": rows[kept],
            "rows": np.bincount(kept, minlength=len(rows))[kept],
            "similarity": similarity_to_kept(read, kept, self.ngram),
        }
        for name, values in groups.items():
            entries[name][is_member] = values
        return entries[np.unique(entries["row"], return_index=True)[1]]

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        pool, entries = rows.pool, self._content().entries
        keys, reasons = _keys(pool.row_ids[rows.indices]), pool.reasons[rows.indices].astype(object)
        is_usable = np.flatnonzero(reasons == "")
        places = np.searchsorted(entries["row"], keys[is_usable])
        is_missing = np.append(entries["row"], 0)[places] != keys[is_usable]
        if is_missing.any():
            raise ScoreError(
                f"Row {rows.indices[is_usable[is_missing][0]]:,} is none of the rows that the groups in "
                f"{self.groups!r} were found among. Fit Duplicates to this dataset."
            )
        values = np.zeros(len(keys), dtype=_ENTRY)
        values[is_usable] = entries[places]
        reasons[is_usable[values["kept"][is_usable] == _NO_GROUP]] = f"no_{self.by}"
        null = reasons != ""
        return {
            "duplicate_rows": pa.array(values["rows"], pa.int32(), mask=null),
            "duplicate_of": pa.array(values["kept"], pa.int64(), mask=null),
            "duplicate_similarity": pa.array(values["similarity"], pa.float32(), mask=null),
            "duplicate_reason": pa.array(reasons, pa.string()),
        }

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the file of groups resolved to a digest."""
        return {**super().spec(), "resolved_groups": None if self.groups is None else self._content().digest}

    def _identity(self) -> str:
        return f"{super()._identity()}:{'' if self.groups is None else self._content().digest}"

    def _fit_settings(self) -> dict[str, Any]:
        """Return the settings that the groups depend on."""
        return {name: value for name, value in self.settings().items() if name not in ("groups", "column_prefix")}

    def _content(self) -> _Content:
        """Return the content of the file of groups.

        Raises:
            ScoreError: It holds something else, or groups that were found with other settings.
        """
        content = _load(*self._file())
        for name, value in self._fit_settings().items():
            if (fitted := content.settings.get(name)) != value:
                raise ScoreError(
                    f"Duplicates({name}={value!r}, groups={self.groups!r}): the groups in this file were found with "
                    f"{name}={fitted!r}. Pass the settings that the file was fitted with, or fit it again."
                )
        return content

    def _file(self) -> tuple[str, int, int, int]:
        """Return the path of the file of groups, and its inode, size and time of modification."""
        if self.groups is None:
            raise ScoreError(
                "Duplicates is not fitted, which needs the whole dataset. Use the score that "
                "Duplicates(...).fit(dataset, 'duplicates.npy') returns, or the filter NoTextDuplicates in a Chain."
            )
        path = Path(self.groups).expanduser()
        if not path.is_file():
            raise ScoreError(f"There is no file {self.groups!r} with the groups of Duplicates.")
        stat = path.stat()
        return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns


def _keys(row_ids: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of each row id as a number, uint64 of shape (rows,)."""
    return np.ascontiguousarray(row_ids[:, :8]).view("<u8")[:, 0]


@lru_cache(maxsize=2)
def _load(path: str, *stat: int) -> _Content:
    """Return the content of a file, cached while its inode, size and time stay the same."""
    import xxhash

    content = Path(path).read_bytes()
    file = io.BytesIO(content)
    try:
        entries: np.ndarray = np.load(file, allow_pickle=False)
        settings = json.loads(str(np.load(file, allow_pickle=False)))
    except (ValueError, OSError, EOFError) as error:
        raise ScoreError(f"{path!r} holds no groups of duplicates with their settings: {error}") from error
    if entries.dtype != _ENTRY or not isinstance(settings, dict):
        raise ScoreError(f"{path!r} holds no groups of duplicates. Use a file that Duplicates.fit wrote.")
    return _Content(entries, settings, f"file:{xxhash.xxh3_128(content).hexdigest()}")
