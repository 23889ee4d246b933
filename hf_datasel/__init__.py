"""Decide which rows of an instruction dataset are worth training on.

One line of data flow: dataset -> scores -> selection -> training. Names are imported when they are first used, so that
`import hf_datasel` is instant and loads neither torch nor trl.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.errors import DataselError as DataselError
    from hf_datasel.formats.files import load_pool as load_pool
    from hf_datasel.scoring.score_rows import score as score
    from hf_datasel.selection.filters import Between as Between
    from hf_datasel.selection.result import Selection as Selection
    from hf_datasel.selection.select_rows import select as select
    from hf_datasel.selection.streaming import select_streaming as select_streaming
    from hf_datasel.training.config import SelectiveSFTConfig as SelectiveSFTConfig
    from hf_datasel.training.trainer import SelectiveSFTTrainer as SelectiveSFTTrainer

__version__ = "0.1.0"


def _is_not_about_4bit_kernels(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


# TRL and transformers import PEFT, and PEFT imports bitsandbytes, also where nothing is quantized. On CPUs with
# AVX512-BF16 bitsandbytes then warns that an optional kernel for 4-bit weights is not installed.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_not_about_4bit_kernels)

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
