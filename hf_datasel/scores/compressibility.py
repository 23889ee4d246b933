"""How well rows compress."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, did_you_mean
from hf_datasel.formats import Part
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Compressibility"]


@dataclass(frozen=True)
class Compressibility(Score):
    """Bytes of the row's text over its bytes compressed by zlib: the more it repeats itself, the higher.

    Each row is compressed alone, as UTF-8. Short texts can be below 1, since the compressed form has a header.

    Reads any supported row format; rows with only a text column with `part="both"`. Writes `compressibility` (float32)
    and `compressibility_reason` ("" for a row with a value). Cost: no model; one pass of zlib over the text.
    Reference: Yin et al. 2024 (2407.06645), who keep the rows with the lowest ratio, of the whole row written as a
    Python dict; here it is of the text alone. The build of zlib decides the numbers too, and is in the spec.

    >>> found = Compressibility()({"prompt": ["Sing."] * 2, "completion": ["la " * 99, "Sphinx of quartz!"]})
    >>> [bool(value > 1) for value in found["compressibility"]], found["compressibility_reason"]
    ([True, False], ['', ''])
    """

    part: Part = "both"
    """Of the row: `"prompt"`, `"response"`, or both with a newline between."""
    level: int = field(default=9, kw_only=True)
    """Of zlib: from 1, the fastest, to 9, the most thorough, which the paper's code takes."""

    citation = (
        "@article{yin2024entropy, title={Entropy Law: The Story Behind Data Compression and LLM Performance}, "
        "author={Yin, Mingjia and Wu, Chuhan and Wang, Yufei and Wang, Hao and Guo, Wei and Wang, Yasheng and "
        "Liu, Yong and Tang, Ruiming and Lian, Defu and Chen, Enhong}, "
        "journal={arXiv preprint arXiv:2407.06645}, year={2024}}"
    )

    def __post_init__(self) -> None:
        parts = list(get_args(Part))
        if self.part not in parts:
            hint = did_you_mean(str(self.part), parts)
            raise ConfigError(f"Compressibility(part={self.part!r}): it has to be one of {parts}.{hint}")
        if type(self.level) is not int or not 1 <= self.level <= 9:
            raise ConfigError(f"Compressibility(level={self.level!r}): it has to be an int from 1 to 9.")

    def columns(self) -> dict[str, pa.DataType]:
        return {"compressibility": pa.float32(), "compressibility_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), "zlib": zlib.ZLIB_RUNTIME_VERSION}

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        part = self.part
        if rows.pool.format == "text":
            if part != "both":
                raise FormatError(f"Rows with only a text column have no {part} to compress. Pass part='both'.")
            part = "prompt"  # where such a row has its text, with no empty line for the response
        ratios: list[float | None] = []
        reasons = []
        for row in rows.pool.rows(rows.indices):
            text = "" if row.reason else row.text(part)
            empty = not text.strip()
            ratios.append(None if empty else self._ratio(text.encode("utf-8")))
            reasons.append(row.reason or (f"empty_{part}" if empty else ""))
        values = pa.array(ratios, pa.float32()), pa.array(reasons, pa.string())
        return dict(zip(self.columns(), values, strict=True))

    def _ratio(self, content: bytes) -> float:
        return len(content) / len(zlib.compress(content, self.level))

    def _identity(self) -> str:
        return f"{super()._identity()}:{zlib.ZLIB_RUNTIME_VERSION}"
