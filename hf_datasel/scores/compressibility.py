"""Compression ratio of rows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.formats import Part
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.row_texts import measure_texts
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Compressibility"]


@dataclass(frozen=True)
class Compressibility(Score):
    """Size of the row's text divided by its size compressed with zlib: higher for text that repeats itself.

    Each row is compressed alone, as UTF-8. Short texts can be below 1, because the compressed form has a header.

    Reads any supported row format; rows with only a text column with `part="both"`. Writes `compressibility` (float32)
    and `compressibility_reason` ("" for a row with a value). Cost: no model; one pass of zlib over the text.

    Reference: Yin et al. 2024 (2407.06645), who keep the rows with the lowest ratio, computed on the full row written
    as a Python dict; here it is computed on the text only. The version of zlib changes the numbers too, and is in the
    spec.

    Args:
        part: Part of the row: `"prompt"`, `"response"`, or `"both"` with a newline between them.
        level: Compression level of zlib, from 1 (fastest) to 9 (best), which the paper's code uses.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> columns = Compressibility()({"prompt": ["Sing."] * 2, "completion": ["la " * 99, "Sphinx of quartz!"]})
    >>> [bool(value > 1) for value in columns["compressibility"]], columns["compressibility_reason"]
    ([True, False], ['', ''])
    """

    part: Part = "both"
    level: int = field(default=9, kw_only=True)

    citation = (
        "@article{yin2024entropy, title={Entropy Law: The Story Behind Data Compression and LLM Performance}, "
        "author={Yin, Mingjia and Wu, Chuhan and Wang, Yufei and Wang, Hao and Guo, Wei and Wang, Yasheng and "
        "Liu, Yong and Tang, Ruiming and Lian, Defu and Chen, Enhong}, "
        "journal={arXiv preprint arXiv:2407.06645}, year={2024}}"
    )

    def __post_init__(self) -> None:
        check_option(f"Compressibility(part={self.part!r})", self.part, get_args(Part))
        if type(self.level) is not int or not 1 <= self.level <= 9:
            raise ConfigError(f"Compressibility(level={self.level!r}): it has to be an int from 1 to 9.")

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"compressibility": pa.float32(), "compressibility_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the version of zlib."""
        return {**super().spec(), "zlib": zlib.ZLIB_RUNTIME_VERSION}

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        return measure_texts(self, rows, self.part, lambda text, row: [self._ratio(text)])

    def _ratio(self, text: str) -> float:
        content = text.encode("utf-8")
        return len(content) / len(zlib.compress(content, self.level))

    def _identity(self) -> str:
        return f"{super()._identity()}:{zlib.ZLIB_RUNTIME_VERSION}"
