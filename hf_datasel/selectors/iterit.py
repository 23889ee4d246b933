"""IterIT: difficult for the current model, and new in what it says, chosen again every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.formats import Part
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.ifd_selector import IFDSelector
from hf_datasel.rounds.positions import place_of, say_pick
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.strategies.ngram_explain import explain_pick
from hf_datasel.strategies.top import top

__all__ = ["IterIT"]


@dataclass(frozen=True)
class IterIT(IFDSelector):
    """Before every epoch, the rows with the highest IFD of the current model times the n-grams not yet covered.

    The first round scores the whole pool and keeps a window of `candidate_factor` x budget rows; later rounds score
    that window again and choose from it. Rows with an IFD of 1 or more are never chosen.

    Reference: Jia et al. 2024 (2412.17365), Algorithm 1. The paper's defaults: budget 5 % of the pool,
    `candidate_factor` 3 (its a), `decay` 0.1 (its b; 0 for task-specific data). From the authors' code: the n-gram
    weighting, and the end token that it counts as a word of every response.

    `candidates="paper"` fills the window with the highest IFDs below 1; the paper cuts before it filters, which can
    leave fewer rows than the budget. `"code"` does what the authors' code does: the first round chooses among all
    rows below 1, and the window holds its choice, then rows of 1 or more, then the others by IFD.
    """

    candidate_factor: int = 3
    decay: float = 0.1
    diversity: Literal["response", "prompt", "both", "none"] = "response"
    weighting: Literal["smooth-l2", "paper"] = "smooth-l2"
    candidates: Literal["paper", "code"] = "paper"
    end_token: str | None = None
    """Put after each text when n-grams are counted; None is `<|end_of_text|>` with `"smooth-l2"`, else nothing."""

    reselects: ClassVar[bool] = True
    citation = (
        "@article{jia2024iterit, title={Boosting LLM via Learning from Data Iteratively and Selectively}, "
        "author={Jia, Qi and Ren, Siyu and Qin, Ziheng and Xue, Fuzhao and Ni, Jinjie and You, Yang}, "
        "journal={arXiv preprint arXiv:2412.17365}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.candidate_factor, int) or self.candidate_factor < 1:
            raise ConfigError(
                f"IterIT(candidate_factor={self.candidate_factor!r}): it has to be an int of at least 1."
            )
        if not isinstance(self.decay, int | float) or not 0 <= self.decay <= 1:
            raise ConfigError(f"IterIT(decay={self.decay!r}): it has to be a number from 0 to 1.")
        for name, options in _OPTIONS.items():
            if getattr(self, name) not in options:
                raise ConfigError(f"IterIT({name}={getattr(self, name)!r}): it has to be one of {list(options)}.")

    def choose(self, round: Round) -> np.ndarray:
        first = "window" not in round.state
        ifd, valid, window = self._candidates(round)
        if first and self.candidates == "paper":
            round.state["window"] = window
        chosen = self._greedy(round, valid, ifd[valid])
        if first and self.candidates == "code":
            above = np.flatnonzero(round.eligible & (ifd >= 1.0))
            rest = window[~np.isin(window, chosen)]
            ordered = np.concatenate([chosen, _highest(above, ifd), rest])
            round.state["window"] = ordered[: self._window_size(round)]
        return chosen

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        if self.diversity == "none":
            return []
        ifd, valid, _ = self._candidates(round)
        at = int(place_of(np.array([row]), valid)[0])
        if at < 0:
            return say_pick(None, len(valid))
        texts, order = self._texts(round, valid), place_of(chosen, valid)
        return say_pick(explain_pick(texts, ifd[valid], order, at, self.decay, self.weighting), len(valid))

    def _candidates(self, round: Round) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """IFD by row, NaN where it was not asked for; the rows to choose from; and these by falling IFD."""
        rows = round.state.get("window", np.arange(len(round.rows)))
        ifd = np.full(len(round.rows), np.nan)
        ifd[rows] = self.ifd(round, rows)
        valid = round.candidates(ifd[rows], rows, high=1.0, name=self.quality_name)
        by_ifd = _highest(valid, ifd)
        if self.candidates == "code":
            return ifd, valid, by_ifd
        by_ifd = by_ifd[: self._window_size(round)]
        return ifd, np.sort(by_ifd), by_ifd

    def _window_size(self, round: Round) -> int:
        return self.candidate_factor * max([round.budget, *(each.budget for each in round.plan)])

    def _greedy(self, round: Round, rows: np.ndarray, quality: np.ndarray) -> np.ndarray:
        budget = min(round.budget, len(rows))
        if self.diversity == "none":
            chosen: np.ndarray = rows[top(quality, budget)]
            return chosen
        texts = self._texts(round, rows)
        return round.pick(
            rows,
            lambda progress: ngram_greedy(texts, quality, budget, self.decay, self.weighting, progress=progress),
        )

    def _texts(self, round: Round, rows: np.ndarray) -> list[str]:
        return [f"{text}{self._end()}" for text in round.texts(cast(Part, self.diversity), rows)]

    def _end(self) -> str:
        if self.end_token is not None:
            return self.end_token
        return "<|end_of_text|>" if self.weighting == "smooth-l2" else ""


_OPTIONS = {
    "diversity": ("response", "prompt", "both", "none"),
    "weighting": ("smooth-l2", "paper"),
    "candidates": ("paper", "code"),
}


def _highest(rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Rows by falling value, ties to the lower row."""
    ordered = np.sort(rows)
    return ordered[np.argsort(-value[ordered], kind="stable")]
