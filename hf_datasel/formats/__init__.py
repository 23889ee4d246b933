"""Row formats of instruction datasets, and the pool of rows to select from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.formats.convert import alpaca_prompt as alpaca_prompt, convert_pool as convert_pool
    from hf_datasel.formats.files import load_pool as load_pool
    from hf_datasel.formats.layouts import (
        FORMATS as FORMATS,
        Layout as Layout,
        detect_format as detect_format,
        row_columns as row_columns,
        row_layout as row_layout,
    )
    from hf_datasel.formats.pool import POOL_ROW as POOL_ROW, Pool as Pool
    from hf_datasel.formats.readers import canonical_rows as canonical_rows
    from hf_datasel.formats.rows import Batch as Batch, Part as Part, Row as Row, Turn as Turn

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
