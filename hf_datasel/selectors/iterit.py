"""IterIT: rows with a high IFD and new n-grams, reselected by the current model before every epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError, check_option
from hf_datasel.formats import Part
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.describe import describe_pick
from hf_datasel.rounds.ifd_selector import IFDSelector
from hf_datasel.rounds.positions import positions_of
from hf_datasel.rounds.selector import check_quality
from hf_datasel.rounds.views import group_names
from hf_datasel.scores.ifd import IFD
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.strategies.ngram_explain import explain_pick
from hf_datasel.strategies.top import top

__all__ = ["IterIT"]


@dataclass(frozen=True)
class IterIT(IFDSelector):
    """Rows with a high IFD under the current model and n-grams that no selected row has yet, reselected every epoch.

    Before each epoch, rows are selected one at a time. Each step takes the row with the highest product of its IFD and
    the summed weights of its n-grams, then multiplies the weights of that row's n-grams by `decay`. The first round
    scores the whole pool and keeps a window of `candidate_factor` x budget rows. Later rounds score only that window
    again, with the current model, and select from it. Rows with an IFD of 1 or more are never selected.

    `candidates` decides how the first round cuts and filters. The paper describes one way, its code does another:

    - `"filtered"` (default) drops the rows with an IFD of 1 or more, then keeps the `candidate_factor` x budget rows
      with the highest IFD. The budget is met whenever the pool has enough rows below 1.
    - `"algorithm-1"` follows the paper's Algorithm 1 exactly: it keeps the `candidate_factor` x budget rows with the
      highest IFD, and then drops those with an IFD of 1 or more. The rows with the highest IFD are often above 1, so
      fewer rows than the budget may remain, which is an error in the first round.
    - `"code"` follows the authors' code, which the paper's experiments used: the first round selects from all rows
      with an IFD below 1, and the window contains the selected rows, then the rows with an IFD of 1 or more, then the
      remaining rows by IFD.

    The three select different rows. On 2,000 rows of Alpaca scored by a small model, with the defaults and a budget of
    5 %, the first rounds have a Jaccard similarity of 0.77 (`"filtered"` and `"algorithm-1"`), 0.70 (`"filtered"` and
    `"code"`) and 0.56 (`"algorithm-1"` and `"code"`).

    In all three, the later rounds select from the rows of the window whose new IFD is below 1. If these are fewer than
    the budget, the round trains on these rows only and logs a warning.

    Defaults follow the paper: budget of 5 % of the pool, `candidate_factor` 3 (`a` in the paper) and `decay` 0.1 (`b`
    in the paper; 0 for task-specific data). The n-gram weighting, and the end token that it counts as part of each
    response, are those of the authors' code.

    Cost: two forward passes over all rows, then over the window before each further round.

    Reference: Jia et al. 2024 (2412.17365), Algorithm 1; Eq. 1 to 4 for the IFD, Eq. 5 to 7 for the n-grams,
    Eq. 8 for their product.

    Args:
        quality: Column to use instead of computing the IFD; its values are used unchanged.
        model: Hub id or path of the model whose IFD is computed. None is the model being trained, or the `model` of
            `select`.
        revision: Commit, branch or tag of a Hub `model`.
        convention: Prompt and details of the IFD, see `hf_datasel.scores.IFD`. `"iterit"` is the authors' prompt.
        candidate_factor: Size of the window, in multiples of the budget; at least 1; `a` in the paper.
        decay: Factor from 0 to 1 that is applied to the weight of an n-gram each time a row with it is selected: with
            0 an n-gram counts once, with 1 diversity is ignored. `b` in the paper.
        diversity: Part of the row whose n-grams are counted. `"none"` selects by IFD alone.
        weighting: `"smooth-l2"` is the TF-IDF of the authors' code, smoothed and normalized by row; `"paper"` is Eq.
            5.
        candidates: `"filtered"`, `"algorithm-1"` or `"code"`, see above.
        end_token: Text that is appended to each row before n-grams are counted. None is `"<|end_of_text|>"` with
            `weighting="smooth-l2"`, and nothing with `"paper"`.
        prior: Model of the loss without the prompt, by which the IFD is divided. None is the current model, as in the
            paper. With `"first-round"` later rounds use that of the first round and run one forward pass per row
            instead of two; see `hf_datasel.scores.IFD`. It is a coarse approximation: training lowers this loss most
            for the rows that were trained on, and in a measured run the second round had less in common with the
            exact one than the first round had.
    """

    candidate_factor: int = 3
    decay: float = 0.1
    diversity: Literal["response", "prompt", "both", "none"] = "response"
    weighting: Literal["smooth-l2", "paper"] = "smooth-l2"
    candidates: Literal["filtered", "algorithm-1", "code"] = "filtered"
    end_token: str | None = None
    prior: Literal["first-round"] | None = None

    reselects: ClassVar[bool] = True
    citation = (
        "@article{jia2024iterit, title={Boosting LLM via Learning from Data Iteratively and Selectively}, "
        "author={Jia, Qi and Ren, Siyu and Qin, Ziheng and Xue, Fuzhao and Ni, Jinjie and You, Yang}, "
        "journal={arXiv preprint arXiv:2412.17365}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality is not None and self.prior is not None:
            raise ConfigError(
                f"IterIT(quality={self.quality!r}, prior={self.prior!r}): the column is used as it is in every round. "
                "Leave out prior, or quality."
            )
        if not isinstance(self.candidate_factor, int) or self.candidate_factor < 1:
            raise ConfigError(
                f"IterIT(candidate_factor={self.candidate_factor!r}): it has to be an int of at least 1."
            )
        if not isinstance(self.decay, int | float) or not 0 <= self.decay <= 1:
            raise ConfigError(f"IterIT(decay={self.decay!r}): it has to be a number from 0 to 1.")
        for name, options in _OPTIONS.items():
            value = getattr(self, name)
            if (name, value) == ("candidates", "paper"):
                raise ConfigError(_NO_LONGER_PAPER)
            check_option(f"IterIT({name}={value!r})", value, options)

    def score(self) -> IFD:
        """Return the score that is computed where no column is named."""
        return replace(super().score(), prior=self.prior)

    def reads_text(self) -> tuple[Part, ...]:
        """Return the part of the rows whose n-grams are counted."""
        return () if self.diversity == "none" else (self.diversity,)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of this round; the first one stores the window in `context.state`.

        Raises:
            SelectionError: `candidates="algorithm-1"` and too few rows of the window have an IFD below 1.
        """
        first = "window" not in context.state
        ifd, valid, window = self._candidates(context)
        if first and self.candidates == "algorithm-1":
            self._check_window(context, ifd, valid, window)
        selected = self._greedy(context, valid, ifd[valid])
        if first:
            context.state["window"] = self._window_of_code(context, ifd, selected) if window is None else window
        return selected

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the row's score and on its heaviest n-grams."""
        sentences = [_OF_FIRST_ROUND] if self.prior == "first-round" and context.index else []
        if self.diversity == "none":
            return sentences
        ifd, valid, _ = self._candidates(context)
        position = int(positions_of(np.array([row]), valid)[0])
        if position < 0:
            return [*sentences, *describe_pick(None, len(valid))]
        texts, order = self._texts(context, valid), positions_of(selected, valid)
        pick = explain_pick(texts, ifd[valid], order, position, self.decay, self.weighting)
        return [*sentences, *describe_pick(pick, len(valid))]

    def _candidates(self, context: RoundContext) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the IFD by row, NaN where it is not computed; the rows to select from, ascending; and the window.

        The window is sorted by falling IFD, and None for `"code"`, whose window depends on the selection.
        """
        rows = context.state.get("window", np.arange(len(context.pool)))
        ifd = np.full(len(context.pool), np.nan)
        ifd[rows] = self.ifd(context, rows)
        below = context.candidates(ifd[rows], rows, high=_HIGHEST, name=self.quality_name)
        if self.candidates == "code":
            return ifd, below, None
        scored = rows[context.eligible[rows] & np.isfinite(ifd[rows])]
        cut_from = scored if self.candidates == "algorithm-1" else below
        window = _highest_first(cut_from, ifd)[: self._window_size(context)]
        return ifd, np.sort(window[ifd[window] < _HIGHEST]), window

    def _window_size(self, context: RoundContext) -> int:
        return self.candidate_factor * max([context.budget, *(step.budget for step in context.plan)])

    def _window_of_code(self, context: RoundContext, ifd: np.ndarray, selected: np.ndarray) -> np.ndarray:
        """Return the window of the authors' code: the selection, rows of 1 or more, and the others by falling IFD."""
        above = np.flatnonzero(context.eligible & (ifd >= _HIGHEST))
        others = np.setdiff1d(np.flatnonzero(context.eligible & (ifd < _HIGHEST)), selected)
        window = np.concatenate([selected, _highest_first(above, ifd), _highest_first(others, ifd)])
        return window[: self._window_size(context)]

    def _check_window(
        self, context: RoundContext, ifd: np.ndarray, valid: np.ndarray, window: np.ndarray | None
    ) -> None:
        """Raise if the cut of Algorithm 1 leaves fewer rows than the budget and than filtering first would."""
        below = int((context.eligible & (ifd < _HIGHEST)).sum())
        if window is None or group_names(context) or len(valid) >= min(context.budget, below):
            return
        raise SelectionError(
            f"IterIT(candidates='algorithm-1') can select {len(valid):,} rows for a budget of {context.budget:,}: of "
            f"the {len(window):,} rows with the highest {self.quality_name}, which are candidate_factor="
            f"{self.candidate_factor} x the budget, {len(window) - len(valid):,} have a value of 1 or more.",
            "Raise candidate_factor, or use candidates='filtered', which drops such rows before it cuts.",
        )

    def _greedy(self, context: RoundContext, rows: np.ndarray, quality: np.ndarray) -> np.ndarray:
        budget = min(context.budget, len(rows))
        if self.diversity == "none":
            selected: np.ndarray = rows[top(quality, budget)]
            return selected
        check_quality(self, self.quality_name, quality)
        texts = self._texts(context, rows)
        return context.pick(
            rows,
            lambda progress: ngram_greedy(texts, quality, budget, self.decay, self.weighting, progress=progress),
        )

    def _texts(self, context: RoundContext, rows: np.ndarray) -> list[str]:
        end = self.end_token
        if end is None:
            end = "<|end_of_text|>" if self.weighting == "smooth-l2" else ""
        return [f"{text}{end}" for text in context.texts(cast(Part, self.diversity), rows)]


_HIGHEST = 1.0
"""IFD from which on rows are never selected."""

_OF_FIRST_ROUND = (
    "The ifd of this round is an approximation: its loss_prior is that of the first round, not of the current model."
)

_OPTIONS = {
    "diversity": ("response", "prompt", "both", "none"),
    "weighting": ("smooth-l2", "paper"),
    "candidates": ("filtered", "algorithm-1", "code"),
}

_NO_LONGER_PAPER = (
    "IterIT(candidates='paper'): it has to be 'filtered', which drops rows with an IFD of 1 or more and then cuts the "
    "window (the former meaning of 'paper'), 'algorithm-1', which cuts first as the paper's Algorithm 1 does, or "
    "'code', which does what the authors' code does."
)


def _highest_first(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the rows by falling value, ties to the lower row number."""
    ordered = np.sort(rows)
    return ordered[np.argsort(-values[ordered], kind="stable")]
