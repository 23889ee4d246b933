"""Overlap of rows with evaluation questions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, ScoreError, check_option
from hf_datasel.formats import Part
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.contamination import QuestionIndex, compare_rows, describe_questions
from hf_datasel.scoring.question_sets import checked_sources, read_questions
from hf_datasel.scoring.setting_files import FILE
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Contamination"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contamination(Score):
    """Share of the words of an evaluation question that the row repeats in n-grams: 0 for a row that shares none.

    The n-grams of the row are compared with those of every question, and the highest share of one question counts.
    Words are compared without case and punctuation; prompt and responses both count. A question with fewer than `n`
    words shares no n-gram with any row: a warning counts such questions, and so does the card of a selection.
    Paraphrases and translations are not found.

    The selector `Chain` with the filter `Decontaminate` excludes rows by this score. Shares above 0 with 8 words are
    the rule of open-r1, and with 13 words that of GPT-3; shares above 0.5 with 8 words are the rule of Tulu 3.

    Reads any supported row format with text. Writes `contamination` (float32, 0 to 1); `contamination_match`, the
    evaluation set and the number of the question with the highest share, from 0 (`"gsm8k:17"`), "" for none; and
    `contamination_reason` ("" for a row with a value). Cost: no model; one pass over the text.

    Reference: Lambert et al. 2024 (2411.15124, Tulu 3), section 3.2; `scripts/decontaminate.py` of
    huggingface/open-r1; Brown et al. 2020 (2005.14165, GPT-3), appendix C. Tulu 3 and open-r1 compare prompts only.
    Words differ: open-r1 splits at white space and keeps punctuation, Tulu 3 splits with spaCy.

    Args:
        questions: Where the questions of each evaluation set are, by the name of the set: a path or Hub id, or a dict
            with `dataset_name` and, where needed, `dataset_config`, `dataset_split` ("test" by default, which a file
            does not need), `dataset_revision`, and `columns`, a list of the columns with the text of a question.
            Without `columns`, the question is the prompt of a row in a supported format. A .txt file has one question
            per line.
        n: Number of words of an n-gram.
        part: Part of the row that is compared: `"prompt"`, `"response"` or `"both"`.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Contamination({"gsm8k": {"dataset_name": "openai/gsm8k", "columns": ["question"]}}, n=13).n
    13
    """

    questions: dict[str, Any] = field(metadata=FILE)
    n: int = field(default=8, kw_only=True)
    part: Part = field(default="both", kw_only=True)

    citation = (
        "@article{lambert2024tulu3, title={Tulu 3: Pushing Frontiers in Open Language Model Post-Training}, "
        "author={Lambert, Nathan and Morrison, Jacob and Pyatkin, Valentina and Huang, Shengyi and Ivison, Hamish and "
        "others}, journal={arXiv preprint arXiv:2411.15124}, year={2024}}"
    )

    is_flaw = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "questions", checked_sources(self.questions, "Contamination"))
        if type(self.n) is not int or self.n < 1:
            raise ConfigError(f"Contamination(n={self.n!r}): it has to be an int of at least 1.")
        check_option(f"Contamination(part={self.part!r})", self.part, get_args(Part))

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        names = ("contamination_match", "contamination_reason")
        return {"contamination": pa.float32(), **dict.fromkeys(names, pa.string())}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the number and a digest of the questions of each set."""
        return {**super().spec(), "resolved_questions": self._index.checked}

    def _identity(self) -> str:
        return ":".join([super()._identity(), *(numbers["sha256"] for numbers in self._index.checked.values())])

    @cached_property
    def _index(self) -> QuestionIndex:
        texts = {name: read_questions(name, source) for name, source in self.questions.items()}
        index = QuestionIndex(texts, self.n)
        if all(numbers["questions"] == numbers["too_short"] for numbers in index.checked.values()):
            raise ScoreError(
                f"Contamination(n={self.n}) can check no question: none of {', '.join(texts)} has {self.n} words. "
                "Lower n, or name other columns."
            )
        for sentence in describe_questions(index.checked, self.n)[1:]:
            logger.warning("Contamination: %s", sentence)
        return index

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        shares, questions, reasons = compare_rows(self._index, rows.pool, self.part, rows.indices)
        best = np.arange(len(shares)), shares.argmax(axis=1)
        names = np.array(self._index.names, dtype=object)[best[1]]
        matches = [
            f"{name}:{number}" if number >= 0 else "" for name, number in zip(names, questions[best], strict=True)
        ]
        return {
            "contamination": pa.array(shares[best], pa.float32(), mask=np.array(reasons, dtype=np.str_) != ""),
            "contamination_match": pa.array(matches, pa.string()),
            "contamination_reason": pa.array(reasons, pa.string()),
        }
