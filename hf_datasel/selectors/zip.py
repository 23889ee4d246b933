"""Rows that say the least twice, as a compressor sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, check_number
from hf_datasel.scores import Compressibility
from hf_datasel.strategies.zip import ratios_with, zip_greedy, zlib_build

__all__ = ["ZIP"]

Text = Literal["row", "both", "prompt", "response"]

_BATCH = 1_000


@dataclass(frozen=True)
class ZIP(Selector):
    """Rows that compress badly together: chosen `k3` at a time, in three stages, by zlib's compression ratio.

    Stage 1 takes the `k1` rows with the lowest ratio known so far, stage 2 the `k2` of them with the lowest ratio of
    all chosen rows and the row, and stage 3 builds a set of `k3` of these with the lowest ratio. No model is needed.
    Which rows it takes depends on how rows are written as text, and on the build of zlib: see `zlib_build` of
    `hf_datasel.strategies.zip`.

    Reference: Yin et al. 2024 (2407.06645), Algorithm 1; a baseline of Xia et al. 2024 (2410.09335), Eq. 9. `k1`, `k2`
    and `k3` are those of the paper, `text` and `level` those of its code, but that this writes every column of a row,
    its id included, which `columns` does. `compat=True` chooses what the code does: ratios in float32, and rows that
    stage 3 leaves are never tried again, for which `k1` rows have to be left at the beginning of each step.
    """

    k1: int = 10_000
    k2: int = 200
    k3: int = 100
    text: Text = "row"
    """What is compressed: "row" is the published form, Python's `str` of a dict with the columns that hold the row;
    "both", "prompt" and "response" are its plain text, one row a line."""
    columns: tuple[str, ...] = ()
    """Of the dict, in this order, in place of those that hold the row: `("id", "conversations", "source")`, say, for a
    file as the published code reads it."""
    level: int = 9
    """Of zlib, 1 to 9."""
    compat: bool = False

    nested: ClassVar[bool] = True
    citation = Compressibility.citation

    def __post_init__(self) -> None:
        for name in ("k1", "k2", "k3"):
            check_number(self, name, 1, whole=True)
        if not self.k3 <= self.k2 <= self.k1:
            raise ConfigError(f"ZIP(k1={self.k1}, k2={self.k2}, k3={self.k3}): it has to be k3 <= k2 <= k1.")
        check_number(self, "level", 1, 9, whole=True)
        if self.text not in get_args(Text):
            raise ConfigError(f"ZIP(text={self.text!r}): it has to be one of {list(get_args(Text))}.")
        if not isinstance(self.compat, bool):
            raise ConfigError(f"ZIP(compat={self.compat!r}): it has to be true or false.")
        self._check_columns()

    def _check_columns(self) -> None:
        names = self.columns
        if not isinstance(names, list | tuple) or not all(isinstance(each, str) and each for each in names):
            raise ConfigError(f"ZIP(columns={names!r}): it has to be the names of columns.")
        if len(set(names)) < len(names):
            raise ConfigError(f"ZIP(columns={names!r}) names a column twice.")
        if names and self.text != "row":
            raise ConfigError(f"ZIP(columns={names!r}, text={self.text!r}): columns are for text='row'.")
        object.__setattr__(self, "columns", tuple(names))  # a list where the settings come from JSON

    def choose(self, round: Round) -> np.ndarray:
        rows = self._rows(round)
        texts = self._texts(round, rows)
        round.notes["zlib"] = dict(zlib_build())
        budget = min(round.budget, len(rows))
        return round.pick(
            rows,
            lambda progress: zip_greedy(
                texts, budget, self.k1, self.k2, self.k3, self._frame, self.compat, self.level, progress
            ),
        )

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        at = np.flatnonzero(chosen == row)
        before = chosen[: at[0] // self.k3 * self.k3] if len(at) else chosen
        texts = self._texts(round, np.append(before, row))
        alone, together = (
            ratios_with(texts, range(size), [len(before)], self._frame, self.level)[0] for size in (0, len(before))
        )
        said = [f"By itself its compression ratio is {alone:.4g}."]
        if len(before):
            when = "before the step that chose it" if len(at) else "in all"
            said.append(f"That of the {len(before):,} rows chosen {when} and of it together is {together:.5g}.")
        return said

    def _rows(self, round: Round) -> np.ndarray:
        """Those that can be trained on, and have a value in every column beside those of the row itself."""
        rows = np.arange(len(round.rows))
        for name in set(self.columns) - set(round.rows.columns):
            column = round.read([name], [name]).with_format("arrow")[:].column(name)
            missing = np.asarray(column.is_null().to_numpy())
            round.leave_out(f"without {name}", np.flatnonzero(missing))
            rows = rows[~missing[rows]]
        usable: np.ndarray = rows[round.eligible[rows]]
        return usable

    @property
    def _frame(self) -> tuple[bytes, bytes, bytes]:
        return (b"[", b", ", b"]") if self.text == "row" else (b"", b"\n", b"")

    def _texts(self, round: Round, rows: np.ndarray) -> list[bytes]:
        if self.text != "row":
            return [text.encode() for text in round.texts(self.text, rows)]
        names = list(self.columns) or round.rows.columns
        texts: list[bytes] = []
        for batch in round.read(names, self.columns).select(rows).iter(batch_size=_BATCH):
            values = zip(*(batch[name] for name in names), strict=True)
            texts += [str(dict(zip(names, row, strict=True))).encode() for row in values]
        return texts
