"""ZIP: rows that repeat each other least, by their compression ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.formats import Part
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, check_number
from hf_datasel.scores import Compressibility
from hf_datasel.strategies.zip import ratios_with, zip_greedy, zlib_build

__all__ = ["ZIP"]

Text = Literal["row", "both", "prompt", "response"]

_BATCH_SIZE = 1_000


@dataclass(frozen=True)
class ZIP(Selector):
    """Rows that compress badly together, selected in steps of `k3` rows by zlib's compression ratio.

    Each step has three stages: stage 1 takes the `k1` rows with the lowest compression ratio known so far, stage 2 the
    `k2` of these with the lowest ratio of the selected rows and the row together, and stage 3 builds a set of `k3` of
    these with the lowest ratio. No model is needed. The selection depends on how rows are written as text, and on the
    build of zlib, which is recorded; see `hf_datasel.strategies.zip.zlib_build`.

    Cost: no model; minutes of one core for tens of thousands of rows.

    Reference: Yin et al. 2024 (2407.06645), Algorithm 1; a baseline of Xia et al. 2024 (2410.09335), Eq. 9. `k1`, `k2`
    and `k3` are those of the paper, `text` and `level` those of its code. The code writes every column of a row,
    including its id; set `columns` for that.

    Args:
        k1: Number of rows of stage 1.
        k2: Number of rows of stage 2, at most `k1`.
        k3: Number of rows that each step selects, at most `k2`.
        text: What is compressed. `"row"` is the published form: Python's `str` of a dict of the columns that hold the
            row. `"both"`, `"prompt"` and `"response"` are plain text, one row per line.
        columns: Columns of the dict, in this order, instead of those that hold the row. For a file as the published
            code reads it: `("id", "conversations", "source")`.
        level: Compression level of zlib, from 1 to 9.
        compat: Whether to select exactly what the published code does: ratios are float32, and rows that stage 3 does
            not select are never tried again, which needs `k1` remaining rows at the start of each step.
    """

    k1: int = 10_000
    k2: int = 200
    k3: int = 100
    text: Text = "row"
    columns: tuple[str, ...] = ()
    level: int = 9
    compat: bool = False

    nested: ClassVar[bool] = True
    citation = Compressibility.citation

    def __post_init__(self) -> None:
        for name in ("k1", "k2", "k3"):
            check_number(self, name, 1, integer=True)
        if not self.k3 <= self.k2 <= self.k1:
            raise ConfigError(f"ZIP(k1={self.k1}, k2={self.k2}, k3={self.k3}): it has to be k3 <= k2 <= k1.")
        check_number(self, "level", 1, 9, integer=True)
        check_option(f"ZIP(text={self.text!r})", self.text, get_args(Text))
        if not isinstance(self.compat, bool):
            raise ConfigError(f"ZIP(compat={self.compat!r}): it has to be true or false.")
        self._check_columns()

    def _check_columns(self) -> None:
        names = self.columns
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"ZIP(columns={names!r}): it has to be the names of columns.")
        if len(set(names)) < len(names):
            raise ConfigError(f"ZIP(columns={names!r}) names a column twice.")
        if names and self.text != "row":
            raise ConfigError(f"ZIP(columns={names!r}, text={self.text!r}): columns are for text='row'.")
        object.__setattr__(self, "columns", tuple(names))  # a list where the settings come from JSON

    def reads_text(self) -> tuple[Part, ...]:
        """Return the part of the rows that is compressed."""
        if self.text != "row":
            return (self.text,)
        return () if self.columns else ("both",)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order in which the steps select them."""
        rows = self._candidates(context)
        texts = self._texts(context, rows)
        context.record.notes["zlib"] = dict(zlib_build())
        budget = min(context.budget, len(rows))
        return context.pick(
            rows,
            lambda progress: zip_greedy(
                texts, budget, self.k1, self.k2, self.k3, self._frame, self.compat, self.level, progress
            ),
        )

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the row's compression ratio, alone and together with the selected rows."""
        ranks = np.flatnonzero(selected == row)
        before = selected[: ranks[0] // self.k3 * self.k3] if len(ranks) else selected
        texts = self._texts(context, np.append(before, row))
        alone, together = (
            ratios_with(texts, range(size), [len(before)], self._frame, self.level)[0] for size in (0, len(before))
        )
        sentences = [f"By itself its compression ratio is {alone:.4g}."]
        if len(before):
            when = "before the step that selected it" if len(ranks) else "in total"
            sentences.append(f"Together with the {len(before):,} rows selected {when} it is {together:.5g}.")
        return sentences

    def _candidates(self, context: RoundContext) -> np.ndarray:
        """Return the eligible rows that have a value in every column besides those of the row format."""
        rows = np.arange(len(context.pool))
        for name in set(self.columns) - set(context.row_columns()):
            column = context.read_columns([name], [name]).with_format("arrow")[:].column(name)
            missing = np.asarray(column.is_null().to_numpy())
            context.exclude(f"without {name}", np.flatnonzero(missing))
            rows = rows[~missing[rows]]
        candidates: np.ndarray = rows[context.eligible[rows]]
        return candidates

    @property
    def _frame(self) -> tuple[bytes, bytes, bytes]:
        """Bytes before, between and after the texts of a set of rows."""
        return (b"[", b", ", b"]") if self.text == "row" else (b"", b"\n", b"")

    def _texts(self, context: RoundContext, rows: np.ndarray) -> list[bytes]:
        if self.text != "row":
            return [text.encode() for text in context.texts(self.text, rows)]
        names = list(self.columns) or context.row_columns()
        texts: list[bytes] = []
        for batch in context.read_columns(names, self.columns).select(rows).iter(batch_size=_BATCH_SIZE):
            values = zip(*(batch[name] for name in names), strict=True)
            texts += [str(dict(zip(names, row, strict=True))).encode() for row in values]
        return texts
