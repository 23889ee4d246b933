"""Filter: no rows that repeat evaluation questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_name
from hf_datasel.scores import Contamination

__all__ = ["Decontaminate"]


@dataclass(frozen=True)
class Decontaminate(RowFilter):
    """Rows that share no n-gram of words with an evaluation question, or not more than a share of its words.

    A row is excluded if its n-grams cover more than `threshold` of the words of one question. 0 and n-grams of 8 words
    are the rule of open-r1; 0.5 and 8 words that of Tulu 3; 0 and 13 words that of GPT-3. Excluded rows are counted by
    the evaluation set of the question that they repeat most of.

    Cost: no model; one pass over the text.

    >>> from hf_datasel.scores import Contamination
    >>> Decontaminate(Contamination({"exam": "exam.txt"}), threshold=0.5).by.n
    8

    Args:
        by: `Contamination(...)`, which names the questions, or the column that it wrote; the column with the suffix
            `_match` is read too.
        threshold: Share of a question's words, from 0 to below 1, above which a row is excluded. With 0 one shared
            n-gram is enough.
    """

    by: str | Contamination = "contamination"
    threshold: float = 0.0

    citation = Contamination.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "Contamination")
        check_number(self, "threshold", 0, 1)
        if self.threshold == 1:
            raise ConfigError("Decontaminate(threshold=1) excludes no row: it has to be below 1.")

    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows that repeat no evaluation question, and count the others as excluded."""
        shares, matches = self._overlap(context, rows)
        has_share = ~np.isnan(shares)
        context.exclude(f"without {column_name(self.by)}", rows[~has_share])
        is_contaminated = shares.astype(np.float32) > np.float32(self.threshold)
        names = np.array([match.rpartition(":")[0] for match in matches[is_contaminated]], dtype=np.str_)
        for name in np.unique(names).tolist():
            context.exclude(f"contaminated with {name}", rows[is_contaminated][names == name])
        result: np.ndarray = rows[has_share & ~is_contaminated]
        return result

    def describe(self) -> str:
        """Return which rows are kept, in a few words."""
        sets = "" if isinstance(self.by, str) else f" with {', '.join(self.by.questions)}"
        return f"{column_name(self.by)}{sets} <= {self.threshold:g}"

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the question that the row repeats."""
        shares, matches = self._overlap(context, np.array([row]))
        if np.isnan(shares[0]):
            return []
        name, _, number = matches[0].rpartition(":")
        return [f"Its n-grams cover {shares[0]:.0%} of the words of question {number} of {name}."]

    def _overlap(self, context: RoundContext, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the highest share of each row, NaN for a row without one, and its match, such as `"gsm8k:17"`."""
        name = column_name(self.by)
        if isinstance(self.by, str):
            shares = context.column(name, rows)
            matches = context.read_columns([f"{name}_match"]).select(rows)[f"{name}_match"]
            return shares, np.array([match or "" for match in matches], dtype=object)
        columns = context.score(self.by, rows)
        return columns[name].astype(np.float64), columns[f"{name}_match"]
