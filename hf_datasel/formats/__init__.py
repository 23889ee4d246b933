"""Row formats of instruction datasets, and the pool of rows to select from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.formats.convert import alpaca_prompt as alpaca_prompt, convert_pool as convert_pool
    from hf_datasel.formats.pool import POOL_ROW as POOL_ROW, Pool as Pool, load_pool as load_pool
    from hf_datasel.formats.rows import (
        FORMATS as FORMATS,
        Batch as Batch,
        Part as Part,
        Row as Row,
        Turn as Turn,
        canonical_rows as canonical_rows,
        detect_format as detect_format,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
