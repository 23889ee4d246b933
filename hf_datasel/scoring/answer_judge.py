"""Judging answers with a verifier, on all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ScoreError
from hf_datasel.scoring.verifiers import UnjudgedError, Verifier, last_response, reference_text
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["AnswerJudge", "columns_of"]

_ANSWERS_PER_BATCH = 256
"""Number of answers that are judged at a time; a progress bar shows each batch."""
_JUDGED = ["", "verifier_error", "unparsable_reference"]
"""Reasons why a verifier cannot judge an answer, by their code in arrays."""
_TRIED = 8
"""Number of rows that a verifier is tried on before there are answers."""
_FEW = 3
"""Number of rows from which on a verifier that fails on all of them is taken to fail always."""


class AnswerJudge:
    """Judges answers on all processes.

    Args:
        verifier: The verifier.
        references: Reference of each row.
        rows: The rows; `messages` receives what the first error of the verifier says.
        columns: Names of the columns that a function gets.
        runner: Runner of the scoring call; its model is not used.
    """

    def __init__(
        self, verifier: Verifier, references: list[Any], rows: TokenRows, columns: tuple[str, ...], runner: ModelRunner
    ):
        self.verifier, self.references, self.rows, self.messages = verifier, references, rows, rows.messages
        self.data = columns_of(rows, list(dict.fromkeys(columns))) if verifier.reads_row else None
        self.runner = runner.without_model()

    def __call__(self, answers: list[str], owner: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Return how right each answer is, float64, 0 where that is unknown, and the reason, "" where it is known."""
        messages: dict[str, str] = {}

        def compute(batch: np.ndarray) -> np.ndarray:
            table: dict[str, list[Any]] = {} if self.data is None else self.data[owner[batch].tolist()]
            results = np.zeros((len(batch), 2))
            for position, index in enumerate(batch.tolist()):
                row = {name: values[position] for name, values in table.items()}
                results[position] = self._judge(answers[index], self.references[owner[index]], row, messages)
            return results

        ones = np.ones(len(answers), dtype=np.int64)
        results = self.runner.run(compute, ones, 2, label=label, unit="answer", batch_size=_ANSWERS_PER_BATCH)
        for found in self.runner.processes.gather_object(messages):
            for reason, message in found.items():
                self.messages.setdefault(reason, message)
        return results[:, 0], np.array(_JUDGED, dtype=object)[results[:, 1].astype(np.int64)]

    def check_verifier(self, caller: str, rows: np.ndarray) -> None:
        """Raise an error if the verifier fails on all of some rows, which it judges before there are answers.

        The reference and the last response of each row take the place of answers. Rows are spread over `rows`; from
        fewer than 3 nothing follows.

        Args:
            caller: Name of the score with the verifier, for the message.
            rows: Positions of the rows that have a reference, ascending.

        Raises:
            ScoreError: Has the first error of the verifier, and what it has to do.
        """
        tried = rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), _TRIED).astype(np.int64))] if len(rows) else rows
        if len(tried) < _FEW or not (error := self.runner.processes.run_on_main_process(partial(self._try, tried))):
            return
        way_out = (
            "It is called with (answer, reference, row), and has to return a bool or a number from 0 to 1: 0 for an "
            "answer that it cannot read. `row` has the columns that make the row, and those that the settings "
            "reference and verifier_columns name."
            if self.verifier.reads_row
            else "The setting reference names the column of the references."
        )
        raise ScoreError(
            f"{caller} was tried before answers are generated, on the references and last responses of {len(tried)} "
            f"rows in place of answers, and could judge none. The first error is: {error}. {way_out}"
        )

    def _try(self, rows: np.ndarray) -> str:
        """Return the first error, or "" if the verifier can judge the reference or the last response of any row."""
        messages: dict[str, str] = {}
        responses = map(last_response, self.rows.pool.rows(self.rows.indices[rows]))
        data: Iterable[dict[str, Any]] = [{}] * len(rows) if self.data is None else self.data.select(rows)
        for index, response, row in zip(rows.tolist(), responses, data, strict=True):
            reference = self.references[index]
            for answer in dict.fromkeys([reference_text(reference), response or ""]):
                if not self._judge(answer, reference, row, messages)[1]:
                    return ""
        return next(iter(messages.values()))

    def _judge(
        self, answer: str, reference: Any, row: Mapping[str, Any], messages: dict[str, str]
    ) -> tuple[float, int]:
        """Return how right an answer is, and the code of the reason if that is unknown."""
        try:
            return self.verifier.verify(answer, reference, row), 0
        except UnjudgedError as error:
            messages.setdefault(error.reason, str(error))
            return 0.0, _JUDGED.index(error.reason)
        except Exception as error:  # of a user's function: the row has a reason, and the run goes on
            messages.setdefault("verifier_error", f"{type(error).__name__}: {error}")
            return 0.0, _JUDGED.index("verifier_error")


def columns_of(rows: TokenRows, names: Sequence[str]) -> Dataset:
    """Return columns of the dataset for some rows.

    Args:
        rows: The rows.
        names: Names of the columns.
    """
    return rows.pool.dataset.select(rows.indices).select_columns(list(names))
