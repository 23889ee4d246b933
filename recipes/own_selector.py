"""Your own selector: rows whose responses are closest to a length. Its fields are its settings."""

from dataclasses import dataclass

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Length


@dataclass(frozen=True)
class NearLength(Selector):
    """Rows whose responses have a number of words close to `words`; ties go to the lower row number.

    Args:
        words: Number of words.
    """

    words: int = 50

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the row numbers, best first, at most `context.budget`."""
        length = context.values(Length())
        rows = context.candidates(length, np.arange(len(length)))
        return rows[np.argsort(np.abs(length[rows] - self.words), kind="stable")][: context.budget]
