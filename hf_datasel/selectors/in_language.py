"""Filter: rows in some languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import RowFilter, check_number, check_source
from hf_datasel.rounds.views import full_round
from hf_datasel.scores import Language
from hf_datasel.scoring.languages import LANGUAGES, suggest_language
from hf_datasel.scoring.numbers import at_least

__all__ = ["InLanguage"]

_MAX_REASONS = 10


@dataclass(frozen=True)
class InLanguage(RowFilter):
    """Rows whose most probable language is one of some languages.

    Excluded rows are counted by their language: the ten most frequent ones by name, the others together. Short texts,
    names, numbers and code get any language (see `Language`): with `part="response"` short answers are lost.

    Cost: no model but that of fastText.

    >>> InLanguage(["en", "de"], by="language").languages
    ('en', 'de')

    Args:
        languages: The languages, as the score or the column names them: ISO 639 codes such as `"en"` for `Language`.
        by: `Language(...)`, or a column of text such as the one that it wrote.
        threshold: Lowest probability that is kept, 0 to 1. Above 0 the column with the suffix `_probability` is read
            too.
    """

    languages: str | Sequence[str]
    by: str | Language = Language()
    threshold: float = field(default=0.0, kw_only=True)

    citation = Language.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "Language")
        check_number(self, "threshold", 0, 1)
        languages = [self.languages] if isinstance(self.languages, str) else self.languages
        if not isinstance(languages, list | tuple) or not languages or not all(map(_is_name, languages)):
            raise ConfigError(
                f"InLanguage(languages={self.languages!r}): it has to be a language or a list of them, such as ['en']."
            )
        object.__setattr__(self, "languages", tuple(languages))
        unknown = next((name for name in languages if name not in LANGUAGES), None)
        if unknown is not None and not isinstance(self.by, str):
            raise ConfigError(
                f"InLanguage(languages={self.languages!r}): {unknown!r} is none of the ISO 639 codes of Language, "
                f"such as 'en' or 'zh'.{suggest_language(unknown)}"
            )

    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows in the languages, and count the others as excluded."""
        languages, probabilities = self._languages(context, rows)
        is_known = languages != ""
        context.exclude(f"without {self._name}", rows[~is_known])
        self._warn_of_unknown(context)
        is_kept = np.isin(languages, np.array(self.languages, dtype=np.str_))
        others = Counter(languages[is_known & ~is_kept].tolist()).most_common(_MAX_REASONS)
        for language, _ in others:
            context.exclude(f"in language {language}", rows[languages == language])
        is_named = np.isin(languages, [language for language, _ in others])
        context.exclude("in another language", rows[is_known & ~is_kept & ~is_named])
        is_uncertain = is_kept & ~at_least(probabilities, self.threshold)
        context.exclude(f"with {self._name}_probability < {self.threshold:g}", rows[is_uncertain])
        result: np.ndarray = rows[is_kept & ~is_uncertain]
        return result

    def _warn_of_unknown(self, context: RoundContext) -> None:
        """Warn of each language that is no ISO 639 code and that no row of the pool is in, whatever its group."""
        if unknown := [name for name in self.languages if name not in LANGUAGES]:
            pool = full_round(context)
            languages, _ = self._languages(pool, np.arange(len(pool.pool)))
            for name in dict.fromkeys(unknown):
                if name not in languages:
                    hint = suggest_language(name)
                    context.warn_once(f"InLanguage: no row is in {name!r} by column {self._name!r}.{hint}")

    def describe(self) -> str:
        """Return which rows are kept, in a few words."""
        least = f" (probability >= {self.threshold:g})" if self.threshold else ""
        return f"{self._name} {' or '.join(self.languages)}{least}"

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return a sentence with the language of the row."""
        languages, probabilities = self._languages(context, np.array([row]))
        if not languages[0]:
            return []
        probability = f", with a probability of {probabilities[0]:.2f}" if np.isfinite(probabilities[0]) else ""
        return [f"Its language is {languages[0]}{probability}."]

    @property
    def _name(self) -> str:
        return self.by if isinstance(self.by, str) else f"{self.by.column_prefix}language"

    def _languages(self, context: RoundContext, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the language of each row, "" for none, and its probability; infinity where it does not matter."""
        probability = f"{self._name}_probability"
        if not isinstance(self.by, str):
            columns = context.score(self.by, rows)
            languages, probabilities = columns[self._name], columns[probability].astype(np.float64)
        else:
            languages = np.array(context.read_columns([self.by], record=[self.by]).select(rows)[self.by][:])
            has_probability = self.threshold > 0 or probability in context.pool.column_names
            probabilities = context.column(probability, rows) if has_probability else np.full(len(rows), np.inf)
        return np.array([language or "" for language in languages], dtype=np.str_), probabilities


def _is_name(language: object) -> bool:
    return isinstance(language, str) and bool(language)
