"""A selector of one's own: the rows whose responses are nearest to a length. Its fields are its settings."""

from dataclasses import dataclass

import numpy as np

from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Length


@dataclass(frozen=True)
class NearLength(Selector):
    """The rows whose responses have the number of words nearest to `words`; ties go to the lower row number."""

    words: int = 50

    def choose(self, round: Round) -> np.ndarray:
        length = round.values(Length())
        rows = round.candidates(length, np.arange(len(length)))
        return rows[np.argsort(np.abs(length[rows] - self.words), kind="stable")][: round.budget]
