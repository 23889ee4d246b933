"""Results of a task of lm-eval: one value per item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hf_datasel.evaluation.row_results import RowResults

__all__ = ["HarnessResults"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HarnessResults(RowResults):
    """Values of a metric of lm-eval per item; see `HarnessTask`.

    Args:
        row_ids: SHA-256 of each item, uint8 of shape (items, 32), as `doc_hash` of lm-eval.
        reasons: Reason why an item has no value, str of shape (items,): `no_value` if the task gives none, else empty.
        groups: Subtask of each item, str of shape (items,); empty for a task that has none.
        settings: Model and settings, plain values.
        scores: Value of the metric for each item, float64 of shape (items,); NaN for an item without one.
        truncated: Which answers were cut at `max_gen_toks`, bool of shape (items,). They are compared like others.
        truncated_prompts: Which prompts were longer than the model's window and lost their beginning, bool of shape
            (items,).
        answers: Generated answer, or the option with the highest probability: object array of str of shape (items,).
        prompt_hashes: SHA-256 of the prompt of each item, with its shots and chat template, uint8 of shape (items,
            32). Only results with equal prompts are of the same task.
    """

    scores: np.ndarray
    truncated: np.ndarray
    truncated_prompts: np.ndarray
    answers: np.ndarray
    prompt_hashes: np.ndarray

    kind: ClassVar[str] = "lm_eval"

    @property
    def values(self) -> np.ndarray:
        """Value of each item, float64 of shape (items,); NaN for an item without one."""
        return self.scores

    def mean(self) -> float:
        """Return the number as lm-eval aggregates it: over items, or over the means of equally weighted subtasks."""
        usable = self.reasons == ""
        if self.settings["weighting"] == "items":
            return float(self.scores[usable].mean())
        groups = self.groups[usable]
        return float(np.mean([self.scores[usable][groups == group].mean() for group in np.unique(groups)]))

    def summarize(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the mean of some items, and the numbers of truncated answers and prompts among them."""
        return {
            self.settings["metric"]: self.subset(rows).mean(),
            "truncated_answers": int(self.truncated[rows].sum()),
            "truncated_prompts": int(self.truncated_prompts[rows].sum()),
        }
