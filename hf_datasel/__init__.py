"""Decide which rows of an instruction dataset are worth training on.

One line of data flow: dataset -> scores -> selection -> training. Names are imported when they are first used, so that
`import hf_datasel` is instant and loads neither torch nor trl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_datasel.errors import DataselError
    from hf_datasel.formats import load_pool
    from hf_datasel.scores import score
    from hf_datasel.selection import Between, Selection, select, select_streaming
    from hf_datasel.training import SelectiveSFTConfig, SelectiveSFTTrainer

__version__ = "0.1.0"

_HOME = {
    "Between": "hf_datasel.selection",
    "DataselError": "hf_datasel.errors",
    "Selection": "hf_datasel.selection",
    "SelectiveSFTConfig": "hf_datasel.training",
    "SelectiveSFTTrainer": "hf_datasel.training",
    "load_pool": "hf_datasel.formats",
    "score": "hf_datasel.scores",
    "select": "hf_datasel.selection",
    "select_streaming": "hf_datasel.selection",
}

__all__ = [
    "Between",
    "DataselError",
    "Selection",
    "SelectiveSFTConfig",
    "SelectiveSFTTrainer",
    "__version__",
    "load_pool",
    "score",
    "select",
    "select_streaming",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'hf_datasel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
