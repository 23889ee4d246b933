"""Metrics with the interface of the `evaluate` library that need no Hub."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_datasel.errors import EvaluationError
from hf_datasel.scoring.normalization import Normalization

__all__ = ["ExactMatch"]

_DESCRIPTION = "Share of predictions that equal their reference after normalization."
_INPUTS = """
Args:
    predictions: Answers, list of str.
    references: Correct answers, list of str.

Returns:
    exact_match: Share of predictions that equal their reference, from 0 to 1.
"""


class ExactMatch(evaluate.Metric):
    """Share of predictions that equal their reference, as a metric of the `evaluate` library.

    It is used like a metric that `evaluate.load` returns: `compute`, `add` and `add_batch`, in `evaluate.combine`
    beside other modules, and its result in `evaluate.save`. It reaches no Hub, and by default writes no files: the
    examples stay in memory. Its settings belong to the instance, since `evaluate.combine` passes the arguments of
    `compute` to all modules.

    `compute` returns `{"exact_match": share}`. It raises an `EvaluationError` if there are no predictions, or if a
    reference is empty after normalization or contains no number to compare; and a ValueError if predictions and
    references are not lists of str of the same length.

    Args:
        normalization: How predictions and references are normalized.
        keep_in_memory: Whether examples stay in memory. False writes them to the cache of `evaluate`, which several
            processes (`num_process`) need.
        **kwargs: Further arguments of `evaluate.EvaluationModule`, such as `experiment_id`.

    >>> metric = ExactMatch(Normalization(last_number=True))
    >>> metric.compute(predictions=["3 + 4 is 7.", "It is 8."], references=["#### 7", "#### 9"])
    {'exact_match': 0.5}
    """

    def __init__(self, normalization: Normalization | None = None, keep_in_memory: bool = True, **kwargs: Any):
        self.normalization = normalization or Normalization()
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _build_data_dir(self) -> str:
        """Return the folder of the examples, without creating it if they stay in memory."""
        return str(self._data_dir_root if self.keep_in_memory else super()._build_data_dir())

    def _finalize(self) -> None:
        if self.writer is None:
            raise EvaluationError("There are no predictions to compare: pass them to compute, add or add_batch.")
        super()._finalize()

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        if not predictions:
            raise EvaluationError("There are no predictions to compare: predictions is empty.")
        expected = [self.normalization(reference) for reference in references]
        for position, reference in enumerate(expected):
            if not reference:
                lacking = "contains no number" if reference is None else "is empty after normalization"
                raise EvaluationError(f"references[{position}]={references[position]!r} {lacking}.")
        pairs = zip(predictions, expected, strict=True)
        return {"exact_match": sum(self.normalization(answer) == other for answer, other in pairs) / len(expected)}
