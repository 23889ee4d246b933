"""Row formats: the only code in the package that knows what columns a dataset may have."""

from hf_datasel.formats.convert import alpaca_prompt, converted
from hf_datasel.formats.pool import POOL_ROW, Pool, load_pool
from hf_datasel.formats.rows import FORMATS, Batch, Part, Row, Turn, canonical_rows, detect_format

__all__ = [
    "FORMATS",
    "POOL_ROW",
    "Batch",
    "Part",
    "Pool",
    "Row",
    "Turn",
    "alpaca_prompt",
    "canonical_rows",
    "converted",
    "detect_format",
    "load_pool",
]
