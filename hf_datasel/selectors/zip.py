"""Rows that say the least twice, as a compressor sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.scores import Compressibility
from hf_datasel.selectors.base import Selector, check_number
from hf_datasel.selectors.round import Round
from hf_datasel.strategies.zip import ratios_with, zip_greedy

__all__ = ["ZIP"]

Text = Literal["row", "both", "prompt", "response"]


@dataclass(frozen=True)
class ZIP(Selector):
    """Rows that compress badly together: chosen `k3` at a time, in three stages, by zlib's compression ratio.

    Stage 1 takes the `k1` rows with the lowest ratio known so far, stage 2 the `k2` of them with the lowest ratio of
    all chosen rows and the row, and stage 3 builds a set of `k3` of these with the lowest ratio. No model is needed.
    Which rows it takes depends on how rows are written as text, and on the build of zlib: both are recorded.

    Reference: Yin et al. 2024 (2407.06645), Algorithm 1; a baseline of Xia et al. 2024 (2410.09335). The defaults are
    theirs. `compat=True` chooses what their code does: ratios in float32, and rows that stage 3 leaves are never tried
    again, for which `k1` rows have to be left at the beginning of each step.
    """

    k1: int = 10_000
    k2: int = 200
    k3: int = 100
    text: Text = "row"
    """What is compressed: "row" is the published form, Python's `str` of a dict with the columns that hold the row;
    "both", "prompt" and "response" are its plain text, one row a line."""
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

    def choose(self, round: Round) -> np.ndarray:
        rows = np.flatnonzero(round.eligible)
        texts = self._texts(round, rows)
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
        when = "before the step in which it was chosen" if len(at) else "at the end"
        return [
            f"By itself its compression ratio is {alone:.4g}.",
            f"With the {len(before):,} rows chosen {when}, theirs and its together is {together:.5g}.",
        ]

    @property
    def _frame(self) -> tuple[bytes, bytes, bytes]:
        return (b"[", b", ", b"]") if self.text == "row" else (b"", b"\n", b"")

    def _texts(self, round: Round, rows: np.ndarray) -> list[bytes]:
        if self.text != "row":
            return [text.encode() for text in round.texts(self.text, rows)]
        data = round.pool.select_columns(round.rows.columns).select(rows)
        return [str(row).encode() for row in data]
