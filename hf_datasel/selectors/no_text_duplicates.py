"""Filter: no near-duplicates of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import numpy as np

from hf_datasel.errors import check_option
from hf_datasel.formats import Part
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_name
from hf_datasel.rounds.views import group_names
from hf_datasel.scores import Duplicates
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.text_hashes import hash_words
from hf_datasel.strategies.min_hash import band_layout
from hf_datasel.strategies.text_duplicates import TextDuplicates, find_text_duplicates, text_duplicate_of

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["NoTextDuplicates"]


@dataclass(frozen=True)
class NoTextDuplicates(RowFilter):
    """Of rows whose texts have a Jaccard similarity of at least `threshold`, only the one with the highest `by`.

    The similarity of two texts is the number of n-grams of words that both have, divided by the number that either
    has.

    Rows are processed from the highest value down, without `by` in dataset order, and each is kept unless it is a
    near-duplicate of a row that was kept before. Ties go to the lower row number. Rows without a value of `by` are
    excluded. To keep the row that the next step of a `Chain` prefers, use its score, as in
    `Chain([NoTextDuplicates(by="ifd")], Top(by="ifd"))`.

    Words are compared in lower case and in the Unicode form NFKC. White space and punctuation do not count, but for
    hyphens, the signs %&*/@# and the backslash, and symbols such as + < = $, which change the meaning of code and
    formulas. In scripts without spaces, words are segments between Unicode word boundaries. Rows with the same words
    are always found, and counted as exact duplicates. A row of fewer than `ngram` words is a duplicate only of a row
    with the same words.

    Candidates are found by MinHash and then compared by their n-grams: every excluded row has the similarity, but a
    pair may be missed. The probability is at most 1% for a pair at the threshold, and with the default settings 0.2%
    at 0.8, 0.005% at 0.85 and 0.00001% at 0.9 (`hf_datasel.strategies.min_hash.miss_probability`). The hash functions
    are fixed: the same rows are excluded on every machine and by any number of processes.

    Cost: no model. Texts are read in blocks, those of candidates twice. Memory is 8 bytes per row and band of hashes
    (21 bands by default), and 8 bytes per n-gram of the candidates. On 100,000 made-up rows of 70 words, an eighth of
    them near-duplicates, it was 0.5 kB per row, and 15,000 rows per second on one core, besides reading the rows. Both
    grow in proportion to the rows, but the time also with the square of a group of rows just below the threshold.

    Reference: Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022 (2107.06499), whose
    5-grams and threshold of 0.8 are the defaults. They use 9,000 hash functions and FineWeb (2406.17557) 112, in 14
    bands of 8; both exclude all but one row of a connected group, with rows that are near-duplicates of an excluded
    row only.

    >>> NoTextDuplicates(threshold=0.7, part="prompt", by="ifd").ngram
    5

    Args:
        threshold: Jaccard similarity, above 0 and up to 1, from which on two rows are near-duplicates. With 1, only
            rows with the same words are.
        ngram: Number of words of an n-gram.
        part: Part of the row that is compared: `"prompt"`, `"response"` or `"both"`.
        num_perm: Number of hash functions. More find more pairs, and take more time and memory.
        by: Column or score that decides which of two near-duplicates is kept; None keeps the one with the lower row
            number.
    """

    threshold: float = 0.8
    ngram: int = field(default=5, kw_only=True)
    part: Part = field(default="both", kw_only=True)
    num_perm: int = field(default=128, kw_only=True)
    by: str | Score | None = field(default=None, kw_only=True)

    citation = Duplicates.citation

    def __post_init__(self) -> None:
        check_number(self, "threshold", 0, 1, exclude_low=True)
        check_number(self, "ngram", 1, integer=True)
        check_number(self, "num_perm", 1, integer=True)
        check_option(f"NoTextDuplicates(part={self.part!r})", self.part, get_args(Part))
        if self.by is not None:
            check_source(self, "by")
        if self.threshold < 1:
            band_layout(self.threshold, self.num_perm)

    def reads_text(self) -> tuple[Part, ...]:
        """Return the part of the rows that is compared."""
        return (self.part,)

    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows that are no near-duplicate of a better one, ascending."""
        rows, order = self._compared(context, rows)

        def find() -> TextDuplicates:
            with context.progress_bar(len(rows), "row") as bar:
                return find_text_duplicates(
                    lambda positions: hash_words(context.texts(self.part, rows[positions])),
                    order,
                    self.threshold,
                    self.ngram,
                    self.num_perm,
                    progress=lambda done: bar.update(done - bar.n),
                )

        duplicates = Processes.current().run_on_main_process(find)
        is_kept = duplicates.kept == np.arange(len(rows))
        context.exclude(f"exact duplicates by {self._noun}", rows[duplicates.exact])
        context.exclude(f"near-duplicates by {self._noun}", rows[~is_kept & ~duplicates.exact])
        if not group_names(context):  # groups of rows share the notes
            sizes = Counter(np.bincount(duplicates.kept, minlength=1)[duplicates.kept[is_kept]].tolist())
            groups = {str(size): count for size, count in sorted(sizes.items()) if size > 1}
            notes = context.record.notes
            notes["duplicate_groups"] = {**notes.get("duplicate_groups", {}), self._noun: groups}
        kept: np.ndarray = rows[is_kept]
        return kept

    def describe(self) -> str:
        """Return which rows are kept, in a few words."""
        text = "text" if self.part == "both" else self.part
        kept = "" if self.by is None else f", highest {column_name(self.by)} kept"
        return f"no near-duplicates by {text} (similarity of {self.ngram}-grams >= {self.threshold:g}{kept})"

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the row that this row is a near-duplicate of."""
        rows, order = self._compared(context, kept_rows)
        own = hash_words(context.texts(self.part, np.array([row])))
        duplicate = text_duplicate_of(
            lambda positions: hash_words(context.texts(self.part, rows[positions])),
            order,
            own,
            self.threshold,
            self.ngram,
        )
        if duplicate is None:
            return []
        other, similarity = rows[duplicate[0]], duplicate[1]
        sentence = (
            f"The {self.ngram}-grams of its {self._noun} have a Jaccard similarity of {similarity:.4g} with those of "
            f"row {context.row_number(other):,}"
        )
        if self.by is None:
            return [f"{sentence}, which comes first."]
        values = context.values(self.by, np.array([other, row]))
        return [f"{sentence}, whose {column_name(self.by)} is {values[0]:.5g}; its own is {values[1]:.5g}."]

    @property
    def _noun(self) -> str:
        return "text" if self.part == "both" else self.part

    def _compared(self, context: RoundContext, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows with a value of `by`, and their positions from the highest value to the lowest."""
        if self.by is None:
            return rows, np.arange(len(rows))
        values = context.values(self.by, rows)
        has_value = np.isfinite(values)
        context.exclude(f"without {column_name(self.by)}", rows[~has_value])
        return rows[has_value], np.argsort(-values[has_value], kind="stable")
