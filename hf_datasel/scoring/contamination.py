"""Contamination: rows that share n-grams of words with evaluation questions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from hf_datasel.errors import ConfigError, FormatError, check_option
from hf_datasel.formats import Part, Pool
from hf_datasel.formats.words import comparable_words

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ContaminatedRows", "QuestionIndex", "compare_rows", "contaminated_rows", "describe_questions"]

_TEXTS_PER_BLOCK = 1_000
_MAX_MATCHES = 4_000_000
"""Number of pairs of an n-gram of a text and its occurrence in a question that are in memory at the same time."""


@dataclass(frozen=True, eq=False)
class ContaminatedRows:
    """Rows that share n-grams of words with evaluation questions; see `contaminated_rows`.

    Args:
        rows: Numbers of the contaminated rows, int64, ascending.
        by_set: Numbers of the rows that each evaluation set contaminates, int64, ascending. A row may be in several.
        shares: For each row of the pool and each set, the highest share of the words of one question that n-grams of
            the row cover, float32 of shape (rows, sets).
        questions: The question with that share, by its position in the set, int64 of shape (rows, sets); -1 if no
            question shares an n-gram with the row.
        checked: For each set the number of `questions`, of those `too_short` to be checked, which have fewer than n
            words, and the `sha256` of their words.
        n: Number of words of an n-gram.
        threshold: Share of a question's words above which a row is contaminated.
    """

    rows: np.ndarray
    by_set: dict[str, np.ndarray]
    shares: np.ndarray
    questions: np.ndarray
    checked: dict[str, dict[str, Any]]
    n: int
    threshold: float

    def __str__(self) -> str:
        counts = ", ".join(f"{len(rows):,} with {name}" for name, rows in self.by_set.items())
        return f"{len(self.rows):,} of {len(self.shares):,} rows are contaminated ({counts}). " + " ".join(
            describe_questions(self.checked, self.n)
        )


def contaminated_rows(
    pool: Pool | Dataset,
    questions: Mapping[str, Sequence[str]],
    n: int = 8,
    threshold: float = 0.0,
    part: Part = "both",
) -> ContaminatedRows:
    """Find the rows that share n-grams of words with evaluation questions.

    A row is contaminated if its n-grams cover more than `threshold` of the words of one question. With 0, one shared
    n-gram is enough, as in open-r1 (8 words) and GPT-3 (13 words; Brown et al. 2020, 2005.14165, appendix C); 0.5 with
    8 words is the rule of Tulu 3 (Lambert et al. 2024, 2411.15124, section 3.2). These compare prompts only, while
    here the responses count too, unless `part` says otherwise. Words are compared without case and punctuation (see
    `hf_datasel.formats.words.comparable_words`). Paraphrases and translations are not found.

    A question with fewer than `n` words shares no n-gram with any row: such questions are counted in
    `ContaminatedRows.checked`, and in `str(result)`.

    Cost: no model. The n-grams of the questions are in memory, about 40 bytes for each of their words; the rows are
    read once, in blocks.

    Args:
        pool: Rows in any supported format with text.
        questions: Texts of the questions of each evaluation set, without the instructions and examples that all
            prompts of a set share: they would be found in every row with the same instructions.
        n: Number of words of an n-gram.
        threshold: Share of a question's words, from 0 to below 1.
        part: Part of the rows that is compared: `"prompt"`, `"response"` or `"both"`.

    Raises:
        ConfigError: `n`, `threshold` or `part` has a value that it cannot have.
        FormatError: The rows are tokenized already, or have only a text column and `part` is not `"both"`.
    """
    if type(threshold) not in (int, float) or not 0 <= threshold < 1:
        raise ConfigError(f"threshold={threshold!r}: it has to be a number from 0 to below 1.")
    pool = pool if isinstance(pool, Pool) else Pool(pool)
    index = QuestionIndex(questions, n)
    shares, matches, _ = compare_rows(index, pool, part)
    contaminated = shares > np.float32(threshold)
    return ContaminatedRows(
        rows=np.flatnonzero(contaminated.any(axis=1)),
        by_set={name: np.flatnonzero(contaminated[:, number]) for number, name in enumerate(index.names)},
        shares=shares,
        questions=matches,
        checked=index.checked,
        n=n,
        threshold=threshold,
    )


def compare_rows(
    index: QuestionIndex, pool: Pool, part: Part, indices: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Compare rows with all questions, in one pass over the rows.

    Args:
        index: Index of the questions.
        pool: The rows.
        part: Part of the rows that is compared.
        indices: Row numbers, in this order; all rows by default.

    Returns:
        Shares and positions of questions, as from `QuestionIndex.compare`, and the reason of each row that cannot be
        used, "" for the others. A row that cannot be used shares nothing.

    Raises:
        ConfigError: There is no such part.
        FormatError: The rows are tokenized already, or have only a text column and `part` is not `"both"`.
    """
    check_option(f"part={part!r}", part, get_args(Part))
    if pool.format == "text" and part != "both":
        raise FormatError(f"Rows with only a text column have no {part} to compare. Pass part='both'.")
    reasons: list[str] = []

    def texts() -> Iterator[str]:
        for row in pool.rows(indices):
            reasons.append(row.reason)
            yield "" if row.reason else row.text(part)

    shares, questions = index.compare(texts())
    return shares, questions, reasons


def describe_questions(checked: Mapping[str, Mapping[str, Any]], n: int) -> list[str]:
    """Return a sentence on the questions that rows were compared with, and one on those that are too short.

    Args:
        checked: Number of `questions` and of those `too_short`, for each evaluation set.
        n: Number of words of an n-gram.

    >>> describe_questions({"gsm8k": {"questions": 1319, "too_short": 12}}, 8)[1]
    'Questions with fewer than 8 words were not checked: 12 of gsm8k.'
    """
    compared = [f"{part['questions'] - part['too_short']:,} of {name}" for name, part in checked.items()]
    short = [f"{part['too_short']:,} of {name}" for name, part in checked.items() if part["too_short"]]
    sentences = [f"Rows were compared with evaluation questions by {n}-grams of words: {', '.join(compared)}."]
    if short:
        sentences.append(f"Questions with fewer than {n} words were not checked: {', '.join(short)}.")
    return sentences


class QuestionIndex:
    """Index of the n-grams of evaluation questions.

    Args:
        questions: Texts of the questions of each evaluation set.
        n: Number of words of an n-gram.

    Attributes:
        names: Names of the evaluation sets.
        checked: For each set the number of `questions`, of those `too_short`, and the `sha256` of their words.

    Raises:
        ConfigError: `n` is not an int of at least 1.
    """

    def __init__(self, questions: Mapping[str, Sequence[str]], n: int = 8):
        if type(n) is not int or n < 1:
            raise ConfigError(f"n={n!r}: it has to be an int of at least 1, the number of words of an n-gram.")
        self.n, self.names, self.checked = n, list(questions), dict[str, dict[str, Any]]()
        self._word_ids: dict[str, int] = {}
        """Number of each word of the questions."""
        set_of, number, lengths, ids = list[int](), list[int](), list[int](), list[int]()
        for set_number, (name, texts) in enumerate(questions.items()):
            digest, too_short = hashlib.sha256(), 0
            for position, text in enumerate(texts):
                words = comparable_words(text)
                digest.update(f"{' '.join(words)}\n".encode("utf-8", "surrogatepass"))
                if len(words) < n:
                    too_short += 1
                    continue
                set_of.append(set_number)
                number.append(position)
                lengths.append(len(words))
                ids += [self._word_ids.setdefault(word, len(self._word_ids)) for word in words]
            self.checked[name] = {"questions": len(texts), "too_short": too_short, "sha256": digest.hexdigest()}
        self._set_of, self._number, self._lengths = (
            np.array(values, dtype=np.int64) for values in (set_of, number, lengths)
        )
        self._owner = np.repeat(np.arange(len(lengths)), self._lengths)
        self._tables: list[np.ndarray] = []
        """Sorted codes of the n-grams of 2, 4, 8 ... n words, each the code of a pair of shorter ones."""
        codes = self._codes(_joined(np.array(ids, dtype=np.int64), self._lengths), build=True)
        positions = np.flatnonzero(codes >= 0)
        positions = positions[np.argsort(codes[positions], kind="stable")]
        self._starts = np.searchsorted(codes[positions], np.arange(len(self._tables[-1]) + 1))
        self._positions = positions - np.repeat(np.arange(len(lengths)), self._lengths + 1)[positions]

    def compare(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Compare texts with all questions.

        Args:
            texts: The texts; they are read once.

        Returns:
            For each text and evaluation set the highest share of the words of one question that n-grams of the text
            cover, float32 of shape (texts, sets), and the position of this question in its set, int64, -1 where the
            share is 0. Ties go to the earlier question.
        """
        remaining, parts = iter(texts), []
        while block := list(islice(remaining, _TEXTS_PER_BLOCK)):
            parts.append(self._compare([comparable_words(text) for text in block]))
        if not parts:
            return np.empty((0, len(self.names)), np.float32), np.empty((0, len(self.names)), np.int64)
        shares, questions = zip(*parts, strict=True)
        return np.concatenate(shares), np.concatenate(questions)

    def _compare(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.array([len(words) for words in texts])
        get = self._word_ids.get
        ids = [word_id for words in texts for word_id in map(get, words, repeat(-1))]
        codes = self._codes(_joined(np.array(ids, dtype=np.int64), lengths))
        found = np.flatnonzero(codes >= 0)
        text_of = np.repeat(np.arange(len(texts)), lengths + 1)[found]
        shared = np.unique(text_of * np.int64(len(self._starts)) + codes[found])
        text_of, ngrams = np.divmod(shared, len(self._starts))
        counts = self._starts[ngrams + 1] - self._starts[ngrams]
        if counts.sum() > _MAX_MATCHES and len(texts) > 1:
            half = len(texts) // 2
            first, second = self._compare(texts[:half]), self._compare(texts[half:])
            return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = self._positions[np.repeat(self._starts[ngrams], counts) + within]
        return self._best(np.repeat(text_of, counts), positions, len(texts))

    def _best(self, text_of: np.ndarray, positions: np.ndarray, num_texts: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the highest share and its question, from the occurrences of shared n-grams in the questions."""
        num_sets = len(self.names)
        shares = np.zeros((num_texts, num_sets), dtype=np.float32)
        best = np.full((num_texts, num_sets), -1, dtype=np.int64)
        if not len(positions):
            return shares, best
        order = np.lexsort((positions, text_of))
        text_of, positions = text_of[order], positions[order]
        owner = self._owner[positions]
        is_last = np.append((np.diff(text_of) != 0) | (np.diff(owner) != 0), True)
        covered = np.where(is_last, self.n, np.minimum(np.append(np.diff(positions), 0), self.n))
        ends = np.flatnonzero(is_last)
        words = np.add.reduceat(covered, np.append(0, ends[:-1] + 1))
        text_of, owner = text_of[ends], owner[ends]
        share = (words / self._lengths[owner]).astype(np.float32)
        order = np.lexsort((-owner, share))  # the best one is written last
        cells = text_of[order], self._set_of[owner[order]]
        shares[cells], best[cells] = share[order], self._number[owner[order]]
        return shares, best

    def _codes(self, words: np.ndarray, build: bool = False) -> np.ndarray:
        """Return a number for the n-gram that starts at each word, -1 where there is none or no question has it.

        Equal numbers mean equal n-grams. N-grams of 2, 4, 8 ... words are numbered as pairs of shorter ones, and those
        of n words as pairs that overlap.

        Args:
            words: Ids of words, -1 for words that no question has and after each text.
            build: Whether to number the n-grams of these words, instead of looking them up.
        """
        codes, length = words, 1
        sizes = [2**power for power in range(1, self.n.bit_length()) if 2**power < self.n] + [self.n]
        for level, size in enumerate(sizes):
            shift = size - length
            left, right = (codes[:-shift], codes[shift:]) if shift else (codes, codes)
            previous = len(self._tables[level - 1]) if level else len(self._word_ids)
            valid = (left >= 0) & (right >= 0)
            pairs = left[valid] * np.int64(previous) + right[valid]
            if build:
                self._tables.append(np.unique(pairs))
            table = self._tables[level]
            positions = np.minimum(np.searchsorted(table, pairs), len(table) - 1)
            codes = np.full(len(words), -1, dtype=np.int64)
            codes[: len(left)][valid] = np.where(table[positions] == pairs, positions, -1)
            length = size
        return codes


def _joined(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the ids of the words of texts one after the other, with -1 after each text."""
    joined = np.full(len(ids) + len(lengths), -1, dtype=np.int64)
    joined[np.arange(len(ids)) + np.repeat(np.arange(len(lengths)), lengths)] = ids
    return joined
